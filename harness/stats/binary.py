"""Paired tests for scores that are 0 or 1 (right or wrong): McNemar's test and the interval of a difference. Torch-free.

A bootstrap over examples fails where few of them differ: without one discordant pair in 30 it says the difference is 0 for
certain. The interval here adds half an example to each discordant cell (Agresti and Min 2005, "Simple improved confidence
intervals for comparing matched proportions", Statistics in Medicine 24), which covers also then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.stats.intervals import Interval


@dataclass(frozen=True)
class Discordant:
    """Examples that one arm alone got right.

    Attributes:
        gained: right under the method, wrong under full.
        lost: wrong under the method, right under full.
        n: examples in all.
        scale: value of a right answer (1, or 100 where the metric is a percentage).
    """

    gained: int
    lost: int
    n: int
    scale: float = 1.0


def discordant(mine: npt.ArrayLike, theirs: npt.ArrayLike) -> Discordant | None:
    """Count the discordant pairs; None unless every score is 0 or one and the same positive number.

    Args:
        mine: sufficient statistics [n, 2] of the method: what an example scored, and 1.
        theirs: the same of the full model, row i the same example.
    """
    a, b = np.asarray(mine, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or not len(a):
        return None
    if (a[:, 1] != 1).any() or (b[:, 1] != 1).any():
        return None
    values = set(np.unique(a[:, 0])) | set(np.unique(b[:, 0]))
    positive = values - {0.0}
    if len(positive) != 1 or min(values) < 0:
        return None
    right, other = a[:, 0] > 0, b[:, 0] > 0
    return Discordant(int((right & ~other).sum()), int((~right & other).sum()), len(a), float(positive.pop()))


def mcnemar(counts: Discordant) -> float:
    """Return the exact two-sided p-value of McNemar's test: are gains and losses equally likely? 1 where nothing differs."""
    differing = counts.gained + counts.lost
    if not differing:
        return 1.0
    # Imported here because it costs more than all the rest of the module.
    from scipy.stats import binomtest

    return float(binomtest(counts.gained, differing, 0.5).pvalue)


def difference(counts: Discordant, level: float = 0.95) -> Interval:
    """Return the share of right answers, method minus full, times `scale`, with its adjusted Wald interval."""
    from scipy.special import ndtri

    gained, lost, n = counts.gained + 0.5, counts.lost + 0.5, counts.n + 2
    middle = (gained - lost) / n
    error = math.sqrt(max(gained + lost - (gained - lost) ** 2 / n, 0.0)) / n
    half = float(ndtri(1 - (1 - level) / 2)) * error
    value = (counts.gained - counts.lost) / counts.n
    low, high = max(middle - half, -1.0), min(middle + half, 1.0)
    return Interval(counts.scale * value, counts.scale * min(low, value), counts.scale * max(high, value), counts.n)
