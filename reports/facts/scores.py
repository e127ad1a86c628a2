"""What was scored: tasks, their metrics, values and paired differences from the full model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records.cells import QualityCell, SpeedCell
from harness.records.fields import Example
from harness.records.limits import BASELINE
from harness.records.measures import statistics_of
from harness.records.run import Run
from harness.stats import intervals
from harness.stats.intervals import Interval
from reports.facts.arms import Arm
from reports.facts.metrics import MetricInfo, metric_info
from reports.text import real


@dataclass(frozen=True)
class Quality:
    """One arm on one task under one metric, and its paired difference from the full model (see `against`)."""

    value: Interval
    difference: Interval | None


def tasks_of(data: Run, scored: Mapping[tuple[str, str], QualityCell]) -> dict[str, tuple[MetricInfo, ...]]:
    """Return the tasks that were scored with their metrics, in the order of the suite."""
    order = [str(t.get("name") if isinstance(t, dict) else t) for t in data.suite.get("tasks") or []]
    present = {task for _, task in scored}
    names = [t for t in order if t in present] + sorted(present.difference(order))
    found = {}
    for task in names:
        metrics = [metric_info(m) for m in _metric_names(c for (_, t), c in scored.items() if t == task)]
        if known := tuple(m for m in metrics if m is not None):  # a task without a metric has nothing to be judged by
            found[task] = known
    return found


def _metric_names(cells: Iterable[QualityCell]) -> list[str]:
    names: dict[str, None] = {}
    for cell in cells:
        names.update(dict.fromkeys(str(k) for k in (cell["examples"][0].get("stats") or {})))
    return [n for n in names if n != "agreement"] + [n for n in names if n == "agreement"]


def statistics(examples: Mapping[str, Example], ids: Iterable[str], metric: str) -> np.ndarray | None:
    """Return the sufficient statistics [n, K] of the examples with the given ids, or None where one lacks them."""
    rows = statistics_of(examples, ids, metric)
    if rows is None:
        return None
    array = np.asarray(rows, dtype=float)
    return array if np.isfinite(array).all() else None


def quality(
    arms: tuple[Arm, ...],
    tasks: Mapping[str, tuple[MetricInfo, ...]],
    examples: Mapping[tuple[str, str], Mapping[str, Example]],
    rows: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[str, str, str], Quality]:
    """Return what summary.csv says about the arms whose examples are shown; differences are those to `against`."""
    found = {}
    for arm in arms:
        beside = against(arms, arm)
        for task, metrics in tasks.items():
            row, own = rows.get(arm.label, {}), examples.get((arm.label, task), {})
            theirs = examples.get((beside.label, task), {}) if beside and not beside.baseline else {}
            for metric in metrics if own else ():
                value = interval_of(row, f"{task}/{metric.name}", len(own))
                if value is None:
                    continue
                gap = None if arm.baseline else interval_of(row, f"{task}/{metric.name}_diff", len(own))
                if gap and theirs:
                    gap = _paired(own, theirs, metric) or gap
                found[arm.label, task, metric.name] = Quality(value, gap)
    return found


def against(arms: Sequence[Arm], arm: Arm) -> Arm | None:
    """Return the full model an arm's scores are set against: for exact methods the one on the same weights, where it was run."""
    full = next((other for other in arms if other.baseline), None)
    if not arm.exact or arm.baseline or arm.method == BASELINE:
        return full
    return next((other for other in arms if other.method == BASELINE and other.checkpoint == arm.checkpoint), full)


def same_rows(
    arms: Sequence[Arm], arm: Arm, examples: Mapping[tuple[str, str], Mapping[str, Example]], timed: Iterable[SpeedCell]
) -> int | None:
    """Return how many rows gave the full model's tokens, scored and timed, if all that could be set beside it did; else None."""
    beside, count = against(arms, arm), 0
    if beside is None or not arm.exact or arm.method == BASELINE:
        return None
    for (label_, task), own in examples.items():
        theirs = examples.get((beside.label, task))
        if label_ != arm.label or theirs is None:
            continue
        if any(own[i].get("output") != theirs[i].get("output") for i in own if i in theirs):
            return None
        count += sum(i in theirs for i in own)
    for cell in timed:
        unlike = real(cell.get("tokens_unlike_full"))
        if unlike:
            return None
        if unlike is not None:
            sets = {run.get("prompt_set", 0) for run in cell.get("runs") or []}
            count += len(sets) * int(cell["batch_size"])
    return count or None


def _paired(own: Mapping[str, Example], theirs: Mapping[str, Example], metric: MetricInfo) -> Interval | None:
    shared = [i for i in own if i in theirs]
    a, b = statistics(own, shared, metric.name), statistics(theirs, shared, metric.name)
    if a is None or b is None or a.shape != b.shape:
        return None
    if np.array_equal(a, b):
        return Interval(0.0, 0.0, 0.0, len(shared))
    return intervals.paired_difference(a, b, metric.combine)


def interval_of(row: Mapping[str, Any], key: str, n: int) -> Interval | None:
    """An interval of a summary row; its ends are NaN where the sample supports none, None where there is no value."""
    value, low, high = (real(row.get(key + end)) for end in ("", "_low", "_high"))
    if value is None:
        return None
    return Interval(value, math.nan if low is None else low, math.nan if high is None else high, n)
