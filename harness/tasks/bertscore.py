"""BERTScore, an extra: it needs the library bert-score and an encoder, which is fetched from the hub when first used.

Zhang, Kishore, Wu, Weinberger, Artzi, "BERTScore: Evaluating Text Generation with BERT", ICLR 2020, arXiv:1904.09675.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from harness.tasks.metrics import Metric, share

if TYPE_CHECKING:
    from harness.tasks.base import Example

MODEL = "roberta-large"
HUB_MODEL = "FacebookAI/roberta-large"
LAYER = 17
"""The layer that the library's authors tuned for this encoder."""
MODEL_BYTES = 1_421_700_479
"""Size of its weights on the hub, for plans."""


class BertScore(Metric):
    """F1 of greedily matched token embeddings, best reference, mean over examples."""

    name = "bertscore"
    title = "BERTScore"
    unit = "points"
    better = "higher"
    description = (
        f"BERTScore F1 x 100, {MODEL} layer {LAYER}, no idf, rescaled with the library's English baseline, best reference, "
        "mean over examples"
    )

    @override
    def unavailable(self) -> str | None:
        try:
            metadata.version("bert-score")
        except metadata.PackageNotFoundError:
            return "the library bert-score is not installed; pip install 'depthbench[bertscore]'"
        try:
            load_scorer()
        except Exception as error:  # hub, cache and model loading fail in many ways; all mean that there is no encoder
            why = " ".join(str(error).split())[:160]
            return f"its encoder {MODEL} cannot be loaded ({type(error).__name__}: {why})"
        return None

    @override
    def signature(self) -> str:
        """The library's own code of model, layer, version and rescaling."""
        return f"{self.description}; {load_scorer().hash}"

    @override
    def example(self, output: str, example: Example) -> list[float]:
        return self.examples([output], [example])[0]

    @override
    def examples(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[list[float]]:
        """All texts go through the encoder together. An empty output scores as the library says, 0 raw."""
        scorer = load_scorer()
        baseline = float(scorer.baseline_vals[2])
        values = [(0.0 - baseline) / (1.0 - baseline)] * len(outputs)
        full = [i for i, output in enumerate(outputs) if output.strip()]
        if full:
            texts = [outputs[i] for i in full]
            _, _, found = scorer.score(texts, [list(examples[i].references) for i in full])
            for i, value in zip(full, found.tolist(), strict=True):
                values[i] = value
        return [[100.0 * value, 1.0] for value in values]

    @override
    @staticmethod
    def combine(totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return share(totals)


@cache
def load_scorer() -> Any:
    """The library's scorer, loaded once in a process."""
    # The library prints and draws a progress bar; a worker has nothing to say there.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with contextlib.redirect_stdout(io.StringIO()):
        from bert_score import BERTScorer

        scorer = BERTScorer(
            model_type=MODEL, num_layers=LAYER, lang="en", rescale_with_baseline=True, device="cpu", batch_size=32
        )
        # Newer tokenizers state no maximum, and the encoder has 512 positions.
        scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, 512)
    return scorer
