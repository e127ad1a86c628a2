"""Which batch sizes figures show, and arms under which name."""

from __future__ import annotations

from reports.facts.facts import Arm, Facts
from reports.text import label

PLOT_LABEL = 30


def plot_name(arm: Arm) -> str:
    """The label of an arm as figures show it."""
    return label(arm.label, PLOT_LABEL)


def ends(facts: Facts) -> tuple[int, ...]:
    """The smallest and the largest batch size that were timed; one where they are the same, none where nothing was."""
    timed = [b for b in facts.batch_sizes if any((arm.label, b) in facts.speed for arm in facts.arms)]
    return tuple(dict.fromkeys((timed[0], timed[-1]))) if timed else ()
