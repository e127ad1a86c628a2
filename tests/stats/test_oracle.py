"""The oracle: cheapest budget that is no worse on the example, its share, its score, and the bias of choosing by the score."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats import oracle

DEPTH = 24


def mean(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


def metric(values: np.ndarray, better: str = "higher") -> oracle.Metric:
    """A mean over examples, from values [S, n]."""
    return oracle.Metric(np.stack([values, np.ones_like(values)], axis=-1), mean, better)


def found(values: np.ndarray, better: str = "higher", other: oracle.Metric | None = None) -> oracle.Oracle:
    work = np.broadcast_to(np.array([24.0, 12.0, 6.0])[:, None], values.shape).copy()
    return oracle.find(metric(values, better), work, np.full(values.shape, 10.0), DEPTH, other)


def test_the_cheapest_budget_that_is_no_worse_is_taken() -> None:
    values = np.tile([[3.0, 3.0, 3.0, 3.0], [3.0, 4.0, 1.0, 1.0], [1.0, 3.0, 3.0, 1.0]], 10)
    one = found(values)
    assert one.chosen[:4].tolist() == [1, 2, 2, 0] and one.counts(3) == [10, 10, 20]
    assert one.share.value == pytest.approx(100 * (12 + 6 + 6 + 24) / (4 * 24)) and one.share.known
    assert one.score.value == pytest.approx(3.0) and one.gap.value == pytest.approx(0.0)
    # Where less is better the signs turn.
    assert found(-values, "lower").chosen.tolist() == one.chosen.tolist()


def test_no_budget_is_taken_for_what_it_cannot_be_scored_on() -> None:
    values = np.array([[1.0] * 30, [np.nan] * 30, [0.0] * 30])
    assert found(values).counts(3) == [30, 0, 0] and found(values).share.value == pytest.approx(100.0)
    with pytest.raises(ValueError, match="same settings"):
        oracle.find(metric(values), np.ones((2, 30)), np.ones((3, 30)), DEPTH)


def test_chance_alone_flatters_the_score_chosen_by_and_not_the_other() -> None:
    """All three settings are equally good: the oracle's own metric rises above full, one that took no part does not."""
    draw = np.random.default_rng(0)
    one = found(draw.normal(size=(3, 4000)), other=metric(draw.normal(size=(3, 4000))))
    assert one.gap.low > 0 and one.other is not None
    assert one.other[1].low < 0 < one.other[1].high
    assert one.share.high < 100
