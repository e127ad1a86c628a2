"""The page: self-contained, the same every time, escaped, readable by a screen reader, and small."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reports.write.html import breakable
from reports.write.report import write_report
from tests.reports.page import Page
from tests.reports.synthetic import ARMS, write_run

HOSTILE = '<script>alert("x")</script>\x00\x1b]0;\u202egnp.exe\u2066 </td></table> {{ 7*7 }} $x_1$ & "quotes\' \ud800'
LONG_WORD = "A" * 10_000


def test_nothing_is_fetched(quick_html: str) -> None:
    page = Page(quick_html)
    for tag, attrs in page.elements:
        for key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            if key in attrs:
                beside = tag == "a" and attrs[key].startswith(("figures/", "tables/"))
                assert beside or attrs[key].startswith(("#", "data:")), (tag, attrs[key])
        assert not any(key.startswith("on") for key in attrs)
    assert not re.findall(r"@import|url\((?!#)", quick_html)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_only_its_own_script_may_run(quick_html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", quick_html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in quick_html


def test_the_markup_is_sound(quick_html: str) -> None:
    page = Page(quick_html)
    assert not page.unbalanced
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in page.all("a") if a.get("href", "").startswith("#")} | {
        (a.get("href") or a["xlink:href"])[1:] for a in page.all("use")
    }
    assert targets <= set(ids)


def test_tables_and_figures_speak(quick_html: str) -> None:
    page = Page(quick_html)
    assert all(a.get("scope") in ("col", "row", "colgroup") for a in page.all("th"))
    drawings = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) >= 6
    assert all(a.get("role") == "img" and len(a.get("aria-label", "")) > 40 for a in drawings)
    assert all(a.get("aria-hidden") == "true" for a in page.all("svg") if a.get("class") == "sign")


def test_drawings_follow_the_page(quick_html: str) -> None:
    """No drawing keeps a colour of its own, or it would vanish on a dark page."""
    for drawing in re.findall(r"<svg role.*?</svg>", quick_html, re.DOTALL):
        assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]{3,6}", drawing)
        assert "font-family" not in drawing


def test_long_names_may_be_broken_where_their_parts_meet() -> None:
    """A task's name as the head of a column is wider than a phone."""
    assert breakable("acc on lm_eval:blimp_<b>") == "acc on lm_eval:<wbr>blimp_&lt;b&gt;"
    assert breakable("lm_eval:blimp_adjunct_island") == "lm_eval:<wbr>blimp_<wbr>adjunct_<wbr>island"


def test_the_page_says_what_it_must(quick_html: str) -> None:
    text = Page(quick_html).text()
    for words in (
        "end of sequence ignored", "natural end of sequence", "3f2c9d1e8a7b", "float32", "Example Xeon", "2.13.0",
        "depthbench run quick --out results/quick", "schedule only", "TTFT",
        "cells/speed-full-model-b1.json",
    ):  # fmt: skip
        assert words in text, words


def test_sections_come_in_order(quick_html: str) -> None:
    order = ("answer", "all", "quality", "speed", "layers", "conditions")
    places = [quick_html.index(f'<section id="{name}"') for name in order]
    assert places == sorted(places)
    assert places[0] < quick_html.index('id="top"') < places[1] < quick_html.index('id="verdicts"') < places[2]


def test_every_link_beside_the_page_leads_to_a_file(quick_report: Path, quick_html: str) -> None:
    beside = [a["href"] for a in Page(quick_html).all("a") if not a.get("href", "#").startswith("#")]
    assert len(beside) > 20
    assert [link for link in beside if not (quick_report / link).is_file()] == []


def test_conditions_are_told_once(quick_html: str) -> None:
    """The sentences that say how speed and quality were measured stand at the end; every caption links to them."""
    assert quick_html.count("n = 10 repeats per arm") == 1
    assert quick_html.index("n = 10 repeats per arm") > quick_html.index('id="run-told"')
    captions = quick_html.count("<figcaption>") + quick_html.count('<p class="note">')
    assert 20 < quick_html.count('href="#run-told"') <= captions


