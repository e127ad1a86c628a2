"""Intervals, percentiles and verdicts. Torch-free.

Speed: paired repeats in processes on the log of the ratio, stalled ones left out, see `harness.stats.paired`.

Quality: a percentile bootstrap interval over examples, with the level widened for small samples: the percentile interval
of n values is too narrow by sqrt((n-1)/n) and by normal instead of t quantiles, so the quantiles asked for are

    alpha' = Phi(-sqrt(n / (n - 1)) * t(alpha, n - 1))

(Hesterberg 2015, "What Teachers Should Know About the Bootstrap", arXiv:1411.5279). Results depend on the data and the
seed alone. Scores that are 0 or 1 have tests of their own: `harness.stats.binary`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from harness.stats import paired

Array = npt.NDArray[np.float64]
Combine = Callable[[Array], Array]

MIN_PAIRS = 5
"""Paired repeats below which no speed verdict is given."""
MIN_EXAMPLES = 20
"""Paired examples below which no quality verdict is given: a handful of equal outputs shows no equality."""
WIDE = 1.2
"""An interval of a ratio whose ends lie further apart than this factor is wide: it shows no difference smaller than that."""
VERDICT = 0.99
"""The interval of a speed ratio that must exclude 1 before a difference is spoken of; shown is that of 95 %."""

BLOCK = 4_000_000  # resampling counts held at once, 32 MB


@dataclass(frozen=True)
class Interval:
    """A value with its interval.

    Attributes:
        value: the statistic of the sample itself; NaN where it is undefined (nothing to divide by).
        low: lower end; NaN where the sample supports no interval (fewer than two independent values).
        high: upper end; NaN likewise.
        n: how many values (pairs, examples) it rests on.
        freedom: degrees of freedom of its t quantile, for speed ratios; 0: not of that kind.
    """

    value: float
    low: float
    high: float
    n: int
    freedom: int = 0

    @property
    def known(self) -> bool:
        """Whether value and both ends are finite."""
        return all(map(math.isfinite, (self.value, self.low, self.high)))


def paired_ratio(numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]]) -> Interval:
    """Return sum(numerators) / sum(denominators) with its interval; see `harness.stats.paired`.

    A numerator and its denominator stay together, so what a process or a moment does to both arms cancels; stalled pairs are
    left out. With one process the interval speaks of that process alone.

    Args:
        numerators: [P][R] positive finite numbers, P processes of R repeats; R may differ between processes.
        denominators: the same shape.

    Raises:
        ValueError: shapes differ, nothing is given, or a number is not finite and positive.
    """
    one = ([[[value] for value in row] for row in arm] for arm in (numerators, denominators))
    return interval_of(paired.Pairs.of(*one).ratio_of_totals())


def interval_of(found: paired.Estimate, level: float = 0.95) -> Interval:
    """An estimate on the log scale as a ratio with its interval of `level`."""
    value = math.exp(found.log)
    if not found.freedom:
        return Interval(value, math.nan, math.nan, found.n)
    half = paired.student(found.freedom, level) * found.error
    return Interval(value, value * math.exp(-half), value * math.exp(half), found.n, found.freedom)


def bootstrap_metric(
    stats: npt.ArrayLike, combine: Combine, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return a task metric with its interval over examples.

    Args:
        stats: [n, K] sufficient statistics of n examples.
        combine: maps summed statistics [..., K] to values [...].
        samples: bootstrap resamples.
        level: coverage asked for, 0 to 1.
        seed: of the resampling.

    Raises:
        ValueError: `stats` is empty or not a matrix.
    """
    array = _matrix(stats)
    n = len(array)
    value = float(_combined(combine, array.sum(0)))
    if n < 2:
        return Interval(value, math.nan, math.nan, n)
    low, high = _ends(resampled(array, combine, samples, seed), n, level)
    return Interval(value, low, high, n)


