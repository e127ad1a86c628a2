"""The page in a real browser, where one is installed: the script sorts, and nothing complains."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# The page forbids scripts that are not its own, so the copy under test is freed of that rule first.
PROBE = """<script>
const names = () => Array.from(document.querySelectorAll("#times tbody tr")).map((r) => r.cells[0].textContent.trim());
const head = Array.from(document.querySelectorAll("#times th[data-col]")).find((h) => h.dataset.title === "TPOT");
const before = names();
head.querySelector("button").click(); const down = names(); const first = head.getAttribute("aria-sort");
head.querySelector("button").click(); const up = names(); const second = head.getAttribute("aria-sort");
document.body.dataset.probe = JSON.stringify({before, down, up, first, second,
  same: JSON.stringify(down) === JSON.stringify(up.slice().reverse()),
  wide: document.documentElement.scrollWidth > document.documentElement.clientWidth});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium installed")
def test_sorting_and_console(quick_html: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", quick_html).replace(
        "</body>", PROBE + "</body>"
    )
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "as-is.html").write_text(quick_html, encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    seen = {}
    for name in ("page", "as-is"):
        command = [BROWSER, *options, "--window-size=500,900", "--dump-dom", (tmp_path / f"{name}.html").as_uri()]
        seen[name] = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in seen[name].stderr
    probe = re.search(r'data-probe="([^"]+)"', seen["page"].stdout)
    assert probe is not None
    text = probe[1].replace("&quot;", '"')
    assert '"first":"descending","second":"ascending","same":true,"wide":false' in text
