"""The files beside the page: figures in three formats, tables in three, and the PDF, the same every time."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness.errors import BadInput
from reports.draw import speed
from reports.draw.figures import draw
from reports.draw.style import PAGE
from reports.facts import load
from reports.view.parts import Figure, Table, walk
from reports.write import export, pdf, view
from reports.write.export import tex
from reports.write.report import write_report
from tests.reports.synthetic import ARMS, edit_cells, write_run


def test_csv_holds_the_unrounded_values(quick_report: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((quick_report / "tables" / "verdicts.csv").read_text(encoding="utf-8"))))
    assert [r["Method"].split(";")[0] for r in rows] == [a.label for a in ARMS[:8]]
    speed = "Speed-up batch 1 (× full)"
    assert float(rows[1][f"{speed} low"]) < float(rows[1][speed]) < float(rows[1][f"{speed} high"])
    assert len(rows[1][speed]) > 5
    quality = "BLEU on restaurants from full (points)"
    assert rows[0][f"{quality} low"] == "" and float(rows[-1][quality]) < -10


@pytest.mark.parametrize("text", ["a_b & 5% #1 {x} $y$ ~^\\", "<script>", "\u202e⟨U+202E⟩", "日本 \U0001f600"])
def test_latex_never_runs_what_it_shows(text: str) -> None:
    shown = tex(text)
    assert re.sub(r"\\(text\w+\{\}|[{}$&#%_])", "", shown).isascii()
    assert not re.search(r"(?<!\\)[&%#_$^~]", shown)


def test_every_latex_table_is_balanced(quick_report: Path) -> None:
    files = sorted((quick_report / "tables").glob("*.tex"))
    assert len(files) >= 6
    for file in files:
        text = file.read_text(encoding="utf-8")
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])  # type: ignore[index]
        body = text[text.index("\\midrule") : text.index("\\bottomrule")]
        lines = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert lines and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in lines)
        assert text.count("\\toprule") == text.count("\\bottomrule") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles_and_fits_its_line(quick_report: Path, tmp_path: Path) -> None:
    names = [str(file) for file in sorted((quick_report / "tables").glob("*.tex"))]
    lines = ["\\documentclass{article}", "\\usepackage{booktabs,graphicx}", "\\begin{document}"]
    lines += [f"\\input{{{name}}}\\clearpage" for name in names]
    (tmp_path / "all.tex").write_text("\n".join([*lines, "\\end{document}"]), encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    wide = [float(v) for v in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", done.stdout)]
    assert max(wide, default=0.0) < 15  # a word of a caption, not a table
    assert len(re.findall(r"\[\d+", done.stdout)) >= len(names)


def test_each_figure_in_three_formats(quick_report: Path, quick_html: str) -> None:
    names = {f.stem for f in (quick_report / "figures").glob("*.svg")}
    assert {"trade-restaurants-1", "promise", "by-batch", "tax", "layers", "depths", "steps-1"} <= names
    assert len(names) == quick_html.count("<figure ")
    for name in names:
        svg, document, image = (
            (quick_report / "figures" / f"{name}.{kind}").read_bytes() for kind in ("svg", "pdf", "png")
        )
        root = ElementTree.fromstring(svg)
        assert root.get("width", "").endswith("pt") and b"var(--" not in svg
        assert root.find("{http://www.w3.org/2000/svg}desc") is not None
        assert document.startswith(b"%PDF-") and image.startswith(b"\x89PNG")
        assert name == "layers" or b"/Subtype /Image" not in document, "lines and text stay vectors"


def test_the_lists_name_every_file(quick_report: Path) -> None:
    for folder in ("figures", "tables"):
        listed = [line.split("\t")[0] for line in (quick_report / folder / "FILES.txt").read_text().splitlines()]
        assert sorted(listed) == sorted(f.name for f in (quick_report / folder).iterdir() if f.name != "FILES.txt")


def test_paper_style_fits_a_column_and_what_is_gone_goes(small_run: Path, tmp_path: Path) -> None:
    write_report([small_run], tmp_path)
    mine = tmp_path / "figures" / "my own.pdf"
    mine.write_text("mine")
    edit_cells(small_run, "speed-*", layers_by_position=None)
    write_report([small_run], tmp_path, style="paper")
    widths = {}
    for file in (tmp_path / "figures").glob("*.svg"):
        widths[file.stem] = float(re.search(r'width="([\d.]+)pt"', file.read_text())[1])  # type: ignore[index]
    assert set(widths.values()) <= {241.0, 497.0} and widths["trade-restaurants-1"] == 241
    assert "layers" not in widths
    assert mine.read_text() == "mine"


def test_an_unknown_style_is_one_line(small_run: Path) -> None:
    with pytest.raises(BadInput, match=r"style 'wall' is not known; known: page, paper$"):
        write_report([small_run], style="wall")


def test_no_table_leaves_the_page(tmp_path: Path) -> None:
    """Twenty arms and five tasks: the printed parts of every table are at most as wide as the text."""
    folder = write_run(tmp_path, ARMS, (1, 32), tuple("abcde"), examples=2, new_tokens=4, processes=1, repeats=2)
    for part in walk(view.build(load.load([folder]))):
        if isinstance(part, Table):
            widths = pdf.widths(part)
            assert max(widths) + widths[0] + 4 * pdf.GAP <= pdf.WIDTH, part.id
            assert not part.wrap or sum(widths) + 2 * pdf.GAP * len(widths) <= pdf.WIDTH


def test_a_table_narrowed_or_shrunk_to_the_line_stays_whole(tmp_path: Path) -> None:
    """Three batch sizes make tables that just fit: their widths add up to the line, give or take a rounding."""
    typst = pytest.importorskip("typst")
    folder = write_run(tmp_path, ARMS, (1, 8, 32), examples=2, new_tokens=4, processes=1, repeats=2)
    sources = pdf.document(view.build(load.load([folder])))
    blocks = [b for run in json.loads(sources["data.json"])["runs"] for s in run["sections"] for b in s["blocks"]]
    tables = [block for block in blocks if block["kind"] == "Table"]
    fit = [t for t in tables if t["shrink"] * (sum(t["widths"]) + 2 * pdf.GAP * len(t["widths"])) < pdf.WIDTH + 1e-6]
    assert any(t["shrink"] < 1 for t in fit), "no table here is shrunk to the line"
    whole = [len(t["columns"]) for t in json.loads(typst.query(sources, "table", ignore_system_fonts=True))]
    assert all(len(t["columns"]) in whole for t in fit)


def test_the_pdf_says_what_the_page_says(quick_run: Path, quick_report: Path) -> None:
    sources = pdf.document(view.build(load.load([quick_run])))
    data = sources["data.json"].decode()
    for words in (
        "Times as fast as the full model",
        "n = 10 repeats",
        "float32 on Example Xeon",
        "end of sequence ignored",
    ):
        assert words in data
    drawn = re.findall(r'"file": "([^"]+)"', data)
    assert len(drawn) >= 6 and all(name in sources for name in drawn)
    document = (quick_report / "report.pdf").read_bytes()
    assert document.startswith(b"%PDF-") and document.count(b"/Type /Page\n") + document.count(b"/Type/Page/") >= 4


def test_foreign_script_looks_for_typefaces_and_other_text_does_not() -> None:
    assert pdf.foreign("日本") and pdf.foreign("שלום") and pdf.foreign("\U0001f600")
    assert not pdf.foreign("Zażółć “gęślą” – × µ α Ж … ⟨U+202E⟩ ␀ \ufffd ≤ −")


def test_a_figure_does_not_depend_on_those_it_is_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one with foreign words and one without, only the former is set in the machine's typefaces; each is as it is alone."""
    asked: dict[str, set[bool]] = {}

    def compiled(sources: dict[str, bytes], *, system_fonts: bool, **options: Any) -> list[bytes]:
        for name in sources:
            asked.setdefault(name, set()).add(system_fonts)
        return pdf.compile_typst(sources, system_fonts=system_fonts, **options)

    monkeypatch.setattr(export, "compile_typst", compiled)
    parts = [
        Figure(f"fig-{n}", "", "", "alt", _bars(word)) for n, word in (("plain", "SkipDecode 2x"), ("foreign", "日本"))
    ]
    drawings = {part.id: draw(part, PAGE) for part in parts}
    together = export.figure_files(parts, drawings, PAGE)
    alone = {name: file for part in parts for name, file in export.figure_files([part], drawings, PAGE).items()}
    assert set(together) == {f"{n}.{ending}" for n in ("plain", "foreign") for ending in ("svg", "pdf", "png")}
    assert [name for name, file in together.items() if alone[name] != file] == []
    assert asked["plain.svg"] == {False} and asked["foreign.svg"] == {True}


