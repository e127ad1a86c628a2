"""Blocks of GPT-2's kind: layer norms, as many key heads as heads, two matrices with an activation between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from typing_extensions import override

from harness.models.attention import PLAIN, Rule
from harness.models.decoder import Decoder, layer_norm
from harness.models.families.blocks import Function, FusedBlock
from harness.models.fused import Norm
from harness.models.kernels.linear import Joined, Linear
from harness.models.precision import widened


class PlainBlock(FusedBlock):
    """A block of this kind.

    Args:
        index: 0-based place in the model.
        module: the layer of the transformers model.
        heads: attention heads.
        act: between the matrices.
        rule: of its attention.
    """

    def __init__(self, index: int, module: Any, heads: int, act: Function, rule: Rule = PLAIN) -> None:
        super().__init__(index, module, heads, heads, rule)
        self._act = act

    def set_norms(self, attention_norm: Any, feed_norm: Any) -> None:
        """Keep the norms before the sublayers."""
        self._norms = [Norm.layer(m) for m in (attention_norm, feed_norm)]
        self.attention_norm = partial(layer_norm, module=attention_norm)
        self.feed_norm = partial(layer_norm, module=feed_norm)

    def by_kind(self, module: Any) -> Linear:
        """The map of a linear module that holds q, k and v head by head: all q, then all k, then all v."""

        def sorted_out(p: torch.Tensor) -> torch.Tensor:
            return p.unflatten(0, (self._heads, 3, -1)).transpose(0, 1).flatten(0, 2)  # type: ignore[no-any-return]

        bias = None if module.bias is None else sorted_out(module.bias)
        return Linear(Joined([module.weight], lambda parts: sorted_out(parts[0])), bias)

    @override
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        return self._down(self._act(self._up(self.feed_norm(x))), x)


class PlainDecoder(Decoder):
    """A model of plain blocks; `build` of a family names the norm after them."""

    final_norm: Any

    @override
    def head(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        x = layer_norm(x, self.final_norm)
        return self._output(x) if output is None else F.linear(x, widened(output))

    @override
    def refresh_ends(self) -> tuple[Linear, ...]:
        output = self.source.get_output_embeddings()
        self._output = Linear(output.weight, output.bias)
        return (self._output,)
