"""Per-document statistics of lm-eval's results, and the paired difference of two of them. Neither torch nor lm-eval is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.records import readings
from harness.stats import scores
from harness.tasks.lm_eval import metrics

Json = dict[str, Any]


def document_statistics(results: Mapping[str, Any], task: str) -> dict[str, dict[str, list[float]]]:
    """Statistics by document and metric of one task of an evaluation, shares first.

    Returns:
        `{document id: {metric: [sum, weight]}}`; a metric is left out where its value is no function of sums.
    """
    found: dict[str, dict[str, list[float]]] = {}
    higher = results.get("higher_is_better", {}).get(task, {})
    for sample in results["samples"][task]:
        own = found.setdefault(str(sample["doc_id"]), {})
        for metric in sample["metrics"]:
            aggregation = results["aggregations"].get(task, {}).get(metric, "mean")
            name = metrics.stored_name(metric, sample["filter"], aggregation, higher.get(metric) is not False)
            value = metrics.statistics(sample[metric])
            if name is not None and value is not None:
                own[name] = value
    first = sorted({name for own in found.values() for name in own}, key=_rank)
    return {key: {name: own[name] for name in first if name in own} for key, own in found.items()}


def _rank(name: str) -> tuple[bool, bool]:
    """Bounded shares come first: a margin in points means most for them."""
    kind = readings.reading(name)
    return (kind is None or kind.unit != "percent"), not name.startswith("acc")


def compare(mine: Mapping[str, Any], full: Mapping[str, Any]) -> list[Json]:
    """Paired differences of one evaluation to that of the full model, by task and metric.

    Returns:
        `task`, `metric`, `value`, `full`, `difference` with `low` and `high` (95 %), `test` and its p-value `p`, `gained` and
        `lost` where answers are right or wrong, the number of `documents`, `uninformative` (why the full model's score says
        nothing; empty where it does), and `p_holm`: of the first metric of every informative task, corrected over these tasks.
    """
    rows: list[Json] = []
    for task in mine["samples"]:
        if task not in full["samples"]:
            continue
        ours, theirs = (document_statistics(results, task) for results in (mine, full))
        standing = full.get("depthbench", {}).get("informative", {}).get(task, {})
        for name in dict.fromkeys(name for own in ours.values() for name in own):
            shared = [key for key in ours if name in ours[key] and name in theirs.get(key, {})]
            how = readings.reading(name)
            if how is None or not shared:
                continue
            a, b = (np.array([found[key][name] for key in shared]) for found in (ours, theirs))
            found = scores.Paired(a, b, how.combine)
            with np.errstate(over="ignore"):
                row = {
                    "task": task,
                    "metric": name,
                    "value": float(how.combine(a.sum(0))),
                    "full": float(how.combine(b.sum(0))),
                    "difference": found.difference.value,
                    "low": found.difference.low,
                    "high": found.difference.high,
                    "test": found.test,
                    "p": found.p,
                    "p_holm": None,
                    "gained": found.counts and found.counts.gained,
                    "lost": found.counts and found.counts.lost,
                    "uninformative": standing.get(name, {}).get("reason", ""),
                    "documents": len(shared),
                }
            rows.append(row)
    first = list({row["task"]: row for row in reversed(rows)}.values())
    asked = [row for row in first if not row["uninformative"] and math.isfinite(row["p"])]
    for row, p in zip(asked, scores.holm([row["p"] for row in asked]), strict=True):
        row["p_holm"] = p
    return rows
