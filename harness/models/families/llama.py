"""Llama 1 to 3 (Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783): what gated.py holds."""

from __future__ import annotations

from harness.models.families.gated import GatedDecoder


class LlamaDecoder(GatedDecoder):
    """Llama over a transformers `LlamaForCausalLM`, with every rotary scaling in rotary.py."""
