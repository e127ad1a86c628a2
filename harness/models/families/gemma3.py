"""Gemma 3, text (Kamath et al. 2025, arXiv:2503.19786): Gemma 2 with norms on query and key heads in place of the soft-cap.

Most blocks have a window, and their positions turn at a frequency of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from harness.models.families.blocks import supported
from harness.models.families.gated import NormedBlock
from harness.models.families.gemma2 import Gemma2Block, Gemma2Decoder
from harness.models.rotary import Rotary


class Gemma3Block(Gemma2Block, NormedBlock):
    """One Gemma 3 layer."""


class Gemma3Decoder(Gemma2Decoder):
    """Gemma 3 over a transformers `Gemma3ForCausalLM`."""

    block = Gemma3Block

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        """Transformers leaves the soft-cap of the scores out here, whatever the config says."""
        super().check(config)
        supported(config, "attn_logit_softcapping", (None,))

    @override
    def rotaries(self) -> Sequence[Rotary]:
        kinds: list[str] = self.source.config.layer_types
        by_kind = {kind: Rotary(self.source.model.rotary_emb, kind) for kind in set(kinds)}
        return [by_kind[kind] for kind in kinds]
