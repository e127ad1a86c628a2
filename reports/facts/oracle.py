"""The oracle of per-example budgets over the recorded settings of a method, see `harness.stats.oracle`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records.limits import BASELINE
from harness.stats import oracle
from harness.stats.intervals import MIN_EXAMPLES
from harness.stats.oracle import Metric, Oracle
from reports.facts import judge, scores
from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.facts.metrics import MetricInfo

_FOUND = frozenset({"skip"})
"""Parameters of words that are a budget's outcome, not another method."""


@dataclass(frozen=True)
class Found:
    """One method's oracle on one task: the arms it chose among, the full model first, and the metrics it looked at."""

    task: str
    arms: tuple[Arm, ...]
    metric: MetricInfo
    other: MetricInfo | None
    oracle: Oracle


def oracles(facts: Facts) -> tuple[Found, ...]:
    """Return the oracles of every method with two or more budgets on every informative task; exact methods have none."""
    groups: dict[tuple[Any, ...], list[Arm]] = {}
    for arm in facts.others:
        if not arm.exact and arm.method != BASELINE:
            words = tuple((k, str(v)) for k, v in arm.params.items() if isinstance(v, (str, bool)) and k not in _FOUND)
            groups.setdefault((arm.method, arm.checkpoint, words), []).append(arm)
    found = []
    for arms in groups.values():
        full = _full(facts, arms[0])
        for task in judge.informative(facts) if full is not None and len(arms) > 1 else ():
            assert full is not None
            if one := _one(facts, task, (full, *arms)):
                found.append(one)
    return tuple(found)


def _full(facts: Facts, arm: Arm) -> Arm | None:
    """The full model that an arm would fall back to: on the same weights where it was run, else the run's."""
    same = (other for other in facts.arms if other.method == BASELINE and other.checkpoint == arm.checkpoint)
    return next(same, facts.baseline)


def _one(facts: Facts, task: str, arms: Sequence[Arm]) -> Found | None:
    held = {arm: examples for arm in arms if (examples := facts.examples.get((arm.label, task)))}
    if arms[0] not in held or len(held) < 3:
        return None
    ids = [i for i in held[arms[0]] if all(i in examples for examples in held.values())]
    depth = facts.scored[arms[0].label, task].get("depth")
    if len(ids) < MIN_EXAMPLES or not depth:
        return None
    steps = np.array([[max(e[i].get("tokens", 1) - 1, 0) for i in ids] for e in held.values()], dtype=np.float64)
    work = np.array([[e[i].get("layers_per_token") or 0.0 for i in ids] for e in held.values()], dtype=np.float64)
    if ((work <= 0) & (steps > 0)).any() or not steps.any():
        return None  # what ran is not recorded
    read = [(how, _read(held, ids, how)) for how in judge.counted(facts, task)]
    # A mean over examples has a value for each; BLEU of one sentence says little.
    usable = sorted(((how, one) for how, one in read if one is not None), key=lambda pair: not _is_mean(pair[1]))
    first = next(((how, one) for how, one in usable if np.isfinite(one.values).all()), None)
    if first is None:
        return None
    other = next(((how, one) for how, one in usable if how.name != first[0].name), None)
    answer = oracle.find(first[1], work, steps, int(depth), other[1] if other else None)
    return Found(task, tuple(held), first[0], other[0] if other else None, answer)


def _is_mean(metric: Metric) -> bool:
    return metric.statistics.shape[-1] == 2 and bool((metric.statistics[..., 1] == 1).all())


def _read(held: Any, ids: Sequence[str], how: MetricInfo) -> Metric | None:
    rows = [scores.statistics(examples, ids, how.name) for examples in held.values()]
    if any(row is None for row in rows) or len({row.shape for row in rows if row is not None}) > 1:
        return None
    return Metric(np.stack([row for row in rows if row is not None]), how.combine, how.better)
