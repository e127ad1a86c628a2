"""Gemma 2 (Riviere et al. 2024, arXiv:2408.00118): norms after the sublayers too, soft-caps, every second block with a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from harness.models.attention import Rule
from harness.models.decoder import embedding
from harness.models.families.blocks import supported
from harness.models.families.gated import GatedBlock, GatedDecoder, check_layer_types, typed_windows
from harness.models.rotary import RMSNorm


class Gemma2Block(GatedBlock):
    """One Gemma 2 layer."""

    @override
    def norm(self, module: Any) -> RMSNorm:
        """Gemma's weights are stored less one, and applied in single precision."""
        return RMSNorm(module.weight.float() + 1, self._eps)

    @override
    def refresh(self) -> None:
        super().refresh()
        self.feed_norm = self.norm(self.module.pre_feedforward_layernorm)
        self._after_attention = self.norm(self.module.post_attention_layernorm)
        self._after_feed = self.norm(self.module.post_feedforward_layernorm)

    @override
    def close_attention(self, y: torch.Tensor, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        return x + self._after_attention(self._out(y))

    @override
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        return x + self._after_feed(self._down(self.gated(x)))


class Gemma2Decoder(GatedDecoder):
    """Gemma 2 over a transformers `Gemma2ForCausalLM`."""

    block = Gemma2Block
    act_field = "hidden_activation"

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_layer_types(config)
        supported(config, "use_bidirectional_attention", (None, False))

    @override
    def windows(self) -> Sequence[int | None]:
        return typed_windows(self.source.config)

    @override
    def rule(self, window: int | None) -> Rule:
        config = self.source.config
        return Rule(config.query_pre_attn_scalar**-0.5, window, config.attn_logit_softcapping)

    @override
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The factor is rounded to the type of states, as it was in training."""
        table = self.source.model.embed_tokens.weight
        return embedding(ids, table) * self._factor

    @override
    def refresh_ends(self) -> Any:
        self._factor = float(torch.tensor(self.geometry.width**0.5).to(self.state_dtype))
        return super().refresh_ends()

    @override
    def head(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        logits, cap = super().head(x, output), self.source.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap
