"""Several runs in one report: what is the same is joined, and what is not stands apart with the difference named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports.facts import load, merge
from reports.facts.facts import gather
from reports.write.view import build
from tests.reports.conftest import html_of
from tests.reports.synthetic import ARMS, edit_cells, write_run

SMALL: dict[str, Any] = {"examples": 24, "new_tokens": 8}


def change_run(folder: Path, **environment: Any) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["environment"].update(environment)
    path.write_text(json.dumps(run))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The same conditions: one run times SkipDecode, the other CALM at a further batch size too."""
    first = write_run(tmp_path / "a", (ARMS[0], ARMS[1]), (1,), **SMALL)
    second = write_run(tmp_path / "b", (ARMS[0], ARMS[5]), (1, 4), name="more", **SMALL)
    return first, second


def test_runs_under_the_same_conditions_are_one(two: tuple[Path, Path]) -> None:
    view = build(load.load(two))
    assert len(view.runs) == 1
    assert "2 runs under the same conditions" in view.lead[0]
    (joined,) = merge.join(load.load(two))
    facts = gather(joined)
    assert [a.label for a in facts.arms] == ["Full model", "SkipDecode 2x", "CALM softmax 0.9"]
    assert facts.batch_sizes == (1, 4)
    assert len(facts.speed["Full model", 1].runs) == 20, "repeats of the same cell add up"
    assert len({r["process"] for r in facts.speed["Full model", 1].runs}) == 4
    assert "Part 1" not in html_of(*two)


def test_an_arm_is_paired_with_the_full_model_of_its_own_run(two: tuple[Path, Path]) -> None:
    """A machine half as fast in the second run must not make its arms look slow."""
    alone = gather(load.load([two[1]])[0]).speed["CALM softmax 0.9", 1].interval
    for file in (two[1] / "cells").glob("speed-*"):
        cell = json.loads(file.read_text())
        for run in cell["runs"]:
            run["step_s"] = [2 * s for s in run["step_s"]]
        file.write_text(json.dumps(cell))
    (joined,) = merge.join(load.load(two))
    together = gather(joined).speed["CALM softmax 0.9", 1].interval
    assert alone is not None and together is not None
    assert together.n == alone.n == 10
    assert together.value == pytest.approx(alone.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": "0123456789"}, "commit 3f2c9d1e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d against 0123456789"),
        (
            {"cpu": {"model": "Other CPU", "usable_cores": 8}},
            "cpu model Example Xeon 8481C @ 2.70GHz against Other CPU",
        ),
        ({"versions": {"torch": "2.11.0"}}, "torch 2.13.0 against 2.11.0"),
        ({"gpu": [{"name": "H100"}]}, "gpu not recorded against H100"),
        ({"dirty": True}, "uncommitted changes in one of them"),
    ],
    ids=["commit", "cpu", "versions", "gpu", "dirty"],
)
def test_another_machine_or_code_stands_apart(two: tuple[Path, Path], change: dict[str, Any], words: str) -> None:
    change_run(two[1], **change)
    view = build(load.load(two))
    assert [run.title for run in view.runs] == ["Part 1: quick", "Part 2: more"]
    assert words in view.lead[1]


def test_other_conditions_without_a_shared_batch_size_are_seen(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", ARMS[:2], (1,), **SMALL)
    same = write_run(tmp_path / "b", ARMS[:2], (4,), **SMALL)
    other = write_run(tmp_path / "c", ARMS[:2], (16,), dtype="bfloat16", **SMALL)
    runs = load.load((first, same, other))
    assert merge.apart(runs[0], runs[1]) == ()
    assert [len(run.sources) for run in merge.join(runs)] == [2, 1]
    assert any("dtype float32 against bfloat16" in why for why in merge.apart(runs[0], runs[2]))


def test_one_label_for_two_methods_stands_apart(two: tuple[Path, Path]) -> None:
    for file in [two[1] / "run.json", *(two[1] / "cells").glob("*full*")]:
        text = file.read_text().replace('"checkpoint": "opt-e2e-mini/full"', '"checkpoint": "elsewhere"')
        file.write_text(text)
    (why,) = merge.apart(*load.load(two))
    assert why == "“Full model” is full on opt-e2e-mini/full against full on elsewhere"


def test_a_cell_that_failed_once_is_taken_from_the_other_run(two: tuple[Path, Path]) -> None:
    assert edit_cells(two[0], "speed-full*", status="failed", error="killed", runs=None) == 1
    (joined,) = merge.join(load.load(two))
    facts = gather(joined)
    assert len(facts.speed["Full model", 1].runs) == 10 and not facts.failed
    assert facts.ratio(facts.arms[1], 1) is None, "SkipDecode has no full model of its own run beside it"


def test_other_texts_of_the_same_cell_are_told(two: tuple[Path, Path]) -> None:
    file = next((two[1] / "cells").glob("quality-full*"))
    cell = json.loads(file.read_text())
    cell["examples"][0]["output"] = "something else"
    file.write_text(json.dumps(cell))
    assert "Full model gave other texts for restaurants in another of the joined runs" in html_of(*two)
