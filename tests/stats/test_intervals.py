"""Intervals cover what they claim, verdicts say what the interval shows, percentiles refuse what n does not support."""

import math

import numpy as np
import pytest

from harness.stats import intervals as stats
from harness.stats.intervals import Interval, bootstrap_metric, bootstrap_ratio, paired_difference, percentile

RATIO = 1.5


def share(totals: np.ndarray) -> np.ndarray:
    return 100 * totals[..., 0] / totals[..., 1]


def times(rng: np.random.Generator, processes: int, repeats: int, own: float = 0.03) -> tuple[list, list]:
    """Full and method decode times: 10 % noise that both arms share, 3 % of their own, true ratio 1.5."""
    common = rng.lognormal(0, 0.1, (processes, repeats))
    noise = rng.lognormal(0, own, (2, processes, repeats))
    return (RATIO * common * noise[0]).tolist(), (common * noise[1]).tolist()


@pytest.mark.parametrize(("processes", "repeats"), [(1, 5), (1, 20), (2, 5), (5, 5)])
def test_speed_interval_covers_the_true_ratio(processes, repeats):
    """Guards against intervals that claim 95 % and cover far less (plain percentile at n = 5: 83 %) or everything."""
    rng = np.random.default_rng(1)
    intervals = [bootstrap_ratio(*times(rng, processes, repeats), samples=1000, seed=i) for i in range(200)]
    covered = sum(i.low <= RATIO <= i.high for i in intervals)
    assert 0.88 * 200 <= covered <= 0.995 * 200
    # Pairing must remove the shared noise: unpaired, the width would be some four times as large.
    assert np.median([i.high / i.low for i in intervals]) < 1.12


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


def test_ratio_is_of_totals_and_ragged_processes_count_fully():
    """A process that was cut short must neither be dropped nor padded with zeros."""
    interval = bootstrap_ratio([[2.0, 4.0, 6.0], [8.0]], [[1.0, 2.0, 3.0], [4.0]])
    assert (interval.value, interval.low, interval.high, interval.n) == pytest.approx((2.0, 2.0, 2.0, 4))
    assert bootstrap_ratio([[1.0, 9.0]], [[1.0, 1.0]]).value == 5.0


def test_processes_are_resampled_not_only_repeats():
    """Ten repeats in each of two processes that disagree must not look like twenty that agree."""
    apart = bootstrap_ratio([[1.0] * 10, [2.0] * 10], [[1.0] * 10, [1.0] * 10])
    assert apart.low < 1.0 < 2.0 < apart.high
    agree = bootstrap_ratio([[1.0, 2.0] * 5] * 2, [[1.0] * 10] * 2)
    assert 1.0 < agree.low < agree.high < 2.0


def test_results_depend_on_data_and_seed_alone():
    full, method = times(np.random.default_rng(4), 2, 5)
    assert bootstrap_ratio(full, method) == bootstrap_ratio(full, method)
    assert bootstrap_ratio(full, method) != bootstrap_ratio(full, method, seed=1)


def test_one_value_has_no_interval():
    """A single repeat must not give an interval of width zero."""
    for interval in (bootstrap_ratio([[2.0]], [[1.0]]), bootstrap_metric([[1.0, 2.0]], share)):
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
    with pytest.raises(ValueError, match="bootstrap_ratio"):
        bootstrap_ratio(full, method)


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
        (1.01, 1.4, 5, "faster"),
        (0.7, 0.99, 5, "slower"),
        (0.97, 1.05, 5, "no difference detected"),
        (1.0, 1.1, 5, "no difference detected"),
        (0.8, 1.3, 50, "inconclusive"),  # too noisy: a difference of 20 % either way is not ruled out
        (1.5, 1.6, 4, "inconclusive"),  # too few repeats, whatever they say
        (math.nan, math.nan, 9, "inconclusive"),
    ],
)
def test_speed_verdict(low, high, n, verdict):
    assert stats.speed_verdict(Interval((low + high) / 2, low, high, n)) == verdict


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


def test_verdicts_are_right_more_often_than_claimed():
    """With no true difference, at most about 5 % of runs may say faster or slower."""
    rng = np.random.default_rng(7)
    words = []
    for seed in range(200):
        full, method = times(rng, 2, 5)
        words.append(
            stats.speed_verdict(bootstrap_ratio([[t / RATIO for t in row] for row in full], method, seed=seed))
        )
    assert sum(word in ("faster", "slower") for word in words) <= 0.1 * 200
    assert words.count("no difference detected") > 0.5 * 200
