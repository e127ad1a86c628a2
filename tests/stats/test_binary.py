"""Scores of 0 and 1: McNemar's test against the binomial by hand, and intervals that cover where little differs."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from harness.stats import intervals
from harness.stats.binary import Discordant, difference, discordant, mcnemar


def scores(values: list[float]) -> list[list[float]]:
    return [[value, 1.0] for value in values]


def test_discordant_pairs_are_counted():
    found = discordant(scores([1, 1, 0, 0, 0]), scores([1, 0, 1, 1, 0]))
    assert found == Discordant(gained=1, lost=2, n=5, scale=1.0)
    assert discordant(scores([100, 0]), scores([0, 0])) == Discordant(1, 0, 2, 100.0)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (scores([0.5, 1]), scores([1, 1])),  # a graded score
        ([[1.0, 3.0]], [[2.0, 3.0]]),  # a share of three
        ([[1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]]),
        (scores([1.0]), scores([1.0, 0.0])),
        (scores([0.0]), scores([0.0])),  # nothing tells what a right answer is worth
    ],
)
def test_other_scores_are_not_taken_for_right_and_wrong(mine, theirs):
    assert discordant(mine, theirs) is None


def test_mcnemar_is_the_exact_binomial():
    by_hand = 2 * sum(comb(10, k) for k in range(3)) / 2**10
    assert mcnemar(Discordant(gained=2, lost=8, n=400)) == pytest.approx(by_hand)
    assert mcnemar(Discordant(gained=8, lost=2, n=400)) == pytest.approx(by_hand)
    assert mcnemar(Discordant(0, 0, 50)) == 1.0
    assert mcnemar(Discordant(5, 5, 50)) == 1.0
    assert mcnemar(Discordant(0, 20, 100)) < 1e-5


def test_nothing_differing_in_thirty_examples_is_no_proof():
    """The bootstrap would give an interval of width zero; a true loss of several points is not ruled out by 30."""
    found = difference(Discordant(0, 0, 30, 100.0))
    assert found.value == 0
    assert found.low < -3
    assert intervals.quality_verdict(found, 1.0, "higher") == "inconclusive"
    many = difference(Discordant(0, 0, 3000, 100.0))
    assert intervals.quality_verdict(many, 1.0, "higher") == "keeps quality"


@pytest.mark.parametrize(("lost", "gained", "n"), [(0.02, 0.01, 100), (0.10, 0.05, 60), (0.3, 0.1, 300)])
def test_the_interval_of_the_difference_covers(lost, gained, n):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        drawn = rng.multinomial(n, [gained, lost, 1 - gained - lost])
        found = difference(Discordant(int(drawn[0]), int(drawn[1]), n))
        covered += found.low <= gained - lost <= found.high
    assert covered >= 0.92 * 400
