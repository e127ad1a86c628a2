"""lm-eval's metrics as sums of per-document statistics, for intervals and paired differences to the full model. Torch-free.

lm-eval's own numbers are kept as they are; what is here lets the same per-document values be resampled. A metric whose value is
no function of sums over documents (corpus BLEU, F1 or Matthews correlation over a set) has no statistics here: lm-eval's number
is shown without a difference.

Names in results: the metric, then its filter if it has one (`exact_match:strict-match`). Shares that lm-eval gives as 0 to 1 are
percentages in reports, so that a margin of one point means the same for every task. A mean of anything else keeps its scale and
says so, ` (mean)` or, where less is better, ` (mean, lower)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em"})
MEAN, MEAN_LOWER = " (mean)", " (mean, lower)"


@dataclass(frozen=True)
class Kind:
    """How sums [..., 2] become a value, in which unit, and which values are good."""

    combine: Callable[[Array], Array]
    unit: str
    better: str


def _mean(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1])


def _percent(totals: Array) -> Array:
    return 100.0 * _mean(totals)


def _perplexity(totals: Array) -> Array:
    return np.exp(-_mean(totals))


def _bits(totals: Array) -> Array:
    return -_mean(totals) / math.log(2)


_SHARE = Kind(_percent, "percent", "higher")
_NAMED = {
    **dict.fromkeys(SHARES, _SHARE),
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity"), Kind(_perplexity, "", "lower")),
    "bits_per_byte": Kind(_bits, "bits", "lower"),
}
# lm-eval's aggregation -> metrics whose sums are read as above; any other metric under it is a plain mean.
_AGGREGATIONS = {
    "mean": SHARES,
    "nanmean": SHARES,
    "perplexity": frozenset({"perplexity"}),
    "weighted_perplexity": frozenset({"word_perplexity", "byte_perplexity"}),
    "bits_per_byte": frozenset({"bits_per_byte"}),
}


def find(name: str) -> Kind | None:
    """How a stored name is read; None for one that is not of lm-eval."""
    if name.endswith(MEAN):
        return Kind(_mean, "", "higher")
    if name.endswith(MEAN_LOWER):
        return Kind(_mean, "", "lower")
    return _NAMED.get(name.partition(":")[0])


def stored_name(metric: str, filter_name: str, aggregation: str, higher_is_better: bool) -> str | None:
    """The name a metric's statistics are stored under; None where its value is no function of sums."""
    if aggregation not in _AGGREGATIONS:
        return None
    name = metric if filter_name == "none" else f"{metric}:{filter_name}"
    if metric in _AGGREGATIONS[aggregation]:
        return name
    if aggregation not in ("mean", "nanmean"):
        return None
    return name + (MEAN if higher_is_better else MEAN_LOWER)


def statistics(value: Any) -> list[float] | None:
    """A document's statistics: [value, 1], or [log-likelihood, weight] as lm-eval gives it; [0, 0] for no value."""
    pair = (value, 1.0) if not isinstance(value, (list, tuple)) else value
    try:
        first, weight = (float(part) for part in pair)
    except (TypeError, ValueError):
        return None
    if math.isnan(first):
        return [0.0, 0.0]
    return [first, weight] if math.isfinite(first) and math.isfinite(weight) else None


def mcnemar(mine: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float | int] | None:
    """Exact McNemar test of paired right/wrong answers by document; None where values are not all 0 or 1.

    Returns:
        `gained` (right here, wrong there), `lost` (the reverse) and the two-sided binomial `p`.
    """
    shared = [key for key in mine if key in theirs]
    if not shared or any(values[key] not in (0.0, 1.0) for values in (mine, theirs) for key in shared):
        return None
    gained = sum(mine[key] > theirs[key] for key in shared)
    lost = sum(mine[key] < theirs[key] for key in shared)
    # Imported here, as in harness.stats.intervals: it costs more than the rest of the module.
    from scipy.stats import binomtest

    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": p}
