"""Metrics as sums of per-example statistics, so that intervals can be had by drawing examples again. Torch-free.

A metric turns one output into K numbers (`example`); the value of any set of examples is a function of their sums
(`combine`). Corpus BLEU is not a mean of sentence scores, which is why means of scores are not enough.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from harness.errors import BadInput

if TYPE_CHECKING:
    from harness.tasks.base import Example

Array = npt.NDArray[np.float64]
_ORDERS = 4


class Metric(ABC):
    """One metric.

    Class attributes:
        name: as in result columns.
        title: what it is called.
        unit: of the value.
        better: `higher` or `lower`.
        description: what is computed, with what settings.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    better: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def example(self, output: str, example: Example) -> list[float]:
        """The K statistics of one output."""

    def examples(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[list[float]]:
        """The statistics of many outputs; for metrics that are faster on all at once."""
        return [self.example(output, example) for output, example in zip(outputs, examples, strict=True)]

    def unavailable(self) -> str | None:
        """Why the metric cannot be computed here, or None."""
        return None

    def signature(self) -> str:
        """What is computed and by which version of what."""
        return self.description

    @staticmethod
    @abstractmethod
    def combine(totals: Array) -> Array:
        """Summed statistics [..., K] to values [...]; NaN where nothing was summed."""


class Bleu(Metric):
    """Corpus BLEU; statistics: correct n-grams 1..4, output n-grams 1..4, output length, closest reference length."""

    name = "bleu"
    title = "BLEU"
    unit = "points"
    better = "higher"
    description = "corpus BLEU-4, sacrebleu, lower case, tokenizer 13a, exponential smoothing, all references"

    @override
    def example(self, output: str, example: Example) -> list[float]:
        found = _bleu().corpus_score([output], [[text] for text in example.references])
        # sacrebleu reports the closest reference length of the one sentence as `ref_len`.
        return [*map(float, found.counts), *map(float, found.totals), float(found.sys_len), float(found.ref_len)]

    @override
    def signature(self) -> str:
        return f"{self.description}; sacrebleu {metadata.version('sacrebleu')}"

    @override
    @staticmethod
    def combine(totals: Array) -> Array:
        """The formula of sacrebleu's `compute_bleu` with its default smoothing."""
        totals = np.asarray(totals, dtype=np.float64)
        correct, total = totals[..., :_ORDERS], totals[..., _ORDERS : 2 * _ORDERS]
        length, reference = totals[..., 8], totals[..., 9]
        with np.errstate(divide="ignore", invalid="ignore"):
            # Exponential smoothing: the m-th order without a match counts 1 / (2^m total).
            misses = np.cumsum((correct == 0) & (total > 0), axis=-1)
            smoothed = np.where(correct == 0, 1.0 / (2.0**misses * total), correct / total)
            log = np.where(total > 0, np.log(smoothed), -np.inf).mean(axis=-1)
            brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
            value = 100.0 * brevity * np.exp(log)
        value = np.where((length == 0) | (correct[..., 0] == 0), 0.0, value)
        return np.where(reference > 0, value, np.nan)


class _Rouge(Metric):
    """F of the best reference, mean over examples."""

    unit = "points"
    better = "higher"

    @override
    def example(self, output: str, example: Example) -> list[float]:
        scorer = _rouge(self.name)
        return [100.0 * max(scorer.score(text, output)[self.name].fmeasure for text in example.references), 1.0]

    @override
    def signature(self) -> str:
        return f"{self.description}; rouge-score {metadata.version('rouge-score')}"

    @override
    @staticmethod
    def combine(totals: Array) -> Array:
        return share(totals)


class RougeL(_Rouge):
    """ROUGE-L: longest common subsequence of the whole texts."""

    name = "rougeL"
    title = "ROUGE-L"
    description = "ROUGE-L F1 x 100, rouge-score without stemming, best reference, mean over examples"


class Rouge1(_Rouge):
    """ROUGE-1: words in common."""

    name = "rouge1"
    title = "ROUGE-1"
    description = "ROUGE-1 F1 x 100, rouge-score without stemming, best reference, mean over examples"


class Rouge2(_Rouge):
    """ROUGE-2: pairs of words in common."""

    name = "rouge2"
    title = "ROUGE-2"
    description = "ROUGE-2 F1 x 100, rouge-score without stemming, best reference, mean over examples"


class SlotErrorRate(Metric):
    """Share of slots an output misses or gets wrong.

    Args:
        states: (slot, value, text) -> whether the text states the slot's value; the task knows the surface forms.
    """

    name = "slot_error_rate"
    title = "Slot error rate"
    unit = "percent"
    better = "lower"
    description = (
        "slots of the meaning representation missing or wrong in the text, percent of all slots, by surface forms"
    )

    def __init__(self, states: Callable[[str, str, str], bool]) -> None:
        self._states = states

    @override
    def example(self, output: str, example: Example) -> list[float]:
        wrong = sum(not self._states(slot, value, output) for slot, value in example.slots)
        return [float(wrong), float(len(example.slots))]

    @override
    @staticmethod
    def combine(totals: Array) -> Array:
        return 100.0 * share(totals)


class Agreement(Metric):
    """Tokens equal to the baseline's; the runner computes its statistics, see `agreement_statistics`."""

    name = "agreement"
    title = "Token agreement with full"
    unit = "percent"
    better = "higher"
    description = "tokens equal to the full model's at the same place, percent of the longer of both outputs"

    def example(self, output: str, example: Example) -> list[float]:
        """Never: agreement compares token ids of two arms, not a text with references."""
        raise BadInput("metric agreement: computed from the tokens of two methods, not from one text")

    @override
    @staticmethod
    def combine(totals: Array) -> Array:
        return 100.0 * share(totals)


METRICS: dict[str, type[Metric]] = {cls.name: cls for cls in (Bleu, RougeL, Rouge1, Rouge2, SlotErrorRate, Agreement)}
"""The metrics of this file; one that needs an extra stands in a file of its own, see `find`."""


def find(name: str) -> type[Metric] | None:
    """Return the metric of this name; None for one that this version does not know."""
    if name == "bertscore":
        from harness.tasks.bertscore import BertScore

        return BertScore
    return METRICS.get(name)


LISTED = 20
"""Divergences a cell lists; all are counted."""


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first place where two token lists differ, the end of the shorter one included; None if they are equal."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return None if len(a) == len(b) else min(len(a), len(b))


def agreement_statistics(mine: list[int], theirs: list[int]) -> list[float]:
    """[equal tokens at the same place, places of the longer of both]."""
    same = sum(a == b for a, b in zip(mine, theirs, strict=False))
    return [float(same), float(max(len(mine), len(theirs)))]


def share(totals: Array) -> Array:
    """Return the first statistic over the second."""
    totals = np.asarray(totals, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(totals[..., 0] / totals[..., 1])


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=True, tokenize="13a")


@cache
def _rouge(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], use_stemmer=False)
