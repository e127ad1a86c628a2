"""The quality columns of summary.csv: every metric of a task with its interval, its difference from full, a verdict. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from harness.records import measures, readings
from harness.records.arms import Arm
from harness.records.cells import QualityCell, SpeedCell
from harness.records.fields import Example
from harness.records.measures import real as _real
from harness.records.standing import UNINFORMATIVE, at_chance
from harness.stats import intervals, scores

Row = dict[str, Any]
Cells = Mapping[tuple[str, int | str | None], QualityCell]
_C = TypeVar("_C", SpeedCell, QualityCell)

BASELINE = "baseline"
LATE = (
    "_diff",
    "_diff_low",
    "_diff_high",
    "_mcnemar_p",
    "/layers_per_token",
    "/executed_share",
    "/examples",
    "/request_ms",
)


def quality(
    arm: Arm, full: Arm | None, cells: Cells, tasks: Sequence[str], margin: float, *, scored: bool
) -> tuple[Row, str | None]:
    """The quality columns of an arm over all tasks and its verdict (loses if it loses on one task, keeps if on all).

    The verdict is None where nothing was to be scored (`scored`).
    """
    columns: Row = {}
    verdicts: list[str] = []
    for task in tasks:
        cell, reference = cells.get((arm["label"], task)), None
        if full is not None and arm is not full:
            reference = comparable(cells.get((full["label"], task)), cell)
        found, verdict = _task_columns(task, cell, reference, margin) if cell else ({}, "inconclusive")
        columns |= found
        if verdict != UNINFORMATIVE:
            verdicts.append(verdict)
    if arm is full:
        return columns, BASELINE if columns else None
    if not scored:
        return columns, None
    if "loses quality" in verdicts:
        return columns, "loses quality"
    return columns, "keeps quality" if verdicts and set(verdicts) == {"keeps quality"} else "inconclusive"


def _task_columns(task: str, cell: QualityCell, full: QualityCell | None, margin: float) -> tuple[Row, str]:
    """Every metric of one task with its interval, its difference from full, and the verdict by the first metric."""
    examples = {str(example.get("id")): example for example in cell.get("examples") or []}
    others = {str(example.get("id")): example for example in (full.get("examples") if full else None) or []}
    shared = [key for key in examples if key in others]
    names = list(dict.fromkeys(name for example in examples.values() for name in example.get("stats") or {}))
    columns: Row = {}
    verdict = ""
    for name in names:
        how = readings.reading(name)
        own = _statistics(examples, examples, name)
        if how is None or own is None:
            continue
        columns |= interval_columns(f"{task}/{name}", intervals.bootstrap_metric(own, how.combine))
        if name == readings.AGREEMENT:  # already a comparison with full
            continue
        mine, theirs = (_statistics(of, shared, name) for of in (examples, others))
        difference, p = _difference(mine, theirs, how)
        if p is not None:
            columns[f"{task}/{name}_mcnemar_p"] = p
        if difference is not None:
            columns |= interval_columns(f"{task}/{name}_diff", difference)
        if name == names[0]:
            if at_chance(full, name) is not None:
                verdict = UNINFORMATIVE
            else:
                verdict = (
                    "inconclusive" if difference is None else intervals.quality_verdict(difference, margin, how.better)
                )
    columns[f"{task}/layers_per_token"] = _real(cell.get("layers_per_token"))
    if (share := _real(cell.get("executed_share"))) is not None:
        columns[f"{task}/executed_share"] = share
    columns[f"{task}/examples"] = len(examples)
    columns[f"{task}/request_ms"] = measures.request_ms(cell)
    return columns, verdict or "inconclusive"


def _difference(
    mine: np.ndarray | None, theirs: np.ndarray | None, how: readings.Reading
) -> tuple[intervals.Interval | None, float | None]:
    """The paired difference, and McNemar's p-value where the scores are right or wrong."""
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return None, None
    found = scores.Paired(mine, theirs, how.combine)
    return found.difference, found.p if found.test == scores.MCNEMAR else None


def _statistics(examples: Mapping[str, Example], ids: Iterable[str], metric: str) -> np.ndarray | None:
    """Statistics [n, K] of the examples with these ids; None where there are none, or one lacks them."""
    rows = measures.statistics_of(examples, ids, metric)
    return None if rows is None else np.asarray(rows, dtype=np.float64)


def interval_columns(name: str, interval: intervals.Interval) -> Row:
    """A value and the ends of its interval as columns; None for what is not known."""
    ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {name + end: _real(value) for end, value in ends.items()}


def comparable(full: _C | None, cell: _C | None) -> _C | None:
    """The full model's cell if both were measured under the same conditions."""
    return full if full and cell and full.get("conditions_hash") == cell.get("conditions_hash") else None
