"""OPT (Zhang et al. 2022, arXiv:2205.01068): learned positions, ReLU feed-forward, norm before each sublayer.

OPT-350m differs: norm after each sublayer, and matrices between a narrower embedding and the first block, and back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN

from harness.cache import Memory
from harness.models.decoder import Block, Context, Decoder, Geometry, attention


class OPTBlock(Block):
    """One OPT layer on the weights of a transformers `OPTDecoderLayer`."""

    def __init__(self, index: int, module: Any, norm_first: bool, activation: str) -> None:
        super().__init__(index)
        self._module = module
        self._norm_first = norm_first
        self._activation = F.relu if activation == "relu" else ACT2FN[activation]
        self._heads = module.self_attn.num_heads
        self.refresh()

    def refresh(self) -> None:
        """See `Block.refresh`. Queries, keys and values are fused into one matrix."""
        attn = self._module.self_attn
        parts = (attn.q_proj, attn.k_proj, attn.v_proj)
        self._w_qkv = torch.cat([p.weight for p in parts])
        self._b_qkv = None if attn.q_proj.bias is None else torch.cat([p.bias for p in parts])
        self._w_out, self._b_out = attn.out_proj.weight, attn.out_proj.bias
        self._w_up, self._b_up = self._module.fc1.weight, self._module.fc1.bias
        self._w_down, self._b_down = self._module.fc2.weight, self._module.fc2.bias
        width = self._w_out.shape[0]
        self._w_kv = self._w_qkv[width:]
        self._b_kv = None if self._b_qkv is None else self._b_qkv[width:]

    def _split(self, fused: torch.Tensor, parts: int) -> torch.Tensor:
        """[B, T, parts*D] to [parts, B, H, T, d]."""
        b, t, _ = fused.shape
        return fused.view(b, t, parts, self._heads, -1).permute(2, 0, 3, 1, 4)

    def attend(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        """See `Block.attend`."""
        norm = self._module.self_attn_layer_norm
        y = _norm(x, norm) if self._norm_first else x
        qkv = self._split(F.linear(y, self._w_qkv, self._b_qkv), 3)
        # Split and unbind, not indices: their gradients are concatenations, not sums of zero-filled copies.
        q, kv = qkv.split((1, 2))
        k, v = memory.extend(self.index, kv)
        out = F.linear(attention(q.squeeze(0), k, v, context), self._w_out, self._b_out)
        out = x + out
        return out if self._norm_first else _norm(out, norm)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        """See `Block.feed`."""
        norm = self._module.final_layer_norm
        y = _norm(x, norm) if self._norm_first else x
        y = self._activation(F.linear(y, self._w_up, self._b_up))
        out = x + F.linear(y, self._w_down, self._b_down)
        return out if self._norm_first else _norm(out, norm)

    def keys_values(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """See `Block.keys_values`."""
        y = _norm(x, self._module.self_attn_layer_norm) if self._norm_first else x
        return self._split(F.linear(y, self._w_kv, self._b_kv), 2)


class OPTDecoder(Decoder):
    """OPT over a transformers `OPTForCausalLM`."""

    def __post_init__(self) -> None:
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

    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """See `Decoder.embed`. OPT's position table starts with two unused rows."""
        x = F.embedding(ids, self._decoder.embed_tokens.weight)
        if self._decoder.project_in is not None:
            x = F.linear(x, self._decoder.project_in.weight)
        return x + F.embedding(positions + 2, self._decoder.embed_positions.weight)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """See `Decoder.head`."""
        if self._decoder.final_layer_norm is not None:
            x = _norm(x, self._decoder.final_layer_norm)
        if self._decoder.project_out is not None:
            x = F.linear(x, self._decoder.project_out.weight)
        return F.linear(x, self.source.lm_head.weight)


def _norm(x: torch.Tensor, module: Any) -> torch.Tensor:
    return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
