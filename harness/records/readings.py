"""How the statistics that results store become numbers, by the name they are stored under. Torch-free.

Our own metrics say it themselves (`harness.tasks.metrics`). Names of lm-eval's are the metric, then its filter if it has one
(`exact_match:strict-match`). Shares that lm-eval gives as 0 to 1 are percentages here, so that a margin of one point means the same
for every task. A mean of anything else keeps its scale and says so, ` (mean)` or, where less is better, ` (mean, lower)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.tasks import metrics

Array = npt.NDArray[np.float64]

AGREEMENT = "agreement"
"""Token agreement with the full model, [agreeing, compared]; computed by the runner, so no task lists it."""
SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em"})
MEAN, MEAN_LOWER = " (mean)", " (mean, lower)"


@dataclass(frozen=True)
class Reading:
    """How the stored statistics of a metric become a number: `combine` maps sums [..., K] to values [...].

    `title` is what it is called; empty where that is its name.
    """

    name: str
    better: str
    combine: Callable[[Array], Array]
    unit: str = ""
    title: str = ""


def _mean(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1])


def _percent(totals: Array) -> Array:
    return 100.0 * _mean(totals)


def _perplexity(totals: Array) -> Array:
    return np.exp(-_mean(totals))


def _bits(totals: Array) -> Array:
    return -_mean(totals) / math.log(2)


_SHARE = Reading("", "higher", _percent, "percent")
_NAMED = {
    **dict.fromkeys(SHARES, _SHARE),
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity"), Reading("", "lower", _perplexity)),
    "bits_per_byte": Reading("", "lower", _bits, "bits"),
}


def reading(metric: str) -> Reading | None:
    """Return how to read a metric's statistics; None for a metric this version does not know."""
    found = metrics.find(metric)
    if found is not None:
        return Reading(metric, found.better, found.combine, found.unit, found.title)
    for ending, better in ((MEAN, "higher"), (MEAN_LOWER, "lower")):
        if metric.endswith(ending):
            return Reading(metric, better, _mean)
    kind = _NAMED.get(metric.partition(":")[0])
    return None if kind is None else replace(kind, name=metric)
