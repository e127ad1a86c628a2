"""The speed interval covers what it claims also where processes differ, and a run against itself shows no difference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats import intervals
from harness.stats.intervals import bootstrap_geometric_mean, bootstrap_ratio
from harness.stats.paired import Pairs

RATIO = 1.3
NOISE = 0.04
TRIES = 120


def simulate(
    rng: np.random.Generator, processes: int, repeats: int, own: float, spikes: bool = False, ratio: float = RATIO
) -> tuple[list, list]:
    """Times of full and method: noise shared by a pair, noise of each, a ratio of its own in every process, outliers."""
    shared = rng.lognormal(0, 0.1, (processes, repeats))
    noise = rng.lognormal(0, NOISE / math.sqrt(2), (2, processes, repeats))
    if spikes:
        noise *= np.where(rng.random(noise.shape) < 0.06, 1 + rng.exponential(0.4, noise.shape), 1)
    differ = rng.lognormal(0, own * NOISE, (processes, 1))
    return (ratio * shared * differ * noise[0]).tolist(), (shared * noise[1]).tolist()


@pytest.mark.parametrize(
    ("processes", "repeats", "own", "spikes"),
    [(5, 10, 0.0, False), (5, 10, 1.0, False), (5, 5, 3.0, False), (5, 10, 3.0, True)],
)
def test_intervals_cover_whether_processes_agree_or_differ(processes, repeats, own, spikes):
    """Resampling repeats as if they were independent covers 85 % where processes differ, and says 95 %."""
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(TRIES):
        found = bootstrap_ratio(*simulate(rng, processes, repeats, own, spikes), samples=300, seed=seed)
        covered += found.low <= RATIO <= found.high
    assert covered >= 0.89 * TRIES


def test_two_processes_that_differ_are_not_believed():
    """Two processes say little of how processes differ: the interval must be far wider than their distance."""
    apart = bootstrap_ratio([[1.0] * 10, [1.1] * 10], [[1.0] * 10] * 2)
    assert apart.high / apart.low > 1.5
    assert intervals.speed_verdict(apart) == "inconclusive"


def test_pairs_are_worth_less_the_more_processes_differ():
    rng = np.random.default_rng(5)
    worth = [Pairs.of(*_one(simulate(rng, 5, 10, own))).independent() for own in (0.0, 1.0, 10.0)]
    assert 50 >= worth[0] > worth[1] > worth[2] >= 5
    assert worth[2] == pytest.approx(5, abs=0.5)


def _one(times):
    return tuple([[[value] for value in row] for row in arm] for arm in times)


def test_full_against_itself_shows_no_difference():
    """The A/A check on simulated noise of the size measured on a shared machine: at least 19 of 20, as the real one."""
    for own, spikes in ((0.0, False), (0.3, True)):
        rng = np.random.default_rng(12)
        verdicts = []
        for seed in range(60):
            found = bootstrap_ratio(*simulate(rng, 5, 10, own, spikes, ratio=1.0), samples=300, seed=seed)
            verdicts.append(intervals.speed_verdict(found))
        assert verdicts.count("faster") + verdicts.count("slower") <= 3
        if not spikes:  # with them some tries are too noisy to say anything, which is right
            assert verdicts.count("no difference detected") >= 57


def test_a_real_difference_is_found():
    """The same design must not call everything equal: 5 % faster is seen."""
    rng = np.random.default_rng(13)
    found = [bootstrap_ratio(*simulate(rng, 5, 10, 0.3, ratio=1.05), samples=300, seed=i) for i in range(60)]
    assert sum(intervals.speed_verdict(i) == "faster" for i in found) >= 50


def test_geometric_mean_counts_every_prompt_once():
    """Totals weigh a prompt by its time; the second number must not: 10 s at ratio 1 and 1 s at ratio 4."""
    above, below = [[[10.0, 0.0], [0.0, 4.0]]] * 2, [[[10.0, 0.0], [0.0, 1.0]]] * 2
    found = bootstrap_geometric_mean(above, below)
    assert found.value == pytest.approx(2.0)
    assert found.low < 2.0 < found.high
    assert found.n == 4
    flat = [[sum(repeat) for repeat in process] for process in above], [[sum(r) for r in p] for p in below]
    assert bootstrap_ratio(*flat).value == pytest.approx(14 / 11)


def test_geometric_mean_of_one_prompt_is_the_ratio_of_totals():
    full, method = simulate(np.random.default_rng(14), 3, 6, 0.5)
    assert bootstrap_geometric_mean(*_one((full, method))) == bootstrap_ratio(full, method)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ([[[1.0, 0.0]]], [[[1.0, 0.0]]]),  # a prompt nobody timed
        ([[[1.0, 1.0]]], [[[1.0, 0.0]]]),  # one that only one arm timed
        ([[[1.0], [1.0, 2.0]]], [[[1.0], [1.0, 2.0]]]),
        ([[[0.0]]], [[[0.0]]]),
        ([[[-1.0]]], [[[1.0]]]),
        ([[[]]], [[[]]]),
    ],
)
def test_times_that_cannot_be_are_refused(above, below):
    with pytest.raises(ValueError, match="bootstrap_ratio"):
        bootstrap_geometric_mean(above, below)


def test_dispersion_is_of_noise_not_of_prompts():
    """Prompts of other lengths take other times: that is no noise. Five times of 1 % noise are."""
    quiet = [[1.0, 1.01, 0.99], [7.0, 7.07, 6.93]]
    assert intervals.dispersion(quiet) == pytest.approx(0.015, abs=0.006)
    assert intervals.dispersion([[1.0, 1.5, 1.0, 0.6, 2.0, 1.1]]) > 0.25
    assert intervals.dispersion([[1.0, 1.0]]) is None
    assert intervals.dispersion([[1.0]] * 9) is None
    assert intervals.dispersion([[1.0, 0.0, 1.0, 1.0, 1.0]]) is None
