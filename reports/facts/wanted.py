"""Which part of a run a report is on: some arms, some batch sizes, another first metric, another order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness.errors import BadInput, near
from reports.facts import judge
from reports.facts.arms import Arm
from reports.facts.facts import Facts

ORDERS = ("given", "speed", "quality", "label")


@dataclass(frozen=True)
class Wanted:
    """What of a run is shown; empty: everything, as the run has it.

    Attributes:
        arms: patterns of labels, as `SkipDecode*`; the full model always stays.
        batches: batch sizes.
        metric: the metric that heads every task that has it, by its name or its title.
        order: of the rows: `given`, `speed` (fastest first), `quality` (best first) or `label`.
    """

    arms: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    metric: str = ""
    order: str = "given"


def check(wanted: Wanted, every: Sequence[Facts]) -> None:
    """Refuse what no run has.

    Raises:
        BadInput: a pattern without an arm, a batch size that was not measured, a metric or an order that is not known.
    """
    labels = list(dict.fromkeys(arm.label for facts in every for arm in facts.arms))
    for pattern in wanted.arms:
        if not any(fnmatchcase(name.lower(), pattern.lower()) for name in labels):
            raise BadInput(f"report: --arms {pattern!r} is no arm of these runs; {near(pattern, labels)}")
    sizes = sorted({b for facts in every for b in facts.batch_sizes})
    if missing := [b for b in wanted.batches if b not in sizes]:
        raise BadInput(f"report: --batch {missing[0]} was not measured; known: {', '.join(map(str, sizes)) or 'none'}")
    metrics = list(dict.fromkeys(m.name for facts in every for some in facts.tasks.values() for m in some))
    if wanted.metric and not any(_is(wanted.metric, name) for name in metrics):
        raise BadInput(f"report: --metric {wanted.metric!r} was not scored; {near(wanted.metric, metrics)}")
    if wanted.order not in ORDERS:
        raise BadInput(f"report: --order {wanted.order!r} is not known; {near(wanted.order, ORDERS)}")


def _is(asked: str, name: str) -> bool:
    return asked.lower().replace("-", "") == name.lower()


def narrow(facts: Facts, wanted: Wanted) -> Facts:
    """Return the facts with only what is wanted, in the order wanted; nothing is computed anew."""
    if wanted == Wanted():
        return facts
    patterns = [pattern.lower() for pattern in wanted.arms]
    arms = [
        arm
        for arm in facts.arms
        if not patterns or arm.baseline or any(fnmatchcase(arm.label.lower(), pattern) for pattern in patterns)
    ]
    batches = tuple(b for b in facts.batch_sizes if not wanted.batches or b in wanted.batches)
    labels = {arm.label for arm in arms}
    tasks = {
        name: tuple(sorted(metrics, key=lambda m: not (wanted.metric and _is(wanted.metric, m.name))))
        for name, metrics in facts.tasks.items()
    }
    shown = dataclasses.replace(
        facts, batch_sizes=batches, tasks=tasks, told={}, kept={},
        speed={key: s for key, s in facts.speed.items() if key[0] in labels and key[1] in batches},
        memory={key: m for key, m in facts.memory.items() if key[0] in labels and key[1] in batches},
        scored={key: c for key, c in facts.scored.items() if key[0] in labels},
        examples={key: e for key, e in facts.examples.items() if key[0] in labels},
    )  # fmt: skip
    ordered = sorted(arms, key=lambda arm: (not arm.baseline, *_rank(shown, arm, wanted.order)))
    return dataclasses.replace(shown, arms=tuple(dataclasses.replace(arm, order=i) for i, arm in enumerate(ordered)))


def _rank(facts: Facts, arm: Arm, order: str) -> tuple[float | str, ...]:
    if order == "speed":
        ratio = facts.ratio(arm, facts.headline_batch)
        return (-ratio.value if ratio else 0.0, arm.order)
    if order == "quality":
        found = judge.biggest(facts, arm)
        return (found.share if found else float("inf"), arm.order)
    return (arm.label.lower(),) if order == "label" else (arm.order,)
