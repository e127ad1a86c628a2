"""Intervals cover what they claim, verdicts say what the interval shows, percentiles refuse what n does not support."""

import math

import numpy as np
import pytest

from harness.stats import intervals as stats
from harness.stats.intervals import Interval, bootstrap_metric, paired_difference, paired_ratio, percentile


def share(totals: np.ndarray) -> np.ndarray:
    return 100 * totals[..., 0] / totals[..., 1]


@pytest.mark.parametrize("n", [24, 300])
def test_quality_intervals_cover_the_true_score_and_difference(n):
    rng = np.random.default_rng(2)
    covered = np.zeros(2)
    for seed in range(200):
        words = rng.integers(5, 15, n)
        right = rng.binomial(words, 0.7)
        fewer = rng.binomial(right, 0.9)  # the arm keeps 9 in 10 of what full gets right: 63 against 70
        mine, full = np.stack([fewer, words], 1), np.stack([right, words], 1)
        own = bootstrap_metric(mine, share, samples=400, seed=seed)
        gap = paired_difference(mine, full, share, samples=400, seed=seed)
        covered += own.low <= 63 <= own.high, gap.low <= -7 <= gap.high
    assert (covered >= 0.88 * 200).all()
    assert (covered <= 0.995 * 200).all()


def test_paired_difference_uses_the_pairs():
    """Two arms that always differ by one point differ by one point for certain, however much the examples vary."""
    scores = np.random.default_rng(3).uniform(0, 90, 50)
    ones = np.ones(50)
    gap = paired_difference(
        np.stack([scores + 1, ones], 1), np.stack([scores, ones], 1), lambda t: t[..., 0] / t[..., 1]
    )
    assert (gap.value, gap.low, gap.high) == pytest.approx((1, 1, 1))
    assert gap.n == 50


def test_ragged_processes_count_fully():
    """A process that was cut short must neither be dropped nor padded with zeros."""
    interval = paired_ratio([[2.0, 4.0, 6.0], [8.0]], [[1.0, 2.0, 3.0], [4.0]])
    assert (interval.value, interval.low, interval.high, interval.n) == pytest.approx((2.0, 2.0, 2.0, 4))


def test_processes_are_what_repeats():
    """Ten repeats in each of two processes that disagree must not look like twenty that agree."""
    apart = paired_ratio([[1.0] * 10, [1.5] * 10], [[1.0] * 10, [1.0] * 10])
    assert apart.low < 1.0 < 1.5 < apart.high
    agree = paired_ratio([[1.0, 1.5] * 5] * 2, [[1.0] * 10] * 2)
    assert 1.0 < agree.low <= agree.high < 1.5


def test_one_value_has_no_interval():
    """A single repeat must not give an interval of width zero."""
    for interval in (paired_ratio([[2.0]], [[1.0]]), bootstrap_metric([[1.0, 2.0]], share)):
        assert interval.n == 1
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        assert not interval.known
        assert stats.speed_verdict(interval) == "inconclusive"


def test_undefined_metric_is_not_a_number():
    """Slot errors over texts without slots: 0/0, which must not become 0 or raise."""
    interval = bootstrap_metric(np.zeros((30, 2)), share)
    assert math.isnan(interval.value)
    assert math.isnan(interval.low)
    assert stats.quality_verdict(interval, 1.0, "lower") == "inconclusive"


@pytest.mark.parametrize(
    ("full", "method"), [([], []), ([[]], [[]]), ([[1.0]], [[1.0, 2.0]]), ([[1.0]], [[0.0]]), ([[math.nan]], [[1.0]])]
)
def test_bad_times_are_refused(full, method):
    with pytest.raises(ValueError, match="paired times"):
        paired_ratio(full, method)


def test_mismatched_examples_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        paired_difference([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]], share)


