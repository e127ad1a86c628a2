"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): learned positions, matrices stored [K, N]."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from harness.models.attention import Rule
from harness.models.decoder import embedding
from harness.models.families.blocks import activation, check_activation, geometry, supported
from harness.models.families.plain import PlainBlock, PlainDecoder
from harness.models.fused import Sublayers
from harness.models.kernels.linear import Linear


class GPT2Block(PlainBlock):
    """One GPT-2 layer."""

    @override
    def refresh(self) -> None:
        attn, mlp = self.module.attn, self.module.mlp
        self.set_norms(self.module.ln_1, self.module.ln_2)
        qkv, out, up, down = (Linear(m.weight.t(), m.bias) for m in (attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj))
        self.set_maps(qkv, out, up, down)

    @override
    def sublayers(self) -> Sublayers | None:
        return self.plainly(self._act, self._norms, gated=False, rotary=None)


class GPT2Decoder(PlainDecoder):
    """GPT-2 over a transformers `GPT2LMHeadModel`."""

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_activation(config, "activation_function")
        supported(config, "add_cross_attention", (False,))

    @override
    def build(self) -> None:
        config, body = self.source.config, self.source.transformer
        act = activation(config.activation_function)
        head_dim = config.n_embd // config.n_head
        scale = head_dim**-0.5 if config.scale_attn_weights else 1.0
        divisors = range(1, config.n_layer + 1) if config.scale_attn_by_inverse_layer_idx else [1] * config.n_layer
        self.blocks = [
            GPT2Block(i, layer, config.n_head, act, Rule(scale=scale / divisor))
            for i, (layer, divisor) in enumerate(zip(body.h, divisors, strict=True))
        ]
        self.final_norm = body.ln_f
        self.geometry = geometry(
            config,
            body.h,
            "attn",
            self.source.get_output_embeddings(),
            kv_heads=config.n_head,
            head_dim=head_dim,
            max_positions=config.n_positions,
        )

    @override
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        body = self.source.transformer
        return embedding(ids, body.wte.weight) + embedding(positions, body.wpe.weight)
