"""Gemma 2 (Riviere et al. 2024, arXiv:2408.00118): norms after the sublayers too, soft-caps, every second block with a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.models.attention import Rule
from harness.models.decoder import embedding
from harness.models.families.blocks import supported
from harness.models.families.gated import GatedBlock, GatedDecoder, check_layer_types, typed_windows
from harness.models.rotary import RMSNorm


class Gemma2Block(GatedBlock):
    """One Gemma 2 layer."""

    def norm(self, module: Any) -> RMSNorm:
        """See `GatedBlock.norm`. Gemma's weights are stored less one, and applied in single precision."""
        return RMSNorm(module.weight.float() + 1, self._eps)

    def refresh(self) -> None:
        """See `Block.refresh`."""
        super().refresh()
        self.feed_norm = self.norm(self.module.pre_feedforward_layernorm)
        self._after_attention = self.norm(self.module.post_attention_layernorm)
        self._after_feed = self.norm(self.module.post_feedforward_layernorm)

    def close_attention(self, y: torch.Tensor, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """See `FusedBlock.close_attention`."""
        return x + self._after_attention(self._out(y))

    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """See `FusableBlock.feed_in_calls`."""
        return x + self._after_feed(self._down(self.gated(x)))


class Gemma2Decoder(GatedDecoder):
    """Gemma 2 over a transformers `Gemma2ForCausalLM`."""

    block = Gemma2Block
    act_field = "hidden_activation"

    @classmethod
    def check(cls, config: Any) -> None:
        """See `Decoder.check`."""
        super().check(config)
        check_layer_types(config)
        supported(config, "use_bidirectional_attention", (None, False))

    def windows(self) -> Sequence[int | None]:
        """See `GatedDecoder.windows`."""
        return typed_windows(self.source.config)

    def rule(self, window: int | None) -> Rule:
        """See `GatedDecoder.rule`."""
        config = self.source.config
        return Rule(config.query_pre_attn_scalar**-0.5, window, config.attn_logit_softcapping)

    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """See `Decoder.embed`. The factor is rounded to the type of states, as it was in training."""
        table = self.source.model.embed_tokens.weight
        return embedding(ids, table) * self._factor

    def refresh_ends(self) -> Any:
        """See `Decoder.refresh_ends`."""
        self._factor = float(torch.tensor(self.geometry.width**0.5).to(self.state_dtype))
        return super().refresh_ends()

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """See `Decoder.head`."""
        logits, cap = super().head(x), self.source.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap
