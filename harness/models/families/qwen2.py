"""Qwen2 and 2.5 (Yang et al. 2024, arXiv:2407.10671): Llama with biases on q, k and v; some blocks may have windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from harness.models.families.gated import GatedDecoder, check_layer_types, typed_windows


class Qwen2Decoder(GatedDecoder):
    """Qwen2 over a transformers `Qwen2ForCausalLM`."""

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_layer_types(config)

    @override
    def windows(self) -> Sequence[int | None]:
        return typed_windows(self.source.config)
