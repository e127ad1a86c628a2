"""What the scores show about an arm, over all metrics of a task, in five words; and which tasks say nothing.

Every metric is judged by the interval of its paired difference from the full model: `better` (the interval lies above zero),
`keeps quality` (it stays within the margin), `small loss` (below zero, within the margin), `loses quality` (beyond the margin) and
`not enough data` (it holds the margin, or rests on too few examples). A task is as good as its worst metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from harness.records import standing
from harness.records.cells import QualityCell
from harness.records.readings import AGREEMENT
from harness.stats import intervals
from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.facts.metrics import MetricInfo
from reports.text import clean, real

BETTER, KEEPS, SMALL, OPEN, LOSES = "better", "keeps quality", "small loss", "not enough data", "loses quality"
RANK = {LOSES: 0, OPEN: 1, SMALL: 2, KEEPS: 3, BETTER: 4}
KEPT = (BETTER, KEEPS, SMALL)
"""The words for a loss that is shown to be within the margin."""

_CHANCE = {
    "blimp": 50.0, "winogrande": 50.0, "piqa": 50.0, "copa": 50.0, "wsc": 50.0, "hellaswag": 25.0, "arc_": 25.0, "mmlu": 25.0,
    "openbookqa": 25.0, "race": 25.0, "sciq": 25.0, "boolq": 50.0, "rte": 50.0, "truthfulqa_mc1": 22.6,
}  # fmt: skip
"""What guessing scores, in percent, by how a task's name begins, where a run does not store it."""


@dataclass(frozen=True)
class Judged:
    """What one metric shows, or the worst of several.

    Attributes:
        state: one of the five words.
        gain: the difference from full turned so that more is better, [value, low, high] in the metric's unit.
        share: the loss as a multiple of the margin; negative for a gain.
        needed: examples that would settle it, where they are too few.
    """

    state: str
    task: str
    metric: MetricInfo
    gain: tuple[float, float, float]
    share: float
    needed: int | None = None


def metric(facts: Facts, arm: Arm, task: str, how: MetricInfo) -> Judged | None:
    """Return what one metric shows about an arm; None where there is no difference from full."""
    found = facts.quality.get((arm.label, task, how.name))
    gap = found.difference if found else None
    if gap is None or real(gap.value) is None:
        return None
    ends = (gap.value, gap.low, gap.high) if how.better != "lower" else (-gap.value, -gap.high, -gap.low)
    value, low, high = ends
    full = facts.quality.get((facts.baseline.label, task, how.name)) if facts.baseline else None
    margin = how.margin(facts.margin, full.value.value if full else 0.0)
    state, needed = OPEN, None
    if not gap.known or gap.n < intervals.MIN_EXAMPLES:
        needed = intervals.MIN_EXAMPLES
    elif high < -margin:
        state = LOSES
    elif low < -margin:
        needed = _needed(value, low, high, margin, gap.n)
    else:
        state = BETTER if low > 0 else SMALL if high < 0 else KEEPS
    return Judged(state, task, how, ends, -value / margin if margin else -value, needed)


def _needed(value: float, low: float, high: float, margin: float, n: int) -> int | None:
    """Examples at which the interval around the same difference no longer holds the margin, two digits; None above 10 million."""
    away = abs(value + margin)
    if not away:
        return None
    count = n * ((high - low) / 2 / away) ** 2
    if count > 1e7:
        return None
    count = max(count, n + 1)
    step = 10.0 ** (math.floor(math.log10(count)) - 1)
    return math.ceil(count / step) * int(max(step, 1))


def task(facts: Facts, arm: Arm, name: str) -> Judged | None:
    """Return what a task shows: the worst of its metrics."""
    return worst(found for how in counted(facts, name) if (found := metric(facts, arm, name, how)))


def arm(facts: Facts, one: Arm) -> Judged | None:
    """Return what all informative tasks show about an arm; None where it is not scored on each of them."""
    found = [task(facts, one, name) for name in informative(facts)]
    return None if not found or None in found else worst(j for j in found if j)


def worst(found: Iterable[Judged]) -> Judged | None:
    """Return the worst: by its word, then by how large the loss is; `better` only if none of the first metrics merely keeps."""
    return min(found, key=lambda j: (RANK[j.state], -j.share), default=None)


def biggest(facts: Facts, one: Arm) -> Judged | None:
    """Return the metric on which an arm loses most, as a multiple of the margin, over all informative tasks."""
    every = [j for t in informative(facts) for how in counted(facts, t) if (j := metric(facts, one, t, how))]
    return max(every, key=lambda j: j.share, default=None)


def worth(facts: Facts, one: Arm) -> tuple[float, float]:
    """Return by what arms of one method are ranked, smaller first: what is lost beyond twice the margin, then speed."""
    found, ratio = biggest(facts, one), facts.ratio(one, facts.headline_batch)
    return (max(found.share, 2.0) if found else 0.0, -(ratio.value if ratio else 0.0))


def counted(facts: Facts, name: str) -> tuple[MetricInfo, ...]:
    """The metrics of a task that judge it: agreement with the full model is no quality."""
    return tuple(how for how in facts.tasks[name] if how.name != AGREEMENT)


def within(facts: Facts, one: Arm, loss: float) -> bool:
    """Whether an arm is shown to lose at most `loss` points on every metric of every informative task."""
    names = informative(facts)
    for name in names:
        for how in counted(facts, name):
            found = metric(facts, one, name, how)
            full = facts.quality.get((facts.baseline.label, name, how.name)) if facts.baseline else None
            gap = facts.quality[one.label, name, how.name].difference if found else None
            if found is None or gap is None or not gap.known or gap.n < intervals.MIN_EXAMPLES or full is None:
                return False
            if found.gain[1] < -how.margin(loss, full.value.value):
                return False
    return bool(names)


def informative(facts: Facts) -> tuple[str, ...]:
    """The tasks on which the full model itself is above chance: the others cannot show a loss."""
    return tuple(name for name in facts.tasks if name not in uninformative(facts))


def uninformative(facts: Facts) -> dict[str, str]:
    """Return task -> why it shows nothing: the full model scores no better than guessing."""
    if "uninformative" not in facts.kept:
        facts.kept["uninformative"] = {
            name: why for name in facts.tasks if (why := _no_better_than_chance(facts, name))
        }
    found: dict[str, str] = facts.kept["uninformative"]
    return found


def _no_better_than_chance(facts: Facts, name: str) -> str:
    full, how = facts.baseline, facts.tasks[name][0]
    scored = facts.quality.get((full.label, name, how.name)) if full else None
    if full is None or scored is None:
        return ""
    cell = cast(QualityCell, facts.scored.get((full.label, name)) or {})
    if how.name in (cell.get("informative") or {}):  # the run judged it where it was scored
        return clean(standing.at_chance(cell, how.name) or "")
    plain = name.partition(":")[2]
    chance = next((c for start, c in _CHANCE.items() if plain.startswith(start)), 0.0 if plain else None)
    if chance is None or not how.points or how.better == "lower":
        return ""
    value, low = scored.value.value, scored.value.low if scored.value.known else scored.value.value
    if low > chance or (chance == 0 and value > 0):
        return ""
    return f"the full model scores {value:.1f} there, guessing {chance:.0f}"
