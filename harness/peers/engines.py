"""The engines a user could pick instead, behind one interface: this one's full model, transformers, CTranslate2.

Each runs in a process of its own (`harness.peers.decoding`): several OpenMP runtimes in one process slow each other down by
factors, which would flatter whichever engine suffers least. CTranslate2's process holds no torch for that reason: the model is
converted in another one (`harness.peers.ctranslate2`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers import GenerationConfig
from typing_extensions import override

import methods
from harness.decode.engine import Decoding
from harness.decode.engine import generate as continuation
from harness.errors import BadInput
from harness.measure.probes import breakdown, reading
from harness.models import contest
from harness.models.checks import said
from harness.models.decoder import Decoder
from harness.models.kernels import choices
from harness.models.load import load_model
from harness.records.limits import BASELINE


class Peer(ABC):
    """An engine with a loaded model.

    Args:
        model: anything `load_model` takes; a `random:` shape has the same weights in every process.
        dtype: of the weights.
        device: where it runs.
        threads: CPU threads.
    """

    def __init__(self, model: str, dtype: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.decoder: Decoder = load_model(model, dtype=dtype, device=device)
        self.said = said(model, self.decoder.ignored)
        # The same work for every engine: no penalties, beams, forced or suppressed tokens of the checkpoint's own.
        self.decoder.source.generation_config = GenerationConfig(pad_token_id=self.decoder.pad_token_id)

    def run(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Greedy continuation of prompts [B][P] of one length, end tokens ignored: [B][new_tokens]."""
        with torch.inference_mode():
            tokens = self.generate(torch.tensor(prompts, device=self.decoder.device), new_tokens)
        return tokens.tolist()  # type: ignore[no-any-return]

    @abstractmethod
    def generate(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """Prompts [B, P] to continuations [B, new_tokens]."""

    @property
    def sizes(self) -> dict[str, int]:
        """What callers draw prompts from, vocabulary and positions; and the bytes of weights a decode step reads."""
        g = self.decoder.geometry
        step = g.depth * (g.attention_weights + g.feed_weights + g.block_vectors) + g.head_weights + g.embed_weights
        return {
            "vocabulary": g.vocabulary,
            "max_positions": g.max_positions,
            "step_bytes": step * self.decoder.dtype.itemsize,
        }

    def profile(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> dict[str, Any] | None:
        """Where a decode step's time goes, for the engine that can tell."""
        return None


class Own(Peer):
    """This engine, full model."""

    @override
    def generate(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        full = methods.create(BASELINE)
        return continuation(self.decoder, full, ids, max_new_tokens=new_tokens, stop_at_eos=False).tokens

    def check(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> dict[str, Any]:
        """Choose what runs this number of rows; and what the cores read per second now, on a CPU."""
        found = contest.hold(self.decoder, len(prompts))
        read = asdict(reading.measure()) if self.decoder.device.type == "cpu" else None
        return {"contest": {**asdict(found), "said": str(found)}, "lost": found.lost, "reading": read}

    @override
    def profile(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> dict[str, Any]:
        """Seconds of each step's parts, and what ran the maps."""
        ids = torch.tensor(prompts, device=self.decoder.device)
        found, _ = breakdown.measure(
            lambda decoder, full, greedy: Decoding(
                decoder, full, ids, max_new_tokens=new_tokens, stop_at_eos=False, sampling=greedy, static=False
            ),
            self.decoder,
            methods.create(BASELINE),
        )
        return {"parts_s": found.parts_s, "kernels": choices.table()}


class Transformers(Peer):
    """`generate` of transformers with its dynamic cache."""

    cache: str | None = None

    @override
    def generate(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        more = {} if self.cache is None else {"cache_implementation": self.cache}
        out = self.decoder.source.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,  # end tokens are tokens like any other here, neither stopping nor suppressed
            **more,
        )
        return out[:, ids.shape[1] :]  # type: ignore[no-any-return]


class TransformersStatic(Transformers):
    """`generate` of transformers with its static cache."""

    cache = "static"


def convert_for_ctranslate2(model: str, dtype: str, device: str, folder: str) -> dict[str, int]:
    """Write the model as CTranslate2 reads it; returns `Peer.sizes`. Its tokens are named by their numbers."""
    try:
        from ctranslate2.converters import transformers as conversion
    except ImportError:
        raise BadInput("ctranslate2 is not installed; install the extra: pip install 'depthbench[peers]'") from None
    if device != "cpu" or dtype != "float32":
        raise BadInput("ctranslate2 is compared on the CPU in float32 only")
    decoder = load_model(model, dtype=dtype, device=device)
    name = type(decoder.source.config).__name__
    loader = conversion._MODEL_LOADERS.get(name)
    if loader is None:
        raise BadInput(f"ctranslate2 has no converter for {name}")
    vocabulary = decoder.geometry.vocabulary
    spec = loader(decoder.source, _Numbers(vocabulary))
    spec.validate()
    spec.optimize(quantization="float32")
    spec.save(folder)
    return {"vocabulary": vocabulary, "max_positions": decoder.geometry.max_positions}


class _Numbers:
    """A tokenizer whose tokens are their own numbers, for the converter."""

    bos_token, eos_token, unk_token = "1", "1", "0"

    def __init__(self, size: int) -> None:
        self._size = size

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self._size)}


PEERS: dict[str, Callable[[str, str, str, int], Peer]] = {
    "depthbench": Own,
    "transformers": Transformers,
    "transformers-static": TransformersStatic,
}
