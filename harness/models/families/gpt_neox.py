"""GPT-NeoX and Pythia (Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373): rotary on part of each head.

The two sublayers may run side by side: both read the block's input, and both are added to it.
"""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from harness.models.block import Context
from harness.models.decoder import embedding
from harness.models.families.blocks import Function, activation, check_activation, geometry
from harness.models.families.plain import PlainBlock, PlainDecoder
from harness.models.fused import Sublayers
from harness.models.kernels.linear import Linear
from harness.models.rotary import Rotary, check_rope, reachable_positions


class GPTNeoXBlock(PlainBlock):
    """One GPT-NeoX layer."""

    def __init__(self, index: int, module: Any, heads: int, act: Function, rotary: Rotary, parallel: bool) -> None:
        super().__init__(index, module, heads, act)
        self._rotary, self._parallel = rotary, parallel

    @override
    def refresh(self) -> None:
        attn, mlp = self.module.attention, self.module.mlp
        self.set_norms(self.module.input_layernorm, self.module.post_attention_layernorm)
        out, up, down = (Linear(m.weight, m.bias) for m in (attn.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h))
        self.set_maps(self.by_kind(attn.query_key_value), out, up, down)

    @override
    def sublayers(self) -> Sublayers | None:
        return self.plainly(self._act, self._norms, gated=False, rotary=self._rotary, side_by_side=self._parallel)

    @override
    def encode(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        return self._rotary(x, context)

    @override
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        read = entry if self._parallel else x
        return self._down(self._act(self._up(self.feed_norm(read))), x)


class GPTNeoXDecoder(PlainDecoder):
    """GPT-NeoX over a transformers `GPTNeoXForCausalLM`."""

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_rope(config, partial=True)
        check_activation(config, "hidden_act")

    @override
    def build(self) -> None:
        config, body = self.source.config, self.source.gpt_neox
        rotary, act = Rotary(body.rotary_emb), activation(config.hidden_act)
        self.blocks = [
            GPTNeoXBlock(i, layer, config.num_attention_heads, act, rotary, config.use_parallel_residual)
            for i, layer in enumerate(body.layers)
        ]
        self.final_norm = body.final_layer_norm
        self.geometry = geometry(
            config,
            body.layers,
            "attention",
            self.source.get_output_embeddings(),
            kv_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            max_positions=reachable_positions(config),
        )

    @override
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return embedding(ids, self.source.gpt_neox.embed_in.weight)
