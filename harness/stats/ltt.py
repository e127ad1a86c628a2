"""Learn then Test: choose the boldest setting whose risk is held, with a stated probability. Torch-free.

Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test", arXiv:2110.01052, as CALM uses it (Schuster et al. 2022, Section 4).
Settings stand in an order fixed before any data are seen, from the most cautious down. Setting j has the null hypothesis "its
risk exceeds delta", and a p-value from n independent losses in [0, 1]. Fixed-sequence testing rejects while p_j <= epsilon and
stops at the first that is not; the last one rejected is chosen. Then P(risk of the chosen setting <= delta) >= 1 - epsilon over
draws of the calibration data, for data from the same source. Nothing is promised for a single split or for other data.

The p-value is that of Hoeffding and Bentkus (Bates et al. 2021, arXiv:2101.02703), R being the mean loss:

    p = min( exp(-n h(min(R, delta), delta)),  e P(Binomial(n, delta) <= ceil(n R)) ),
    h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from harness.errors import BadInput

Array = npt.NDArray[np.float64]
Losses = Callable[[int], Array]
"""Losses [n] of the setting at a place of the sequence, each in [0, 1]; asked for only when the sequence gets there."""


@dataclass(frozen=True)
class Tested:
    """One setting of the sequence: its mean loss over n examples, the p-value of "its risk exceeds delta", the decision."""

    risk: float
    n: int
    p_value: float
    rejected: bool


def check_levels(delta: float, epsilon: float) -> None:
    """BadInput unless both levels lie between 0 and 1."""
    for name, value in (("delta", delta), ("epsilon", epsilon)):
        if not 0 < value < 1:
            raise BadInput(f"{name}: {value:g} is out of range; give a number above 0 and below 1")


def p_value(total: float, n: int, delta: float) -> float:
    """Hoeffding-Bentkus p-value of "the risk exceeds delta" from a summed loss over n examples."""
    return _p_value(float(total), int(n), float(delta))


@lru_cache(maxsize=65536)
def _p_value(total: float, n: int, delta: float) -> float:
    # Imported here because it costs more than all the rest of the module.
    from scipy.special import bdtr

    mean = min(total / n, delta)
    hoeffding = math.exp(-n * _divergence(mean, delta))
    bentkus = math.e * float(bdtr(min(math.ceil(total), n), n, delta))
    return min(1.0, hoeffding, bentkus)


def _divergence(a: float, b: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(a) from Bernoulli(b), 0 <= a < 1, 0 < b < 1."""
    first = a * math.log(a / b) if a > 0 else 0.0
    return first + (1 - a) * math.log((1 - a) / (1 - b))


def fixed_sequence(losses: Losses, count: int, delta: float, epsilon: float) -> list[Tested]:
    """Test the settings 0 .. count-1 in their order, up to and with the first that is not rejected.

    The chosen setting is the last one rejected: `chosen` of the result.
    """
    tested: list[Tested] = []
    for place in range(count):
        values = _checked(losses(place))
        p = p_value(float(values.sum()), values.size, delta)
        tested.append(Tested(float(values.mean()), values.size, p, p <= epsilon))
        if p > epsilon:
            break
    return tested


def chosen(tested: Sequence[Tested]) -> int | None:
    """Place of the last setting rejected; None: not even the first was, so only the full model keeps the promise."""
    return sum(test.rejected for test in tested) - 1 if tested and tested[0].rejected else None


@dataclass(frozen=True)
class Drawn:
    """One calibration on a part of the data.

    Attributes:
        chosen: place of the setting; None: the full model.
        calibration_risk: its mean loss on the calibration part; 0 for the full model.
        test_risk: its mean loss on the rest; None where there is no rest.
        pool_risk: its mean loss on all the data.
    """

    chosen: int | None
    calibration_risk: float
    test_risk: float | None
    pool_risk: float


def split_check(
    losses: Losses, count: int, delta: float, epsilon: float, splits: int = 50, share: float = 0.8, seed: int = 0
) -> list[Drawn]:
    """Calibrate on `splits` random parts of the data (a `share` of it) and look at the rest, as the CALM paper does.

    A test part is a sample itself: its mean loss exceeds delta now and then although the risk does not.
    """
    n = losses(0).size
    size = round(share * n)
    if not 0 < size < n:
        raise BadInput(f"splits: {n} examples cannot be split {share:g} to {1 - share:g}; give more")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(splits):
        order = rng.permutation(n)
        found.append(_calibrate(losses, count, delta, epsilon, order[:size], order[size:]))
    return found


def draw_check(
    losses: Losses, count: int, delta: float, epsilon: float, draws: int = 2000, size: int | None = None, seed: int = 0
) -> list[Drawn]:
    """Calibrate on `draws` samples of the data with replacement: the data are the population, whose risk is then known.

    This is the situation of the theorem itself: the share of draws whose `pool_risk` exceeds delta must be at most epsilon.
    """
    n = losses(0).size
    rng = np.random.default_rng([seed, 1])
    return [
        _calibrate(losses, count, delta, epsilon, rng.integers(n, size=size or n), np.empty(0, dtype=np.int64))
        for _ in range(draws)
    ]


def _calibrate(
    losses: Losses,
    count: int,
    delta: float,
    epsilon: float,
    calibration: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
) -> Drawn:
    place = chosen(fixed_sequence(lambda j: losses(j)[calibration], count, delta, epsilon))
    if place is None:
        return Drawn(None, 0.0, 0.0 if test.size else None, 0.0)
    values = losses(place)
    rest = float(values[test].mean()) if test.size else None
    return Drawn(place, float(values[calibration].mean()), rest, float(values.mean()))


def share_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a share, `hits` of `n` independent draws."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def _checked(values: Array) -> Array:
    if not values.size or not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise BadInput("calibration: losses must be numbers from 0 to 1, one or more; this metric gives others")
    return values