def test_hostile_strings_stay_strings(small_run: Path) -> None:
    def poison(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        keep = (
            "kind",
            "status",
            "method",
            "task",
            "id",
            "conditions_hash",
            "prompts_hash",
            "tokens_hash",
            "trained",
            "family",
        )
        return value + HOSTILE if isinstance(value, str) and key not in keep else value

    for file in [small_run / "run.json", *(small_run / "cells").glob("*.json")]:
        record = json.loads(file.read_text())
        for example in record.get("examples", [])[:3]:
            example["output"] = LONG_WORD
        file.write_text(json.dumps(poison(record)))
    html = write_report([small_run]).read_text(encoding="utf-8")
    page = Page(html)
    assert not page.unbalanced
    assert len(page.all("script")) == 1
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f\u202e\u2066\ufeff]", html)
    assert "{{ 7*7 }}" in html
    assert "A" * 2_000 not in html
    assert "⟨U+202E⟩" in html
    assert (small_run / "report.pdf").read_bytes().startswith(b"%PDF-")
    for file in (small_run / "tables").glob("*.md"):
        text = file.read_text(encoding="utf-8")
        assert "<script" not in text.replace("\\<", "") and not re.findall(r"[\x00-\x08\x0b-\x1f\u202e]", text)
    for file in (small_run / "tables").glob("*.csv"):
        assert not re.findall(r"(?m)^[=+@]", file.read_text(encoding="utf-8"))
    for file in (small_run / "figures").glob("*.svg"):
        drawing = ElementTree.fromstring(file.read_bytes())
        assert not [e for e in drawing.iter() if e.tag.rpartition("}")[2] in ("script", "foreignObject", "a")]


def test_same_results_same_bytes_and_no_torch(tmp_path: Path) -> None:
    """Neither the folder, nor the time, nor the order of a set may show in any file, and torch is never imported."""
    given = ARMS[:3], (1, 2), ("restaurants", "e2e")
    here, there = (write_run(tmp_path / name, *given, examples=6, new_tokens=8, processes=1) for name in ("here", "th"))
    write_report([here])
    command = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"from pathlib import Path; from reports.write.report import write_report; write_report([Path({str(there)!r})])"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # another order of sets than in this process
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", command], check=True, env=environment)
    mine, theirs = (
        {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        for folder in (here, there)
    )
    assert {"report.html", "report.pdf", "summary.csv", "figures/promise.pdf", "tables/verdicts.tex"} <= set(mine)
    assert set(mine) == set(theirs)
    assert [name for name, content in mine.items() if theirs[name] != content] == []


def test_an_earlier_report_is_replaced_whole(small_run: Path) -> None:
    first = write_report([small_run])
    assert write_report([small_run]) == first == small_run / "report.html"
    assert [f.name for f in small_run.iterdir() if f.name.startswith(".")] == []


@pytest.mark.slow
def test_a_thousand_cells_fit_the_page(tmp_path: Path) -> None:
    """Forty arms at ten batch sizes on five tasks: everything is written, and the page stays under 5 MB."""
    arms = [*ARMS, *(replace(a, label=f"{a.label} again", params={**a.params, "again": 1}) for a in ARMS)][:40]
    sizes = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    folder = write_run(tmp_path / "run", arms, sizes, tuple("abcde"), examples=60)
    cells = len(list((folder / "cells").iterdir()))
    assert cells == len(arms) * (2 * len(sizes) + 5)
    subprocess.run([sys.executable, "-m", "harness.cli", "report", str(folder)], check=True, capture_output=True)
    assert (folder / "report.html").stat().st_size < 5_000_000
    assert (folder / "report.pdf").stat().st_size > 0 and any((folder / "figures").glob("by-batch.*"))
