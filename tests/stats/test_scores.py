"""Paired comparison of scores, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest

from harness.records import readings
from harness.stats import scores


def statistics(values: list[float]) -> np.ndarray:
    return np.array([[value, 1.0] for value in values])


def test_right_and_wrong_answers_are_compared_by_mcnemar() -> None:
    how = readings.reading("acc")
    assert how is not None
    found = scores.Paired(statistics([1, 1, 1, 1, 0, 1] * 5), statistics([0, 1, 0, 1, 1, 1] * 5), how.combine)
    assert (found.test, found.counts and (found.counts.gained, found.counts.lost)) == (scores.MCNEMAR, (10, 5))
    assert found.difference.value == pytest.approx(100 * 5 / 30) and found.p == pytest.approx(0.3018, abs=1e-4)
    # Without a discordant pair a bootstrap says that the difference is 0 for certain.
    same = scores.Paired(statistics([1, 0] * 15), statistics([1, 0] * 15), how.combine)
    assert same.p == 1 and same.difference.low < 0 < same.difference.high


def test_anything_else_is_compared_by_a_paired_bootstrap() -> None:
    how = readings.reading("perplexity")
    assert how is not None
    rng = np.random.default_rng(0)
    full = rng.normal(-3, 1, 200)
    worse = scores.Paired(statistics(list(full - 0.3 + rng.normal(0, 0.1, 200))), statistics(list(full)), how.combine)
    assert worse.test == scores.BOOTSTRAP and worse.p < 0.01 and worse.difference.low > 0
    noise = [
        scores.Paired(statistics(list(full + rng.normal(0, 0.1, 200))), statistics(list(full)), how.combine).p
        for _ in range(40)
    ]
    assert sum(p < 0.05 for p in noise) <= 6, "4 in 40 and their spread"
    assert scores.Paired(statistics([-1.5]), statistics([-1.5]), how.combine).p == 1


def test_holm_equals_the_worked_example() -> None:
    assert scores.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert scores.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0]) and scores.holm([]) == []
