"""What most families share: one matrix for queries, keys and values. plain.py and gated.py add the feed-forward sublayers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN
from typing_extensions import override

from harness.errors import BadInput
from harness.models.attention import PLAIN, Rule, attention
from harness.models.block import Context
from harness.models.cache import Memory
from harness.models.decoder import Geometry
from harness.models.fusable import FusableBlock
from harness.models.fused import Norm, Sublayers
from harness.models.kernels.linear import Linear, Tail
from harness.models.rotary import Rotary

Function = Callable[[torch.Tensor], torch.Tensor]


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


# One kernel each; transformers writes some of them out in steps.
_ACTIVATIONS: dict[str, Function] = {
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}
# What the compiled kernels call them.
NATIVE_ACTIVATIONS: dict[Any, str] = {F.relu: "relu", F.silu: "silu", F.gelu: "gelu", _gelu_tanh: "gelu_tanh"}
# Activations with weights of their own.
_LEARNED = {"prelu", "xielu"}


def activation(name: str) -> Function:
    """The activation function transformers knows by this name."""
    return _ACTIVATIONS.get(name) or ACT2FN[name]


def supported(config: Any, field: str, values: Sequence[object]) -> None:
    """BadInput unless a field of the config, where there is one, has one of these values."""
    value = getattr(config, field, values[0])
    if value not in values:
        known = " or ".join(map(repr, values))
        raise BadInput(f"model: {field}={value!r} of {config.model_type} is not supported; supported is {known}")


def check_activation(config: Any, field: str) -> None:
    """BadInput unless a field of the config names an activation function."""
    known = sorted(set(ACT2FN) - _LEARNED)
    if getattr(config, field) not in known:
        raise BadInput(
            f"model: {field}={getattr(config, field)!r} of {config.model_type} is not supported; supported are "
            f"{', '.join(known)}"
        )


def geometry(
    config: Any, layers: Any, attention_name: str, output: Any, *, kv_heads: int, head_dim: int, max_positions: int
) -> Geometry:
    """Sizes of a model, counted on the weights of its first layer; its output matrix is all there is after the blocks."""
    layer = layers[0]
    return Geometry(
        depth=len(layers),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=output.weight.shape[0],
        max_positions=max_positions,
        attention_weights=_elements(getattr(layer, attention_name), 2),
        kv_weights=2 * config.hidden_size * kv_heads * head_dim,
        feed_weights=_elements(layer.mlp, 2),
        head_weights=output.weight.numel(),
        block_vectors=_elements(layer, 1),
    )


def _elements(module: Any, dims: int) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() == dims)


class FusedBlock(FusableBlock):
    """A block with one map for queries, keys and values, [(H + 2 Hkv) d, D] in this order.

    Args:
        index: 0-based place in the model.
        module: the layer of the transformers model.
        heads: attention heads, H.
        kv_heads: key/value heads, Hkv.
        rule: of its attention.
    """

    attention_norm: Function
    feed_norm: Function

    def __init__(self, index: int, module: Any, heads: int, kv_heads: int, rule: Rule = PLAIN) -> None:
        super().__init__(index)
        self.module = module
        self.rule = rule
        self._heads, self._kv_heads = heads, kv_heads

    def set_maps(self, qkv: Linear, out: Linear, up: Linear, down: Linear) -> None:
        """Keep the maps of the block; the one for keys and values alone is a part of `qkv`."""
        queries = qkv.n * self._heads // (self._heads + 2 * self._kv_heads)
        self._qkv, self._kv, self._out, self._up, self._down = qkv, Tail(qkv, queries), out, up, down
        self.renew()

    @override
    def sublayers(self) -> Sublayers | None:
        """Families that compute just this say so."""
        return None

    def plainly(
        self, act: Function, norms: Sequence[Norm], *, gated: bool, rotary: Rotary | None, side_by_side: bool = False
    ) -> Sublayers | None:
        """The sublayers of a block with a plain rule of attention and these norms; None where the kernels lack something."""
        size = self._out.k // self._heads
        if self.rule.needs_positions or self.rule.softcap is not None or act not in NATIVE_ACTIVATIONS:
            return None
        return Sublayers(
            *(self._qkv, self._out, self._up, self._down),
            attention_norm=norms[0],
            feed_norm=norms[1],
            heads=self._heads,
            kv_heads=self._kv_heads,
            head_dim=size,
            scale=self.rule.scale or size**-0.5,
            activation=NATIVE_ACTIVATIONS[act],
            gated=gated,
            side_by_side=side_by_side,
            rotary=rotary,
        )

    @override
    def maps(self) -> tuple[Linear, ...]:
        return self._qkv, self._kv, self._out, self._up, self._down

    def encode(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Put positions into queries and keys x [B, T, H + Hkv, d], or into keys alone [B, T, Hkv, d]."""
        return x

    def close_attention(self, y: torch.Tensor, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """The end of the attention sublayer: heads y [B, T, H*d] mapped and added to x."""
        return self._out(y, x)

    @override
    def attend_in_calls(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        normed = self.attention_norm(x)
        turned = self._heads + self._kv_heads
        heads = self._qkv(normed).view(*x.shape[:2], turned + self._kv_heads, -1)
        qk = self.encode(heads[:, :, :turned], context)
        k, v = memory.extend(self.index, qk[:, :, self._heads :], heads[:, :, turned:], context.positions)
        at = memory.key_positions(self.index) if self.rule.needs_positions else None
        y = attention(qk[:, :, : self._heads], k, v, context, self.rule, at)
        return self.close_attention(y, x, normed)

    @override
    def normed(self, sublayer: str, x: torch.Tensor) -> torch.Tensor:
        return (self.attention_norm if sublayer == "attention" else self.feed_norm)(x)

    @override
    def keys_values(self, x: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        kv = self._kv(self.attention_norm(x)).view(*x.shape[:2], 2 * self._kv_heads, -1)
        return self.encode(kv[:, :, : self._kv_heads], context), kv[:, :, self._kv_heads :]
