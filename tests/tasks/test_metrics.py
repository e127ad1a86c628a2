"""Metrics against their reference libraries and hand-worked cases."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu

from harness.errors import BadInput
from harness.tasks.base import Example
from harness.tasks.metrics import (
    METRICS,
    Agreement,
    Bleu,
    Metric,
    Rouge1,
    Rouge2,
    RougeL,
    SlotErrorRate,
    agreement_statistics,
    find,
)

WORDS = ["the", "a", "Cat", "sat", "on", "mat", "dog", "ran", "fast", "."]


def corpus(n: int, seed: int) -> tuple[list[str], list[Example]]:
    rng = random.Random(seed)

    def text(low: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, 9)))

    examples = [Example(str(i), "p", tuple(text(3) for _ in range(rng.randint(1, 4)))) for i in range(n)]
    return [text(1) for _ in examples], examples


@pytest.mark.parametrize("n", [1, 2, 5, 60])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_summed_bleu_statistics_give_sacrebleu(n: int, seed: int) -> None:
    """Lower case, variable numbers of references, orders without a match (smoothing) included."""
    outputs, examples = corpus(n, seed)
    most = max(len(e.references) for e in examples)
    streams = [[e.references[j] if j < len(e.references) else None for e in examples] for j in range(most)]
    want = sacrebleu.corpus_bleu(outputs, streams, lowercase=True).score
    sums = np.sum([Bleu().example(o, e) for o, e in zip(outputs, examples, strict=True)], axis=0)
    assert float(Bleu.combine(sums)) == pytest.approx(want, abs=1e-9)


def test_bleu_combines_many_samples_at_once() -> None:
    outputs, examples = corpus(8, 3)
    stats = np.array([Bleu().example(o, e) for o, e in zip(outputs, examples, strict=True)])
    totals = np.stack([stats[:4].sum(0), stats[4:].sum(0)])
    assert Bleu.combine(totals).tolist() == [float(Bleu.combine(t)) for t in totals]


def test_bleu_of_perfect_and_empty_outputs() -> None:
    example = Example("0", "p", ("the cat sat on the mat", "a dog ran"))
    assert float(Bleu.combine(np.array(Bleu().example("The cat sat on the mat", example)))) == pytest.approx(100)
    assert float(Bleu.combine(np.array(Bleu().example("", example)))) == 0
    assert np.isnan(Bleu.combine(np.zeros(10)))


def test_rouge_takes_the_best_reference() -> None:
    """'the cat ran' against 'the cat sat': LCS 2 of 3 and 3, F = 2/3; against 'dogs': 0."""
    assert RougeL().example("the cat ran", Example("0", "p", ("dogs", "the cat sat"))) == [pytest.approx(200 / 3), 1.0]


def test_slot_errors_are_counted_over_slots() -> None:
    metric = SlotErrorRate(lambda slot, value, text: value in text)
    example = Example("0", "p", ("x",), (("a", "red"), ("b", "blue"), ("c", "green")))
    assert metric.example("red and green", example) == [1.0, 3.0]
    assert float(SlotErrorRate.combine(np.array([1.0, 4.0]))) == 25.0


def test_agreement_counts_places_of_the_longer_output() -> None:
    assert agreement_statistics([1, 2, 3], [1, 9, 3, 4]) == [2.0, 4.0]
    assert float(Agreement.combine(np.array([2.0, 4.0]))) == 50.0
    with pytest.raises(BadInput):
        Agreement().example("x", Example("0", "p", ("x",)))


def test_registry_names_are_the_metrics_own() -> None:
    assert all(name == cls.name and cls.better in ("higher", "lower") and cls.unit for name, cls in METRICS.items())


@pytest.mark.parametrize(
    ("metric", "value"),
    # "the cat ran" and "the cat sat": 2 of 3 words, 1 of 2 pairs in common.
    [(Rouge1(), 200 / 3), (Rouge2(), 50.0), (RougeL(), 200 / 3)],
)
def test_rouge_counts_words_pairs_and_subsequences(metric: Metric, value: float) -> None:
    example = Example("0", "p", ("dogs", "the cat sat"))
    assert metric.example("the cat ran", example) == [pytest.approx(value), 1.0]
    assert metric.examples(["the cat ran", ""], [example, example]) == [[pytest.approx(value), 1.0], [0.0, 1.0]]


@pytest.mark.parametrize("metric", [Bleu(), RougeL(), Rouge1(), Rouge2(), SlotErrorRate(lambda *_: True)])
def test_a_metric_is_named_with_what_it_was_computed_by(metric: Metric) -> None:
    assert metric.description in metric.signature()
    assert metric.unavailable() is None
    assert find(metric.name) is type(metric)
