"""Phi-3 (Abdin et al. 2024, arXiv:2404.14219): Llama stored fused, on part of each head rotary (Phi-4-mini), with LongRoPE.

LongRoPE's long factors are not offered: transformers computes the whole cache anew when a sequence grows past the original
length, which no cache with holes can follow. Up to that length everything is exact, beyond it sequences are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from harness.models.families.gated import GatedBlock, GatedDecoder, check_window
from harness.models.kernels.linear import Linear


class Phi3Block(GatedBlock):
    """One Phi-3 layer; its checkpoints are fused already."""

    @override
    def fused(self) -> tuple[Linear, Linear]:
        return Linear(self.module.self_attn.qkv_proj.weight), Linear(self.module.mlp.gate_up_proj.weight)


class Phi3Decoder(GatedDecoder):
    """Phi-3 over a transformers `Phi3ForCausalLM`."""

    block = Phi3Block
    partial_rotary = True

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_window(config)

    @override
    def windows(self) -> Sequence[int | None]:
        config = self.source.config
        return [config.sliding_window] * int(config.num_hidden_layers)
