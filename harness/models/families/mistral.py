"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama whose blocks all look through a sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from harness.models.families.blocks import supported
from harness.models.families.gated import GatedDecoder, check_window


class MistralDecoder(GatedDecoder):
    """Mistral over a transformers `MistralForCausalLM`."""

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        """Transformers warns of `layer_types` here and goes on without them."""
        super().check(config)
        check_window(config)
        supported(config, "layer_types", (None,))

    @override
    def windows(self) -> Sequence[int | None]:
        config = self.source.config
        return [config.sliding_window] * int(config.num_hidden_layers)
