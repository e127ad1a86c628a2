"""lm-eval's metrics as sums of per-document statistics, for intervals and paired differences to the full model. Torch-free.

lm-eval's own numbers are kept as they are; what is here lets the same per-document values be resampled. A metric whose value is
no function of sums over documents (corpus BLEU, F1 or Matthews correlation over a set) has no statistics here: lm-eval's number
is shown without a difference. What a stored name means is in `harness.records.readings`.
"""

from __future__ import annotations

import math
from typing import Any

from harness.records.readings import MEAN, MEAN_LOWER, SHARES

# lm-eval's aggregation -> metrics whose sums are read as above; any other metric under it is a plain mean.
_AGGREGATIONS = {
    "mean": SHARES,
    "nanmean": SHARES,
    "perplexity": frozenset({"perplexity"}),
    "weighted_perplexity": frozenset({"word_perplexity", "byte_perplexity"}),
    "bits_per_byte": frozenset({"bits_per_byte"}),
}


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
