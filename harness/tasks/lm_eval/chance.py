"""Whether a score says anything: how it compares with guessing. Neither torch nor lm-eval is needed.

A method cannot lose what the full model does not have: where that is at the level of chance, no loss is not kept quality. Chance
is, for a choice among n, one right answer in n; for a single continuation or a generated answer, no right answer; for a
likelihood, that of a guess among all tokens of the vocabulary. Right or wrong answers are above chance where a one-sided binomial
test says so at the 5 % level. Of other scores (BLEU, the share of probability on true answers) no level of chance is known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.records import readings
from harness.records.readings import Reading

Json = dict[str, Any]

LEVEL = 0.05
_LIKELIHOODS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


def standings(
    scores: Mapping[str, Mapping[str, list[float]]],
    samples: Sequence[Mapping[str, Any]],
    kind: str,
    vocabulary: int,
) -> dict[str, Json]:
    """How each metric of a task stands to chance.

    Args:
        scores: statistics by document and metric (`document_statistics`).
        samples: lm-eval's, with `layers`.
        kind: of the task, lm-eval's `output_type`.
        vocabulary: tokens that a guess chooses from.

    Returns:
        By stored metric name `value`, `chance`, `informative` and `reason`, which is empty where the metric is informative.
    """
    first = {str(sample["doc_id"]): sample for sample in reversed(samples)}
    found: dict[str, Json] = {}
    for name in dict.fromkeys(name for own in scores.values() for name in own):
        how = readings.reading(name)
        shared = [key for key in scores if name in scores[key]]
        if how is None or not shared:
            continue
        rows = np.array([scores[key][name] for key in shared])
        metric = name.partition(":")[0]
        if metric in readings.SHARES:
            standing = _share(how, rows, [_guess(kind, first[key]) for key in shared])
        elif metric in _LIKELIHOODS:
            tokens = [sum(map(len, first[key]["layers"])) for key in shared]
            standing = _likelihood(how, rows, np.array(tokens), vocabulary)
        else:
            standing = None
        if standing is not None:
            found[name] = standing
    return found


def _guess(kind: str, sample: Mapping[str, Any]) -> float:
    """The chance that a guess is right."""
    if kind != "multiple_choice":
        return 0.0
    choices = len(sample["arguments"]) / (2 if "acc_mutual_info" in sample["metrics"] else 1)
    return 1 / choices


def _share(how: Reading, rows: np.ndarray, guesses: Sequence[float]) -> Json | None:
    right, n = rows[:, 0], len(rows)
    if not set(np.unique(right)) <= {0.0, 1.0} or not (rows[:, 1] == 1).all():
        return None
    chance, value = float(np.mean(guesses)), float(how.combine(rows.sum(0)))
    if chance:
        from scipy.stats import binomtest

        p = float(binomtest(int(right.sum()), n, chance, alternative="greater").pvalue)
        above, why = (
            p < LEVEL,
            f"cannot be told from chance, {100 * chance:.1f} % (one-sided binomial test, p = {p:.2g})",
        )
    else:
        above, why = bool(right.any()), "is what no answer at all gets"
    reason = "" if above else f"{value:.1f} % of {n} documents {why}"
    return {"value": value, "chance": 100 * chance, "informative": above, "reason": reason}


def _likelihood(how: Reading, rows: np.ndarray, tokens: np.ndarray, vocabulary: int) -> Json:
    guess = rows.copy()
    guess[:, 0] = -tokens * math.log(vocabulary)
    with np.errstate(over="ignore"):
        value, chance = (float(how.combine(of.sum(0))) for of in (rows, guess))
    above = float(rows[:, 0].sum()) > float(guess[:, 0].sum())
    reason = "" if above else f"{value:.4g} is no better than a guess among all {vocabulary} tokens, {chance:.4g}"
    return {"value": value, "chance": chance, "informative": above, "reason": reason}
