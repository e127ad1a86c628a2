"""OPT (Zhang et al. 2022, arXiv:2205.01068): learned positions, ReLU feed-forward, norm before each sublayer.

OPT-350m differs: norm after each sublayer, and matrices between a narrower embedding and the first block, and back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from typing_extensions import override

from harness.models.attention import attention
from harness.models.block import Context
from harness.models.cache import Memory
from harness.models.decoder import Decoder, Geometry, embedding, layer_norm
from harness.models.families.blocks import NATIVE_ACTIVATIONS, check_activation
from harness.models.families.blocks import activation as activation_function
from harness.models.fusable import FusableBlock
from harness.models.fused import Norm, Sublayers
from harness.models.kernels.linear import Joined, Linear, Tail
from harness.models.precision import widened


class OPTBlock(FusableBlock):
    """One OPT layer on the weights of a transformers `OPTDecoderLayer`."""

    def __init__(self, index: int, module: Any, norm_first: bool, activation: str) -> None:
        super().__init__(index)
        self._module = module
        self._norm_first = norm_first
        self._activation = None if activation == "relu" else activation_function(activation)
        self._heads = module.self_attn.num_heads

    @override
    def refresh(self) -> None:
        """Queries, keys and values are fused into one matrix."""
        attn, feed = self._module.self_attn, self._module
        parts = (attn.q_proj, attn.k_proj, attn.v_proj)
        bias = None if attn.q_proj.bias is None else torch.cat([p.bias for p in parts])
        self._qkv = Linear(Joined([p.weight for p in parts]), bias)
        self._kv = Tail(self._qkv, attn.q_proj.weight.shape[0])
        self._out = Linear(attn.out_proj.weight, attn.out_proj.bias)
        self._up = Linear(feed.fc1.weight, feed.fc1.bias, relu=self._activation is None)
        self._down = Linear(feed.fc2.weight, feed.fc2.bias)
        self.renew()

    @override
    def sublayers(self) -> Sublayers | None:
        """The norms of OPT-350m stand elsewhere."""
        if not self._norm_first or (self._activation is not None and self._activation not in NATIVE_ACTIVATIONS):
            return None
        modules = self._module.self_attn_layer_norm, self._module.final_layer_norm
        before_attention, before_feed = map(Norm.layer, modules)
        size = self._out.k // self._heads
        return Sublayers(
            *(self._qkv, self._out, self._up, self._down),
            attention_norm=before_attention,
            feed_norm=before_feed,
            heads=self._heads,
            kv_heads=self._heads,
            head_dim=size,
            scale=size**-0.5,
            activation=None if self._activation is None else NATIVE_ACTIVATIONS[self._activation],
        )

    @override
    def maps(self) -> tuple[Linear, ...]:
        return self._qkv, self._kv, self._out, self._up, self._down

    @override
    def attend_in_calls(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        norm = self._module.self_attn_layer_norm
        qkv = self._qkv(layer_norm(x, norm) if self._norm_first else x)
        q, k, v = qkv.view(*x.shape[:2], 3, self._heads, -1).unbind(2)
        k, v = memory.extend(self.index, k, v, context.positions)
        out = self._out(attention(q, k, v, context), x)
        return out if self._norm_first else layer_norm(out, norm)

    @override
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        norm = self._module.final_layer_norm
        y = self._up(layer_norm(x, norm) if self._norm_first else x)
        if self._activation is not None:
            y = self._activation(y)
        out = self._down(y, x)
        return out if self._norm_first else layer_norm(out, norm)

    @override
    def normed(self, sublayer: str, x: torch.Tensor) -> torch.Tensor:
        if not self._norm_first:
            return x
        module = self._module.self_attn_layer_norm if sublayer == "attention" else self._module.final_layer_norm
        return layer_norm(x, module)

    @override
    def keys_values(self, x: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        kv = self._kv(layer_norm(x, self._module.self_attn_layer_norm) if self._norm_first else x)
        k, v = kv.view(*x.shape[:2], 2, self._heads, -1).unbind(2)
        return k, v


class OPTDecoder(Decoder):
    """OPT over a transformers `OPTForCausalLM`."""

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_activation(config, "activation_function")

    @override
    def build(self) -> None:
        config, decoder = self.source.config, self.source.model.decoder
        self._decoder = decoder
        self.blocks = [
            OPTBlock(i, layer, config.do_layer_norm_before, config.activation_function)
            for i, layer in enumerate(decoder.layers)
        ]
        width, narrow = config.hidden_size, config.word_embed_proj_dim
        projected = width * narrow if decoder.project_out is not None else 0
        self.geometry = Geometry(
            depth=config.num_hidden_layers,
            width=width,
            heads=config.num_attention_heads,
            kv_heads=config.num_attention_heads,
            head_dim=width // config.num_attention_heads,
            vocabulary=config.vocab_size,
            max_positions=config.max_position_embeddings,
            attention_weights=4 * width * width,
            kv_weights=2 * width * width,
            feed_weights=2 * width * config.ffn_dim,
            head_weights=config.vocab_size * narrow + projected,
            embed_weights=projected,
            block_vectors=4 * width + (5 * width + config.ffn_dim if config.enable_bias else 0),
        )

    @override
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """OPT's position table starts with two unused rows."""
        x = embedding(ids, self._decoder.embed_tokens.weight)
        if self._decoder.project_in is not None:
            x = F.linear(x, widened(self._decoder.project_in.weight))
        return x + embedding(positions + 2, self._decoder.embed_positions.weight)

    @override
    def head(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        if self._decoder.final_layer_norm is not None:
            x = layer_norm(x, self._decoder.final_layer_norm)
        if self._decoder.project_out is not None:
            x = F.linear(x, widened(self._decoder.project_out.weight))
        return self._output(x) if output is None else F.linear(x, widened(output))

    @override
    def refresh_ends(self) -> tuple[Linear, ...]:
        self._output = Linear(self.source.lm_head.weight)
        return (self._output,)
