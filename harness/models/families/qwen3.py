"""Qwen3 (Yang et al. 2025, arXiv:2505.09388): Qwen2 without the biases, with norms on query and key heads."""

from __future__ import annotations

from harness.models.families.gated import NormedBlock
from harness.models.families.qwen2 import Qwen2Decoder


class Qwen3Decoder(Qwen2Decoder):
    """Qwen3 over a transformers `Qwen3ForCausalLM`."""

    block = NormedBlock