def _bars(name: str) -> speed.Breakdown:
    return speed.Breakdown(1, (speed.Broken(name, (("blocks", 1.0),)),))


def test_names_of_files_are_plain() -> None:
    part = Figure("r2-fig-trade-../../etc/passwd-1", "", "", "", None)
    assert export.file_name(part) == "r2-trade-..-..-etc-passwd-1"


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext (poppler) is not installed")
def test_no_word_of_the_pdf_is_outside_its_margins(quick_report: Path, tmp_path: Path) -> None:
    subprocess.run(
        ["pdftotext", "-bbox", quick_report / "report.pdf", tmp_path / "words.html"], check=True, capture_output=True
    )
    text = (tmp_path / "words.html").read_text(encoding="utf-8")
    wide, tall = (float(v) for v in re.search(r'<page width="([\d.]+)" height="([\d.]+)"', text).groups())  # type: ignore[union-attr]
    boxes = re.findall(r'<word xMin="([\d.-]+)" yMin="([\d.-]+)" xMax="([\d.-]+)" yMax="([\d.-]+)"', text)
    assert len(boxes) > 1000
    for x0, y0, x1, y1 in (map(float, box) for box in boxes):
        assert x0 >= 44 and x1 <= wide - 44 and y0 >= 20 and y1 <= tall - 20
