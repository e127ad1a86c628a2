"""BLOOM (Le Scao et al. 2022, arXiv:2211.05100): ALiBi (Press et al. 2021, arXiv:2108.12409) in place of positions."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from harness.models.attention import Rule
from harness.models.decoder import embedding, layer_norm
from harness.models.families.blocks import Function, activation, geometry, supported
from harness.models.families.plain import PlainBlock, PlainDecoder
from harness.models.kernels.linear import Linear

# ALiBi has no table that ends. BLOOM was trained at this length; a config may say another (`seq_length`).
TRAINED_LENGTH = 2048


class BloomBlock(PlainBlock):
    """One BLOOM layer."""

    def __init__(self, index: int, module: Any, heads: int, act: Function, rule: Rule, normed_residual: bool) -> None:
        super().__init__(index, module, heads, act, rule)
        self._normed_residual = normed_residual

    @override
    def refresh(self) -> None:
        attn, mlp = self.module.self_attention, self.module.mlp
        self.set_norms(self.module.input_layernorm, self.module.post_attention_layernorm)
        out, up, down = (Linear(m.weight, m.bias) for m in (attn.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h))
        self.set_maps(self.by_kind(attn.query_key_value), out, up, down)

    @override
    def close_attention(self, y: torch.Tensor, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        return self._out(y, normed if self._normed_residual else x)

    @override
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        normed = self.feed_norm(x)
        return self._down(self._act(self._up(normed)), normed if self._normed_residual else x)


class BloomDecoder(PlainDecoder):
    """BLOOM over a transformers `BloomForCausalLM`."""

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        if config.pretraining_tp > 1:  # sums partial products, and leaves biases out
            supported(config, "slow_but_exact", (False,))

    @override
    def build(self) -> None:
        config, body = self.source.config, self.source.transformer
        rule = Rule(slopes=slopes(config.n_head).to(self.device))
        act, normed = activation("gelu_new"), config.apply_residual_connection_post_layernorm
        self.blocks = [BloomBlock(i, layer, config.n_head, act, rule, normed) for i, layer in enumerate(body.h)]
        self.needs_key_positions = True
        self.final_norm = body.ln_f
        self.geometry = geometry(
            config,
            body.h,
            "self_attention",
            self.source.get_output_embeddings(),
            kv_heads=config.n_head,
            head_dim=config.hidden_size // config.n_head,
            max_positions=getattr(config, "seq_length", None) or TRAINED_LENGTH,
        )

    @override
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        body = self.source.transformer
        return layer_norm(embedding(ids, body.word_embeddings.weight), body.word_embeddings_layernorm)


def slopes(heads: int) -> torch.Tensor:
    """ALiBi's slope of each head [H]: powers of 2^(-8/n) for n a power of two, the rest from between those of 2n."""
    power = 1 << (heads.bit_length() - 1)
    base = 2.0 ** (-8 / power)
    finer = 2.0 ** (-4 / power)
    return torch.tensor([base**i for i in range(1, power + 1)] + [finer ** (2 * i + 1) for i in range(heads - power)])
