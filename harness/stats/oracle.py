"""The oracle of per-example budgets: had one known which budget suffices for each example, what would have run? Torch-free.

Glavas et al. 2024 ("Dynamic layer selection in decoder-only transformers") let an oracle choose a layer count for every sequence.
Here the choice is among budgets that were recorded, the full model among them: for each example the cheapest budget whose score is
no worse than the full model's on that example. It is an analysis of what could be gained, not a method: the references decide.

Selection bias: the oracle looks at the scores it is then judged by. Where budgets differ by chance alone, the best of several is
still better than each, so its score is too good and its share too small, the more so the more budgets there are; the intervals
speak of the examples and not of that. A score that took no part in the choice (`other`) is not flattered in this way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.stats import intervals
from harness.stats.intervals import Combine, Interval

Array = npt.NDArray[np.float64]
_EQUAL = 1e-9


@dataclass(frozen=True)
class Metric:
    """What examples are scored by.

    Attributes:
        statistics: sufficient statistics [S, n, K] of n examples under S settings, the full model's first.
        combine: maps summed statistics [..., K] to values [...].
        better: `higher` or `lower`.
    """

    statistics: Array
    combine: Combine
    better: str

    @property
    def values(self) -> Array:
        """Every example's own value, turned so that more is better [S, n]; NaN where one example has none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.asarray(self.combine(self.statistics), dtype=np.float64)
        return found if self.better == "higher" else -found

    def at(self, chosen: npt.NDArray[np.intp]) -> tuple[Interval, Interval]:
        """The metric of the settings chosen for each example [n], and its paired difference from the full model."""
        picked = self.statistics[chosen, np.arange(len(chosen))]
        return (
            intervals.bootstrap_metric(picked, self.combine),
            intervals.paired_difference(picked, self.statistics[0], self.combine),
        )


@dataclass(frozen=True)
class Oracle:
    """What the oracle finds.

    Attributes:
        chosen: place of the setting of each example [n]; 0 is the full model.
        share: executed blocks over all blocks, in percent, over the decode steps of all examples.
        score: the metric it chose by.
        gap: its paired difference from the full model.
        other: a metric that took no part in the choice, as (value, difference); None: there is none.
    """

    chosen: npt.NDArray[np.intp]
    share: Interval
    score: Interval
    gap: Interval
    other: tuple[Interval, Interval] | None

    def counts(self, settings: int) -> list[int]:
        """Examples for which each of the settings was chosen."""
        return [int(count) for count in np.bincount(self.chosen, minlength=settings)]


def cheapest(values: Array, work: Array) -> npt.NDArray[np.intp]:
    """Return for each example the setting with the least work among those no worse than the first.

    Args:
        values: [S, n], more is better; a NaN is worse than anything.
        work: blocks per token [S, n].
    """
    suffices = values >= values[0] - _EQUAL
    suffices[0] = True
    return np.asarray(np.where(suffices, work, np.inf).argmin(axis=0), dtype=np.intp)


def find(metric: Metric, work: Array, steps: Array, depth: int, other: Metric | None = None) -> Oracle:
    """Return the oracle over recorded settings.

    Args:
        metric: what it chooses by.
        work: blocks per token of each example [S, n], the full model's first.
        steps: decode steps of each example [S, n]; where it is 0 nothing was run.
        depth: blocks of the model.
        other: a metric beside it.

    Raises:
        ValueError: the shapes differ, or there are no examples.
    """
    if metric.statistics.shape[:2] != work.shape or work.shape != steps.shape or not work.shape[1]:
        raise ValueError("oracle: scores, work and steps must be of the same settings and examples")
    chosen = cheapest(metric.values, work)
    rows = np.arange(work.shape[1])
    ran = np.stack([work[chosen, rows] * steps[chosen, rows], depth * steps[chosen, rows]], axis=1)
    score, gap = metric.at(chosen)
    share = intervals.bootstrap_metric(ran, lambda totals: 100 * totals[..., 0] / totals[..., 1])
    return Oracle(chosen, share, score, gap, other.at(chosen) if other else None)
