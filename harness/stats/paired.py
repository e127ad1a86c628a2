"""Speed ratios of paired repeats in processes: a location that one stall in five cannot move, with its interval. Torch-free.

A repeat is *stalled* that took more than STALL times the median of its arm on the same prompts in its process. The rule is the
same for both arms and looks at nothing else; a pair with a stalled repeat, of whichever arm, does not enter the estimate. What is
left gives

    y_p = log(full / method) of process p, each a total over prompts of the geometric mean over repeats
    value = exp(mean y_p),    interval value * exp(+-h),    h = t(P - 1) * s / sqrt(P),    s the standard deviation of the y_p

Processes are what repeats independently (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time", on the levels):
they differ in where their memory lies, and repeats of one process are alike and follow each other. With P processes the
interval is exact whatever goes on inside them, and wide with few: the factor t is 2.8 with five, 4.3 with three and 12.7 with two.
One process speaks of itself alone, its repeats taken as independent (what each pair moves the estimate by, t with one less
than the pairs; prompts that differ count as noise, too). A single pair supports no interval.

Simulated coverage of the nominal 95 % (`harness.stats.coverage`, 2,000 samples a scenario; results/statistics/coverage.csv):
with two processes or more 93 to 97 % for clean, drifting and autocorrelated times, with processes that differ, and with 5 or
20 % of the repeats of either arm or both stalled by 3 to 60 times; with one process of 5 or 10 repeats 92 to 99 %, the low
end where the noise of the machine lasts as long as a round of ten arms. Where both arms stall in 20 % of their repeats, a
quarter of the samples keep fewer than 60 % of their pairs and get no interval: `Pairs.stalled` counts them, and whoever reads the
interval refuses it (`harness.records.usability`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Times = Sequence[Sequence[Sequence[float]]]

STALL = 2.0
"""A repeat that took longer than this many times the median of its arm on the same prompts is stalled."""
FOLLOWING = 1.1
"""How much wider the interval of one process is than that of independent repeats: they follow each other."""
GROUP = 3
"""Repeats of one arm on the same prompts without which nothing tells a stall from the usual."""


@dataclass(frozen=True)
class Estimate:
    """A ratio on the log scale, and what it rests on.

    Attributes:
        log: logarithm of the ratio.
        error: standard error of it; NaN with fewer than two independent values.
        freedom: degrees of freedom of that error, 0 where there is none.
        n: pairs that entered.
    """

    log: float
    error: float
    freedom: int
    n: int


@dataclass(frozen=True)
class Pairs:
    """Paired times of two arms.

    Attributes:
        above: numerators [P, Rmax, K]: P processes of up to Rmax repeats on K prompts; 0 where nothing was timed.
        below: denominators, the same shape.
        repeats: repeats of each process [P].
    """

    above: Array
    below: Array
    repeats: npt.NDArray[np.int64]

    @staticmethod
    def of(above: Times, below: Times) -> Pairs:
        """The pairs of nested lists [P][R][K]; `ValueError` where they do not fit each other or a time cannot be."""
        repeats = np.array([len(row) for row in above], dtype=np.int64)
        if [len(row) for row in below] != repeats.tolist() or repeats.size == 0 or repeats.min() == 0:
            raise ValueError("paired times: both arms must have the same shape [P][R], nothing empty")
        found = Pairs(_padded(above, repeats), _padded(below, repeats), repeats)
        for times in (found.above, found.below):
            if not np.isfinite(times).all() or (times < 0).any() or (times.sum((0, 1)) <= 0).any():
                raise ValueError("paired times: every number must be finite and positive")
        alike = ((found.above > 0) == (found.below > 0)).all()
        if not alike or not (found.above.sum(2) > 0)[found.valid].all():
            raise ValueError("paired times: every number must be finite and positive, for both arms or for neither")
        return found

    @property
    def valid(self) -> Mask:
        """Which places [P, Rmax] hold a repeat."""
        return np.arange(self.above.shape[1]) < self.repeats[:, None]

    @cached_property
    def kept(self) -> Mask:
        """Which places [P, Rmax] hold a pair of which neither repeat is stalled."""
        return np.asarray(self.valid & ~(slowness(self.above) > STALL) & ~(slowness(self.below) > STALL))

    @property
    def stalled(self) -> int:
        """How many pairs do not enter because a repeat of theirs is stalled."""
        return int(self.valid.sum() - self.kept.sum())

    def ratio_of_totals(self) -> Estimate:
        """Above over below, each summed over the prompts; a prompt counts by its time."""
        return self._estimate(self._totals)

    def geometric_mean(self) -> Estimate:
        """The mean over prompts of their own ratios, every prompt counting once; with one prompt the same as above."""
        return self._estimate(self._prompts)

    def _estimate(self, of: Callable[[Mask], tuple[float, Array]]) -> Estimate:
        kept = self.kept
        counts = kept.sum(1)
        n, there = int(counts.sum()), counts > 0
        if there.sum() == 1:
            value, parts = of(kept)
            parts = parts[kept]
            error = FOLLOWING * math.sqrt(float((parts**2).sum()) * n / (n - 1)) if n > 1 else math.nan
            return Estimate(value, error, n - 1, n)
        each = np.array([of(kept & (np.arange(len(kept)) == p)[:, None])[0] for p in np.flatnonzero(there)])
        size, weight = len(each), counts[there] / n
        value = float(weight @ each)
        error = math.sqrt(float((weight**2) @ (each - value) ** 2) * size / (size - 1))
        return Estimate(value, error, size - 1, n)

    def _totals(self, kept: Mask) -> tuple[float, Array]:
        """The log ratio of totals over prompts of geometric means over the pairs kept, and what each of them moves it by."""
        logs, timed, counts = self._logs(kept)
        means = logs.sum((1, 2)) / np.maximum(counts, 1)  # [2, K]
        total = np.exp(means) * (counts > 0)
        value = math.log(total[0].sum()) - math.log(total[1].sum())
        weight = timed * (total[0] / total[0].sum() / np.maximum(counts, 1))
        return value, np.asarray((weight * (logs[0] - logs[1] - value)).sum(2))

    def _prompts(self, kept: Mask) -> tuple[float, Array]:
        """The mean over prompts of their mean log ratios over the pairs kept, and what each of them moves it by."""
        logs, timed, counts = self._logs(kept)
        weight = timed / np.maximum(counts, 1) / (counts > 0).sum()
        value = float((weight * (logs[0] - logs[1])).sum())
        return value, np.asarray((weight * (logs[0] - logs[1] - value)).sum(2))

    def _logs(self, kept: Mask) -> tuple[Array, Mask, Array]:
        """Logarithms [2, P, Rmax, K] of the pairs kept, 0 elsewhere; where there are any [P, Rmax, K]; how many per prompt [K]."""
        timed = (self.above > 0) & kept[..., None]
        logs = np.log(np.where(timed, np.stack((self.above, self.below)), 1.0))
        return logs, timed, timed.sum((0, 1))


def slowness(times: Array) -> Array:
    """How many times the median of its arm on the same prompts each repeat took, the most over its prompts [P, R].

    Repeats stand beside those of their process, which may be faster or slower than another as a whole; where it has fewer than
    GROUP on a prompt, beside those of all processes at its own pace; 1 where these are too few as well. The lower of two middle
    values counts as the median: of four repeats two may be stalled.

    Args:
        times: [P, R, K] of one arm, 0 where nothing was timed.
    """
    timed = times > 0
    ordered = np.sort(np.where(timed, times, np.inf), axis=1)  # [P, R, K]
    own = np.take_along_axis(ordered, np.maximum((timed.sum(1) - 1) // 2, 0)[:, None], axis=1)[:, 0]  # [P, K]
    every = np.sort(np.where(timed, times, np.inf).reshape(-1, times.shape[2]), axis=0)
    counts = timed.sum((0, 1))
    common = np.take_along_axis(every, np.maximum((counts - 1) // 2, 0)[None], axis=0)[0]  # [K]
    common = np.where(counts >= GROUP, common, np.inf)
    relative = np.sort(np.where(timed & np.isfinite(common), times / common, np.inf).reshape(len(times), -1), axis=1)
    known = np.isfinite(relative).sum(1)
    pace = np.where(known >= GROUP, relative[np.arange(len(times)), np.maximum((known - 1) // 2, 0)], 1.0)  # [P]
    middle = np.where(timed.sum(1) >= GROUP, own, common * pace[:, None])  # [P, K]
    slow = np.where(timed & np.isfinite(middle)[:, None], times / middle[:, None], 1.0)
    return np.asarray(slow.max(2))


@lru_cache(maxsize=256)
def student(freedom: float, level: float) -> float:
    """The quantile of Student's t that a two-sided interval of `level` asks for."""
    if not 0 < level < 1:
        raise ValueError(f"level: {level} is not between 0 and 1")
    # Imported here because it costs more than all the rest of the module, and a reader of verdicts does not need it.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - (1 - level) / 2))


def _padded(rows: Times, repeats: npt.NDArray[np.int64]) -> Array:
    """The ragged rows as [P, Rmax, K], zeros where a process has fewer repeats."""
    widths = {len(values) for row in rows for values in row}
    if len(widths) != 1 or widths == {0}:
        raise ValueError("paired times: every repeat must name the same prompts, at least one")
    array = np.zeros((len(rows), int(repeats.max()), widths.pop()))
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