def paired_difference(
    stats_a: npt.ArrayLike,
    stats_b: npt.ArrayLike,
    combine: Combine,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return metric(a) - metric(b) with its interval; row i of both must be the same example.

    Args:
        stats_a: [n, K] sufficient statistics of one arm.
        stats_b: [n, K] of the other, in the same order.
        combine: maps summed statistics [..., K] to values [...].
        samples: bootstrap resamples.
        level: coverage asked for, 0 to 1.
        seed: of the resampling.

    Raises:
        ValueError: the shapes differ, or nothing is given.
    """
    a, b = _matrix(stats_a), _matrix(stats_b)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: shapes {a.shape} and {b.shape} differ; give the same examples for both")
    n = len(a)
    value = float(_combined(combine, a.sum(0)) - _combined(combine, b.sum(0)))
    if n < 2:
        return Interval(value, math.nan, math.nan, n)
    values = resampled(a, combine, samples, seed) - resampled(b, combine, samples, seed)
    low, high = _ends(values, n, level)
    return Interval(value, low, high, n)


def percentile(values: Sequence[float] | npt.NDArray[np.floating], q: float) -> float | None:
    """Return the q-th percentile (0 to 100, linear interpolation), or None where there are too few values for it.

    At least two values must be expected beyond it: 20 for p90, 200 for p99; one value is enough for the median. None
    also if a value is not finite.
    """
    if not 0 <= q <= 100:
        raise ValueError(f"percentile: {q} is not from 0 to 100")
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or array.size < support(q) or not np.isfinite(array).all():
        return None
    return _quantiles(array, [q / 100])[0]


def support(q: float) -> float:
    """Return how many values the q-th percentile needs: 2 / share beyond it, 1 for the median, inf for the extremes."""
    tail = min(q, 100 - q) / 100
    if tail >= 0.5:
        return 1
    return math.ceil(round(2 / tail, 6)) if tail > 0 else math.inf


def dispersion(groups: Sequence[Sequence[float]]) -> float | None:
    """Return interquartile range over median of times, each divided by the median of its group first.

    Groups are what may differ for a reason (prompts of other lengths); what is left is noise. None where fewer
    than MIN_PAIRS times remain in groups of at least two, or a time is not finite and positive.
    """
    scaled: list[float] = []
    for group in groups:
        if not all(math.isfinite(value) and value > 0 for value in group):
            return None
        if len(group) > 1:
            middle = statistics.median(group)
            scaled += [value / middle for value in group]
    if len(scaled) < MIN_PAIRS:
        return None
    low, middle, high = _quantiles(np.array(scaled), [0.25, 0.5, 0.75])
    return (high - low) / middle


def speed_verdict(interval: Interval, *, wide: bool = False) -> str:
    """Return what an interval of a speed ratio (full over method) shows.

    `faster` and `slower`: 1 lies outside even the interval of VERDICT (99 %), for among twenty verdicts that need 95 % one is
    wrong; and where the cell is `wide` (the ends of its interval are further apart than WIDE, or the caller says so), the ratio
    itself is that far from 1, too.
    `no difference detected`: the interval holds 1 and is narrow. `inconclusive`: everything else, fewer than MIN_PAIRS paired
    repeats, and no interval.
    """
    if interval.n < MIN_PAIRS or not interval.known:
        return "inconclusive"
    narrow = interval.high <= WIDE * interval.low
    away = abs(math.log(interval.value))
    if away > _stricter(interval) and (away >= math.log(WIDE) or narrow and not wide):
        return "faster" if interval.value > 1 else "slower"
    return "no difference detected" if narrow and interval.low <= 1 <= interval.high else "inconclusive"


def _stricter(interval: Interval) -> float:
    """The half width, on the log scale, of the interval of VERDICT around a ratio that has one of 95 %."""
    half = max(math.log(interval.high / interval.value), math.log(interval.value / interval.low))
    freedom = interval.freedom or interval.n - 1
    return half * paired.student(freedom, VERDICT) / paired.student(freedom, 0.95)


def quality_verdict(interval: Interval, margin: float, better: str) -> str:
    """Return what an interval of a paired difference (method minus full) shows about a loss of more than `margin`.

    `keeps quality`: the whole interval is better than a loss of `margin`. `loses quality`: the whole interval is worse.
    `inconclusive`: the interval holds the margin, there is none, or it rests on fewer than MIN_EXAMPLES examples.

    Args:
        interval: of the difference, in the metric's own unit.
        margin: the loss one accepts, 0 or more, in the same unit.
        better: `higher` or `lower`, which values of the metric are good.

    Raises:
        ValueError: a negative margin or another word for `better`.
    """
    if better not in ("higher", "lower") or not margin >= 0:
        raise ValueError(f"quality_verdict: margin={margin} must be 0 or more, better={better!r} 'higher' or 'lower'")
    if interval.n < MIN_EXAMPLES or not interval.known:
        return "inconclusive"
    worst, best = (interval.low, interval.high) if better == "higher" else (-interval.high, -interval.low)
    # A margin of 0 with outputs that are all equal is kept: the loss is exactly the one accepted.
    return "keeps quality" if worst >= -margin else "loses quality" if best < -margin else "inconclusive"


def _matrix(stats: npt.ArrayLike) -> Array:
    array = np.asarray(stats, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"statistics of shape {array.shape}; give [examples, statistics], at least one of each")
    return array


def _combined(combine: Combine, totals: Array) -> Array:
    # 0/0 is NaN, undefined, and dealt with where the interval is made; the warning would say nothing more.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(combine(totals), dtype=np.float64)


def resampled(array: Array, combine: Combine, samples: int, seed: int) -> Array:
    """The metric of each resample."""
    return _values(array.tobytes(), array.shape, combine, samples, seed)


@lru_cache(maxsize=64)  # an arm is judged alone and beside full, and full beside every arm
def _values(content: bytes, shape: tuple[int, int], combine: Combine, samples: int, seed: int) -> Array:
    array = np.frombuffer(content).reshape(shape)
    found = np.concatenate([_combined(combine, counts @ array) for counts in _resamples(len(array), samples, seed)])
    found.flags.writeable = False
    return found


def _resamples(n: int, samples: int, seed: int) -> Iterator[Array]:
    """How often each of n examples is drawn in each resample, in blocks [rows, n]; times the statistics, their sums."""
    rows = max(1, min(samples, BLOCK // n))
    for block, start in enumerate(range(0, samples, rows)):
        yield _counts(n, min(rows, samples - start), seed, block)


@lru_cache(maxsize=4)  # all arms and metrics of a task share n, and with it the resamples
def _counts(n: int, rows: int, seed: int, block: int) -> Array:
    drawn = np.random.default_rng([seed, block]).integers(n, size=(rows, n))
    drawn += n * np.arange(rows)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n * rows).reshape(rows, n).astype(np.float64)
    counts.flags.writeable = False
    return counts


def _quantiles(values: Array, shares: Sequence[float]) -> list[float]:
    """As numpy.quantile of finite values, which takes five times as long for as few as these."""
    ordered = np.sort(values)
    found = np.interp(np.array(shares) * (ordered.size - 1), np.arange(ordered.size), ordered)
    return [float(value) for value in found]


def _ends(values: Array, n: int, level: float) -> tuple[float, float]:
    """The two quantiles of the resampled values; NaN if the statistic is undefined in most resamples."""
    finite = values[np.isfinite(values)]
    if finite.size < 0.5 * values.size:
        return math.nan, math.nan
    alpha = _alpha(n, level)
    low, high = _quantiles(finite, [alpha, 1 - alpha])
    return low, high


@lru_cache(maxsize=256)
def _alpha(n: int, level: float) -> float:
    """The quantile to ask of the resamples for an interval of `level` from n values; see the module's docstring."""
    return float(_ndtr(-math.sqrt(n / (n - 1)) * paired.student(n - 1, level)))


def _ndtr(x: float) -> float:
    """The normal distribution function."""
    return 0.5 * math.erfc(-x / math.sqrt(2))
