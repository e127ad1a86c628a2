"""Two arms' scores on the same examples: their difference, whether it could be chance, and several such questions at once.

Right or wrong answers are compared by McNemar's exact test and the interval of `harness.stats.binary`, anything else by a paired
bootstrap over examples. Asked of several tasks, p-values are corrected by Holm's step-down procedure (Holm 1979, "A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6): the chance that any of the differences
called real is none stays below the level, however the tasks depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from harness.stats import binary, intervals
from harness.stats.binary import Discordant
from harness.stats.intervals import Combine, Interval

MCNEMAR, BOOTSTRAP = "McNemar", "paired bootstrap"
_SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Paired:
    """Two arms on the same examples.

    Attributes:
        mine: sufficient statistics [n, K] of the first arm.
        theirs: of the second, row i the same example.
        combine: maps summed statistics [..., K] to values [...].
    """

    mine: npt.NDArray[np.float64]
    theirs: npt.NDArray[np.float64]
    combine: Combine

    @cached_property
    def counts(self) -> Discordant | None:
        """Who alone is right, where answers are right or wrong."""
        return binary.discordant(self.mine, self.theirs)

    @property
    def test(self) -> str:
        """What `p` is from."""
        return BOOTSTRAP if self.counts is None else MCNEMAR

    @cached_property
    def difference(self) -> Interval:
        """First minus second with its interval, in the metric's own points; ValueError where the shapes differ."""
        if self.counts is None:
            return intervals.paired_difference(self.mine, self.theirs, self.combine)
        # What a right answer adds to the metric, in its own points: the statistics may be shares, the metric a percentage.
        points = float(self.combine(np.array([1.0, 1.0]))) * self.counts.scale
        return binary.difference(replace(self.counts, scale=points))

    @cached_property
    def p(self) -> float:
        """Two-sided; NaN with fewer than two examples that differ, or where most resamples leave the metric undefined."""
        if self.counts is not None:
            return binary.mcnemar(self.counts)
        if np.array_equal(self.mine, self.theirs):
            return 1.0
        if len(self.mine) < 2:
            return math.nan
        mine, theirs = (intervals.resampled(a, self.combine, _SAMPLES, 0) for a in (self.mine, self.theirs))
        gaps = (mine - theirs)[np.isfinite(mine - theirs)]
        if gaps.size < _SAMPLES / 2:
            return math.nan
        # Twice the share on the rarer side of 0, which is never shown to be less than one resample's.
        rarer = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
        return min(1.0, 2 * (rarer + 1) / (gaps.size + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction, in the order given; none may be NaN."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
