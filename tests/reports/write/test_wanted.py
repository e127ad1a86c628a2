"""Parts of a run, several runs in one table, and what is written where Typst or a checkout is missing."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.machine.environment import ROOT
from harness.records import published
from reports.draw.figures import draw
from reports.draw.style import PAPER
from reports.facts import load
from reports.facts.wanted import Wanted
from reports.view.parts import Figure, Table, walk
from reports.write import export, pdf, view
from reports.write.report import write_report
from tests.reports.synthetic import ARMS, write_run


def table(run: Path, name: str, **wanted: object) -> list[dict[str, str]]:
    """The rows of a table of a report on part of a run."""
    shown = view.build(load.load([run]), Wanted(**wanted))  # type: ignore[arg-type]
    part = next(part for part in walk(shown) if isinstance(part, Table) and part.id == name)
    return list(csv.DictReader(io.StringIO(export.as_csv(part))))


def methods(rows: list[dict[str, str]]) -> list[str]:
    return [row["Method"].split(";")[0] for row in rows]


def test_arms_batches_metric_and_order(quick_run: Path) -> None:
    rows = table(quick_run, "verdicts", arms=("skipdecode ?x", "CALM*"), batches=(4,), metric="ROUGE-L", order="speed")
    assert methods(rows)[0] == "Full model"
    assert set(methods(rows)) == {"Full model", "SkipDecode 2x", "SkipDecode 3x", "SkipDecode 5x", "CALM softmax 0.9"}
    ratios = [float(row["Speed-up batch 4 (× full)"]) for row in rows[1:]]
    assert ratios == sorted(ratios, reverse=True)
    assert any("ROUGE-L on restaurants" in name for name in rows[0]) and not any("batch 16" in name for name in rows[0])


def test_a_part_changes_no_number(quick_run: Path) -> None:
    whole = {row["Method"]: row for row in table(quick_run, "verdicts")}
    for row in table(quick_run, "verdicts", arms=("SkipDecode*",), order="label"):
        assert {name: whole[row["Method"]][name] for name in row} == row


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(arms=("Skipdecod 2x",)), r"--arms 'Skipdecod 2x' is no arm.*SkipDecode 2x"),
        (Wanted(batches=(7,)), r"--batch 7 was not measured; known: 1, 4, 16"),
        (Wanted(metric="blue"), r"--metric 'blue' was not scored.*bleu"),
        (Wanted(order="size"), r"--order 'size' is not known.*given, speed, quality, label"),
    ],
)
def test_what_no_run_has_is_one_line(quick_run: Path, wanted: Wanted, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        view.build(load.load([quick_run]), wanted)
    assert "\n" not in str(caught.value)


def test_several_runs_make_a_table_newest_first(quick_run: Path, tmp_path: Path) -> None:
    """One row for each method and model, each with its machine; a run under other conditions is not mixed in."""
    other = write_run(
        tmp_path / "b", ARMS[:3], (1,), examples=24, new_tokens=6, processes=1, dtype="bfloat16", name="half"
    )
    record = (other / "run.json").read_text().replace("2026-11-24", "2026-11-25")
    (other / "run.json").write_text(record)
    board = view.build(load.load([quick_run, other])).board
    assert board is not None
    rows = list(csv.DictReader(io.StringIO(export.as_csv(board))))
    assert [row["Run"] for row in rows] == sorted((row["Run"] for row in rows), reverse=True)
    names = [row["Method (its best setting)"] for row in rows if row["Run"] == "2026-11-24"]
    assert len(names) == len(set(names)) and sum(name.startswith("SkipDecode ") for name in names) == 2
    assert all("Example Xeon" in row["Machine"] for row in rows)
    assert view.build(load.load([quick_run])).board is None


def test_figures_of_a_paper_are_as_wide_as_its_columns(quick_run: Path) -> None:
    for part in walk(view.build(load.load([quick_run]))):
        if isinstance(part, Figure):
            drawing = draw(part, PAPER)
            assert round(drawing.width / 72, 2) in (3.35, 6.9), part.id
            sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)"', drawing.body)]
            assert min(sizes) >= 5.6, "legible in print"


def test_a_table_of_a_paper_has_short_captions_and_intervals_in_brackets(quick_report: Path) -> None:
    text = (quick_report / "tables" / "verdicts.tex").read_text(encoding="utf-8")
    assert re.search(r"\\textbf\{\d\.\d\d\} \{\\scriptsize\[\d\.\d\d, \d\.\d\d\]\}", text)
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    assert len(caption) < 80
    assert "% Speed: opt-e2e-mini" in text, "what stands alone says how it was measured"


def test_without_typst_the_rest_is_written(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (pdf, export):
        monkeypatch.setattr(module, "available", lambda: False)
    page = write_report([small_run], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "report: no PDF, and figures as SVG only: the package typst is not installed (pip install typst)"
    ]
    assert page.is_file() and not (tmp_path / "report.pdf").exists()
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {".svg", ".txt"}
    assert not re.findall(r'href="figures/[^"]+\.(?:pdf|png)"', page.read_text(encoding="utf-8"))


def test_published_tables_and_templates_travel_in_the_package() -> None:
    """Every folder of data that the packages read is in the list of what a wheel holds."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    held = {
        file.resolve()
        for package, patterns in listed["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert published.bibkeys() and {path.resolve() for path in published.FOLDER.glob("*.yaml")} <= held
    assert {path.resolve() for path in (ROOT / "reports" / "templates").iterdir() if path.is_file()} <= held
    assert {path.resolve() for path in (ROOT / "harness" / "suites").glob("*.yaml")} <= held
