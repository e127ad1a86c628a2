"""Learn then Test: the p-value is the published one, the sequence stops where it must, the promise holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import BadInput
from harness.stats import ltt


def test_p_value_by_hand() -> None:
    """N = 10, delta = 0.5, no loss at all: Hoeffding gives 0.5^10, Bentkus e 0.5^10; the smaller counts."""
    assert ltt.p_value(0.0, 10, 0.5) == pytest.approx(0.5**10)
    # Two of 4 lost at delta 0.9: e P(Bin(4, 0.9) <= 2) = e (0.0001 + 0.0036 + 0.0486).
    hoeffding = math.exp(-4 * (0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)))
    assert ltt.p_value(2.0, 4, 0.9) == pytest.approx(min(hoeffding, math.e * 0.0523))
    assert ltt.p_value(5.0, 10, 0.5) == 1.0
    assert ltt.p_value(9.9, 10, 0.5) == 1.0


def test_p_value_agrees_with_scipy_and_is_valid() -> None:
    """P(p <= u) <= u at the edge of the hypothesis (risk = delta), for losses of two values and for others."""
    from scipy.stats import binom

    n, delta = 60, 0.2
    for total in (0.0, 3.0, 7.5, 11.0):
        mean = min(total / n, delta)
        kl = (mean * math.log(mean / delta) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - delta))
        want = min(1.0, math.exp(-n * kl), math.e * binom.cdf(math.ceil(total), n, delta))
        assert ltt.p_value(total, n, delta) == pytest.approx(want)
    rng = np.random.default_rng(0)
    for losses in (rng.random((4000, n)) < delta, rng.beta(0.5, 2.0, (4000, n))):
        p = np.array([ltt.p_value(float(total), n, delta) for total in losses.sum(1)])
        for level in (0.01, 0.05, 0.2):
            assert (p <= level).mean() <= level + 0.01


def test_sequence_stops_at_the_first_failure_and_asks_for_no_more() -> None:
    asked = []

    def losses(place: int) -> np.ndarray:
        asked.append(place)
        return np.full(400, [0.01, 0.05, 0.3, 0.0][place])

    tested = ltt.fixed_sequence(losses, 4, delta=0.1, epsilon=0.05)
    assert [t.rejected for t in tested] == [True, True, False] and asked == [0, 1, 2]
    assert ltt.chosen(tested) == 1
    assert ltt.chosen(ltt.fixed_sequence(lambda _: np.full(400, 0.2), 4, 0.1, 0.05)) is None
    assert ltt.chosen([]) is None


def test_the_promise_holds_where_it_is_tight() -> None:
    """Risks just below and above delta: the bad setting is chosen in at most epsilon of the draws, the good ones often."""
    rng = np.random.default_rng(1)
    risks = [0.02, 0.06, 0.101, 0.3]
    pool = [(rng.random(100_000) < risk).astype(float) for risk in risks]
    drawn = ltt.draw_check(lambda j: pool[j], 4, 0.1, 0.1, draws=600, size=500)
    broken = sum(one.pool_risk > 0.1 for one in drawn)
    assert ltt.share_interval(broken, len(drawn))[0] <= 0.1
    assert sum(one.chosen == 1 for one in drawn) > 400


def test_splits_are_disjoint_and_repeatable() -> None:
    values = np.linspace(0, 0.1, 50)
    first = ltt.split_check(lambda _: values, 1, 0.2, 0.05, splits=5, seed=3)
    assert first == ltt.split_check(lambda _: values, 1, 0.2, 0.05, splits=5, seed=3)
    for one in first:
        assert one.chosen == 0 and one.test_risk is not None
        assert 0.8 * one.calibration_risk + 0.2 * one.test_risk == pytest.approx(values.mean())
    none = ltt.split_check(lambda _: np.ones(50), 1, 0.2, 0.05, splits=2)
    assert all(one.chosen is None and one.test_risk == 0 for one in none)


def test_share_interval_is_exact() -> None:
    assert ltt.share_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    low, high = ltt.share_interval(5, 10)
    assert (low, high) == (pytest.approx(0.187086, abs=1e-5), pytest.approx(0.812914, abs=1e-5))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="delta: 0 is out of range"):
        ltt.check_levels(0, 0.05)
    with pytest.raises(BadInput, match="epsilon: 1 is out of range"):
        ltt.check_levels(0.1, 1)
    with pytest.raises(BadInput, match="numbers from 0 to 1"):
        ltt.fixed_sequence(lambda _: np.array([0.5, 1.2]), 1, 0.1, 0.05)
    with pytest.raises(BadInput, match="cannot be split"):
        ltt.split_check(lambda _: np.array([0.5]), 1, 0.1, 0.05)
