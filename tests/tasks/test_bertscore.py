"""BERTScore through its library, on a tiny encoder; absent, it says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records import readings
from harness.tasks import bertscore
from harness.tasks.base import Example
from harness.tasks.bertscore import BertScore

TEXTS = ["the cat sat on the mat", "a dog ran fast", "the cat sat", "a dog"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = pytest.importorskip("bert_score", reason="the extra bertscore is not installed")
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special)
    trained.save_model(str(folder))
    RobertaTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=300, max_position_embeddings=64, pad_token_id=1, **sizes)
    RobertaModel(config).save_pretrained(folder)
    baseline = folder / "baseline.tsv"
    baseline.write_text("LAYER,P,R,F\n0,0.1,0.1,0.1\n1,0.2,0.2,0.2\n2,0.3,0.3,0.3\n")
    found = library.BERTScorer(
        model_type=str(folder),
        num_layers=2,
        lang="en",
        rescale_with_baseline=True,
        device="cpu",
        baseline_path=str(baseline),
    )
    found._tokenizer.model_max_length = 60
    return found


def test_best_reference_identity_and_empty_outputs(scorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bertscore, "load_scorer", lambda: scorer)
    metric = BertScore()
    examples = [
        Example("0", "p", ("a dog ran fast", "the cat sat")),
        Example("1", "p", ("a dog",)),
        Example("2", "p", ("a",)),
    ]
    same, other, empty = metric.examples(["the cat sat", "the cat sat", ""], examples)
    assert same == [pytest.approx(100, abs=1e-3), 1.0]
    assert other[0] < 100
    assert empty == [pytest.approx(100 * (0 - 0.3) / 0.7), 1.0]
    # The same alone as among others, so that a score belongs to its example.
    assert metric.example("the cat sat", examples[1])[0] == pytest.approx(other[0], abs=1e-3)
    assert "rescaled" in metric.signature() and "version=" in metric.signature()


def test_results_with_it_are_read_without_the_library() -> None:
    how = readings.reading("bertscore")
    assert how is not None and how.better == "higher"


def test_absent_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise bertscore.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(bertscore.metadata, "version", nothing)
    reason = BertScore().unavailable()
    assert reason is not None and "pip install 'depthbench[bertscore]'" in reason


def test_an_encoder_that_cannot_be_had_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise OSError("no such model\nanywhere")

    monkeypatch.setattr(bertscore.metadata, "version", lambda name: "0.3.13")
    monkeypatch.setattr(bertscore, "load_scorer", fails)
    reason = BertScore().unavailable()
    assert reason == "its encoder roberta-large cannot be loaded (OSError: no such model anywhere)"


def test_the_baseline_of_the_encoder_comes_with_the_library(tmp_path: Path) -> None:
    """The rescaling that published scores use: roberta-large, layer 17, English."""
    library = pytest.importorskip("bert_score", reason="the extra bertscore is not installed")
    table = Path(library.__file__).parent / "rescale_baseline" / "en" / f"{bertscore.MODEL}.tsv"
    row = table.read_text().splitlines()[1 + bertscore.LAYER].split(",")
    assert int(row[0]) == bertscore.LAYER and 0.5 < float(row[3]) < 1
    from bert_score.utils import model2layers

    assert model2layers[bertscore.MODEL] == bertscore.LAYER
