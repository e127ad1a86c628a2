"""The engines a user could pick instead, behind one interface: this one's full model, transformers, CTranslate2.

Each runs in a process of its own (`harness.baseline`): several OpenMP runtimes in one process slow each other down by
factors, which would flatter whichever engine suffers least.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

import methods
from harness.engine import generate
from harness.errors import BadInput
from harness.models import kernels, load_model
from harness.models.decoder import Decoder
from harness.probes.latency import step_parts


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

    @abstractmethod
    def run(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """Greedy continuation of prompts [B, P] without padding, end tokens ignored: [B, new_tokens]."""

    @property
    def sizes(self) -> dict[str, int]:
        """What callers draw prompts from: vocabulary and positions."""
        return {"vocabulary": self.decoder.geometry.vocabulary, "max_positions": self.decoder.geometry.max_positions}

    def profile(self, ids: torch.Tensor, new_tokens: int) -> dict[str, Any] | None:
        """Where a decode step's time goes, for the engine that can tell."""
        return None


class Own(Peer):
    """This engine, full model."""

    def run(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """See `Peer.run`."""
        full = methods.create("full")
        return generate(self.decoder, full, ids, max_new_tokens=new_tokens, stop_at_eos=False).tokens

    def profile(self, ids: torch.Tensor, new_tokens: int) -> dict[str, Any]:
        """See `Peer.profile`: seconds of each step's parts, and the layouts of the weights."""
        return {"parts_s": step_parts(self.decoder, ids, None, new_tokens - 1), "kernels": kernels.table()}


class Transformers(Peer):
    """`generate` of transformers with its dynamic cache."""

    cache: str | None = None

    def run(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """See `Peer.run`."""
        more = {} if self.cache is None else {"cache_implementation": self.cache}
        out = self.decoder.source.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            **more,
        )
        return out[:, ids.shape[1] :]  # type: ignore[no-any-return]


class TransformersStatic(Transformers):
    """`generate` of transformers with its static cache."""

    cache = "static"


class CTranslate2(Peer):
    """CTranslate2 on the same weights, converted in place."""

    def __init__(self, model: str, dtype: str, device: str, threads: int) -> None:
        super().__init__(model, dtype, device, threads)
        try:
            import ctranslate2
            from ctranslate2.converters import transformers as conversion
        except ImportError:
            raise BadInput("ctranslate2 is not installed; install the extra: pip install 'depthbench[peers]'") from None
        if self.decoder.device.type != "cpu" or self.decoder.dtype != torch.float32:
            raise BadInput("ctranslate2 is compared on the CPU in float32 only")
        name = type(self.decoder.source.config).__name__
        loader = conversion._MODEL_LOADERS.get(name)
        if loader is None:
            raise BadInput(f"ctranslate2 has no converter for {name}")
        with tempfile.TemporaryDirectory() as folder:
            spec = loader(self.decoder.source, _Numbers(self.decoder.geometry.vocabulary))
            spec.validate()
            spec.optimize(quantization="float32")
            spec.save(folder)
            self._generator = ctranslate2.Generator(
                folder, device="cpu", compute_type="float32", intra_threads=threads, inter_threads=1
            )
        # Its own copy is what runs; the decoder's would only take memory.
        self._sizes = super().sizes
        del self.decoder

    @property
    def sizes(self) -> dict[str, int]:
        """See `Peer.sizes`."""
        return self._sizes

    def run(self, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """See `Peer.run`."""
        found = self._generator.generate_batch(
            [[str(token) for token in row] for row in ids.tolist()],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return torch.tensor([result.sequences_ids[0] for result in found])


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
    "ctranslate2": CTranslate2,
}
