"""Runs with little in them: a report draws what there is, and says why the rest is not drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reports.draw.figures import FIGURES, draw, gather
from reports.draw.speed import Breakdown, Broken, ByBatch, Series
from reports.draw.spreads import Curve, StepTimes
from reports.draw.style import PAGE, PAPER, Sheet
from reports.facts import facts, load
from reports.view.parts import Figure, Swatch
from reports.write.report import write_report
from tests.reports.page import Page
from tests.reports.synthetic import ARMS, edit_cells, write_run

FEW = (ARMS[0], ARMS[1], ARMS[5])


def report(folder: Path) -> tuple[str, set[str]]:
    """The words of the page, and the names of the figures."""
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text()
    return text, {file.stem for file in (folder / "figures").glob("*.png")}


@pytest.mark.parametrize("sizes", [(1, 8), (8,)], ids=["two batch sizes", "one batch size"])
def test_the_baseline_failed(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    folder = write_run(tmp_path / "run", FEW, sizes, examples=6, new_tokens=8)
    assert edit_cells(folder, "speed-full*", status="failed", runs=[], error="out of memory")
    text, figures = report(folder)
    assert f"steps-{sizes[0]}" in figures and "layers" in figures
    assert "promise" not in figures and "the full model has no usable time" in text


def test_the_baseline_failed_at_one_batch_size(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", FEW, (1, 8), examples=6, new_tokens=8)
    assert edit_cells(folder, "speed-full*b8*", status="failed", runs=[], error="out of memory")
    _, figures = report(folder)
    assert {"promise", "steps-1", "steps-8"} <= figures


def test_one_repeat_of_one_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", FEW, (1, 8), examples=6, new_tokens=2, processes=1, repeats=1)
    text, figures = report(folder)
    assert "steps-1" in figures
    assert "promise" not in figures and "so nothing can be compared" in text


def test_one_batch_size(tmp_path: Path) -> None:
    text, figures = report(write_run(tmp_path / "run", FEW, (8,), examples=6, new_tokens=8))
    assert {"promise", "steps-8", "layers"} <= figures and "tax" not in figures
    assert "speed against batch size (one was timed)" in text


@pytest.mark.parametrize("arm", [ARMS[0], ARMS[5]], ids=["the full model", "a method"])
def test_one_arm(tmp_path: Path, arm: object) -> None:
    text, figures = report(write_run(tmp_path / "run", (arm,), (1, 8), examples=6, new_tokens=8))  # type: ignore[arg-type]
    assert {"steps-1", "steps-8"} <= figures and "promise" not in figures
    assert ("holds the full model alone" in text) == (arm is ARMS[0])


@pytest.mark.parametrize("sheet", [PAGE, PAPER], ids=["page", "paper"])
def test_an_arm_without_a_value_beside_one_with(sheet: Sheet) -> None:
    """The one that has none has no line and no name; the other is drawn whole."""
    empty = Series("nothing", Swatch("calm"), (), ())
    alone = Series("predicted alone", Swatch("skipdecode"), (), ((1, 2.0), (8, 3.0)))
    for series in ((empty, alone), (alone, empty)):
        body = draw(Figure("f", "", "", "alt", ByBatch((1, 8), (("a family", series),))), sheet).body
        assert "a family" in body and "predicted alone" in body


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "plot",
    [
        StepTimes(1, Curve("_named so", Swatch("full"), (2.0, 2.0), (0.0, 0.99)), ()),
        Breakdown(1, (Broken("_named so", (("blocks", 0.0),)),)),
    ],
    ids=lambda plot: type(plot).__name__,
)
def test_values_that_are_all_one(plot: object) -> None:
    """The axis still has a length, and a name that matplotlib takes for a private one is shown."""
    assert "_named so" in draw(Figure("f", "", "", "alt", plot), PAGE).body


def test_every_kind_gives_nothing_for_nothing(tmp_path: Path) -> None:
    """No kind of figure fails on facts without a single number."""
    (run,) = load.load([write_run(tmp_path / "run", FEW, (1,), examples=2, new_tokens=4, processes=1)])
    none = replace(facts.gather(run), speed={}, quality={}, scored={}, batch_sizes=())
    assert gather(none) == dict.fromkeys(FIGURES, ())
