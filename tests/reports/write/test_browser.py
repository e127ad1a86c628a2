"""The page in a real browser, where one is installed: it sorts, nothing complains, nothing is asked of the network."""

from __future__ import annotations

import json
import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium installed")

PROBE = """<script>addEventListener("load", () => {
for (const fold of document.querySelectorAll("details")) fold.open = true;
const names = () => Array.from(document.querySelectorAll("#times tbody tr")).map((r) => r.cells[0].textContent.trim());
const head = Array.from(document.querySelectorAll("#times th[data-col]")).find((h) => h.dataset.title === "TPOT");
const down = () => { head.querySelector("button").click(); return [head.getAttribute("aria-sort"), names()]; };
const lone = Array.from(document.querySelectorAll("button, [tabindex]")).filter((e) => e.tabIndex < 0);
const drawn = Array.from(document.querySelectorAll("figure svg")).filter((s) => s.getBoundingClientRect().width);
document.body.dataset.probe = JSON.stringify({before: names(), first: down(), second: down(),
  wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  unreachable: lone.length, figures: drawn.length, empty: drawn.filter((s) => s.getBoundingClientRect().height < 40).length,
  paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(drawn[0]).fill,
  fetched: performance.getEntriesByType("resource").map((e) => e.name),
  shown: Array.from(document.querySelectorAll("#top thead tr:last-child th")).filter((h) => h.offsetWidth).length,
  tab: (() => { const i = document.querySelectorAll(".pick input")[1]; i.click();
    return document.querySelector(".tab:not(.off)").dataset.tab === i.value; })(),
  told: (() => { const p = document.querySelector(".plot"); p.focus();
    p.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
    return document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent; })(),
  family: (() => { const s = document.querySelector("select[data-filter=f]"); s.value = "exit";
    s.dispatchEvent(new Event("change"));
    const rows = document.querySelectorAll("#verdicts tbody tr:not([hidden])");
    return Array.from(rows).map((r) => r.dataset.m); })(),
  picked: (() => { document.querySelector("#verdicts tr[data-m=calm] > th").click();
    return [document.querySelectorAll("tr.picked").length, document.querySelectorAll("svg .picked").length]; })(),
  hover: document.querySelectorAll("figure svg g > title").length});
});</script>"""
LEAK = '<img src="http://leak.invalid/pixel.png" alt="">'

QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-domain-reliability", "--no-pings",
    "--disable-features=OptimizationHints,MediaRouter,Translate,NetworkTimeServiceQuerying",
)  # fmt: skip
_HOSTS = r"(?:www|update|accounts|clients\d*|safebrowsing|optimizationguide-pa|content-autofill)\.google(?:apis)?\.com"
BROWSERS_OWN = re.compile(rf"^[A-Z]+ (?:https?://)?(?:{_HOSTS}|[\w.-]*\.gvt1\.com)[:/]")
"""What Chromium asks of its makers whatever the page is."""


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[str]]]:
    """A port that takes every request the browser sends anywhere, refuses it, and keeps its first line."""
    asked: list[str] = []

    class Refuse(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode("latin-1").strip())
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def opened(page: Path, port: int, *options: str) -> tuple[str, str]:
    """The page's elements after its scripts ran, and what the browser wrote to its log."""
    assert BROWSER is not None
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *QUIET, profile, f"--proxy-server=http://127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>"]
    command += [*options, "--window-size=500,900", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_no_complaint_and_no_request(quick_html: str, tmp_path: Path, proxy: tuple[int, list[str]]) -> None:
    port, asked = proxy
    (tmp_path / "as-is.html").write_text(quick_html, encoding="utf-8")
    dom, log = opened(tmp_path / "as-is.html", port)
    assert 'id="verdicts"' in dom
    assert "CONSOLE" not in log
    assert not [line for line in asked if not BROWSERS_OWN.search(line)]


def test_sorting_schemes_and_hover(quick_html: str, tmp_path: Path, proxy: tuple[int, list[str]]) -> None:
    """The page forbids scripts that are not its own, so the copy under test is freed of that rule first."""
    port, asked = proxy
    page = tmp_path / "page.html"
    freed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", quick_html)
    page.write_text(freed.replace("</body>", LEAK + PROBE + "</body>"), encoding="utf-8")
    found: dict[str, dict[str, Any]] = {}
    for scheme, number in (("light", 1), ("dark", 0)):
        dom, log = opened(page, port, f"--blink-settings=preferredColorScheme={number}")
        assert not [line for line in log.splitlines() if "CONSOLE" in line and "leak.invalid" not in line]
        found[scheme] = json.loads(unescape(re.search(r'data-probe="([^"]+)"', dom)[1]))  # type: ignore[index]
    seen = found["light"]
    # Only what was planted, which shows that both ways of looking see what a page asks for.
    assert seen["fetched"] == ["http://leak.invalid/pixel.png"]
    assert any("leak.invalid" in line for line in asked)
    assert seen["first"][0] == "descending" and seen["second"][0] == "ascending"
    assert seen["first"][1] == seen["second"][1][::-1] != seen["before"]
    assert sorted(seen["first"][1]) == sorted(seen["before"])
    assert not seen["wide"] and not seen["unreachable"]
    assert seen["shown"] == 3, "a narrow screen shows the method and two numbers"
    assert seen["tab"] and "times (" in seen["told"]
    assert set(seen["family"]) == {"full", "calm"}
    assert min(seen["picked"]) > 1
    assert seen["figures"] >= 8 and not seen["empty"] and seen["hover"] > 100
    for key in ("paper", "ink"):
        assert found["light"][key] != found["dark"][key]
    brightness = {k: sum(map(int, re.findall(r"\d+", found["dark"][k]))) for k in ("paper", "ink")}
    assert found["light"]["paper"] == "rgb(255, 255, 255)"
    assert brightness["paper"] < 120 and brightness["ink"] > 600