def test_resampling_in_blocks_is_a_bootstrap_too(monkeypatch):
    """Large tasks are resampled block by block; the spread must be that of one block."""
    data = np.stack([np.random.default_rng(5).binomial(10, 0.6, 200), np.full(200, 10)], 1)
    whole = bootstrap_metric(data, share)
    monkeypatch.setattr(stats, "BLOCK", 200 * 30)
    blocks = bootstrap_metric(data, share)
    assert blocks.value == whole.value
    assert blocks.high - blocks.low == pytest.approx(whole.high - whole.low, rel=0.15)


@pytest.mark.parametrize(("q", "enough"), [(50, 1), (90, 20), (95, 40), (99, 200), (99.9, 2000), (10, 20), (75, 8)])
def test_percentile_needs_enough_values(q, enough):
    values = list(range(enough))
    assert percentile(values, q) == pytest.approx(np.percentile(values, q))
    assert percentile(values[1:], q) is None


def test_percentile_edges():
    assert percentile([], 50) is None
    assert percentile([3.0], 50) == 3.0
    assert percentile([1.0, math.nan], 50) is None
    assert percentile(list(range(10_000)), 100) is None
    with pytest.raises(ValueError, match="101"):
        percentile([1.0], 101)


@pytest.mark.parametrize(
    ("low", "high", "n", "verdict"),
    [
        (1.2, 1.4, 5, "faster"),
        (0.7, 0.85, 5, "slower"),
        (1.01, 1.4, 5, "inconclusive"),  # one in twenty such intervals misses: a verdict asks for 99 %
        (1.04, 1.3, 50, "inconclusive"),  # excludes 1, but is wide and lies close to it
        (1.06, 1.1, 50, "faster"),
        (0.97, 1.05, 5, "no difference detected"),
        (1.0, 1.1, 5, "no difference detected"),
        (0.8, 1.3, 50, "inconclusive"),  # too noisy: a difference of 20 % either way is not ruled out
        (1.5, 1.6, 4, "inconclusive"),  # too few repeats, whatever they say
        (math.nan, math.nan, 9, "inconclusive"),
    ],
)
def test_speed_verdict(low, high, n, verdict):
    assert stats.speed_verdict(Interval(math.sqrt(low * high), low, high, n)) == verdict


def test_a_wide_cell_shows_only_large_differences():
    """Beside other programs a narrow interval may come about by chance: there a difference of 20 % is asked for."""
    near, far = Interval(1.1, 1.08, 1.12, 20), Interval(1.5, 1.45, 1.55, 20)
    assert (stats.speed_verdict(near), stats.speed_verdict(near, wide=True)) == ("faster", "inconclusive")
    assert stats.speed_verdict(far, wide=True) == "faster"


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-0.9, 0.4, "higher", "keeps quality"),
        (-1.0, -0.5, "higher", "keeps quality"),
        (-3.0, -1.2, "higher", "loses quality"),
        (-1.4, 0.2, "higher", "inconclusive"),
        (2.0, 5.0, "higher", "keeps quality"),
        (-0.4, 0.9, "lower", "keeps quality"),
        (1.2, 3.0, "lower", "loses quality"),
        (-0.2, 1.4, "lower", "inconclusive"),
        (-5.0, -2.0, "lower", "keeps quality"),
    ],
)
def test_quality_verdict(low, high, better, verdict):
    assert stats.quality_verdict(Interval((low + high) / 2, low, high, 300), 1.0, better) == verdict


def test_quality_verdict_needs_examples_and_a_direction():
    """Three equal outputs are no evidence of equal quality."""
    assert stats.quality_verdict(Interval(0.0, 0.0, 0.0, 3), 1.0, "higher") == "inconclusive"
    with pytest.raises(ValueError, match="sideways"):
        stats.quality_verdict(Interval(0.0, 0.0, 0.0, 300), 1.0, "sideways")
    with pytest.raises(ValueError, match="-1"):
        stats.quality_verdict(Interval(0.0, 0.0, 0.0, 300), -1.0, "higher")
