"""Maps over a frozen weight W + s B A of which only A and B are trained (adapters), and weights in the type of mixed precision.

The sum is made once for a pass. On the way back autograd would first make the gradient of the whole weight, a third of the pass's
arithmetic, and multiply that by A and B; here the two factors' gradients are taken of the states directly:
dB = s dy^T (x A^T) and dA = s (dy B)^T x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from harness.models.precision import autocasts

_frozen: Any = WeakIdKeyDictionary()
"""Frozen weights in the type of mixed precision, with the version of the weight they were made of."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A weight with an adapter.

    Attributes:
        base: W [N, K], frozen.
        down: A [r, K].
        up: B [N, r].
        scale: s.
    """

    base: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def shape(self) -> torch.Size:
        """That of the weight."""
        return self.base.shape

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return self.base.device

    def whole(self) -> torch.Tensor:
        """The weight, differentiable."""
        with torch.autocast(self.device.type, enabled=False):
            return torch.addmm(self.base.float(), self.up.float(), self.down.float(), alpha=self.scale).to(
                self.base.dtype
            )


def mixed(weight: torch.Tensor) -> torch.Tensor:
    """A weight in the type that mixed precision multiplies in, where that is on; one that is frozen is kept in it."""
    if not autocasts(weight.device) or not weight.is_floating_point():
        return weight
    dtype = torch.get_autocast_dtype(weight.device.type)
    if weight.dtype == dtype:
        return weight
    if weight.requires_grad or weight.is_inference() or torch.is_inference_mode_enabled():
        return weight.to(dtype)
    kept = _frozen.get(weight)
    if kept is None or kept[0] != weight._version or kept[1].dtype != dtype:
        kept = _frozen[weight] = weight._version, weight.detach().to(dtype)
    return kept[1]  # type: ignore[no-any-return]


def merged(parts: Sequence[torch.Tensor | Adapted]) -> torch.Tensor:
    """The weights one below the other [N, K] without their gradients, in the type that they are multiplied in."""
    first = parts[0]
    kind = first.base.dtype if isinstance(first, Adapted) else first.dtype
    dtype = torch.get_autocast_dtype(first.device.type) if autocasts(first.device) else kind
    made = torch.empty(sum(p.shape[0] for p in parts), first.shape[1], dtype=dtype, device=first.device)
    with torch.no_grad():
        # A part at a time, so that the sum in float32 does not leave the processor's caches.
        for part, rows in zip(parts, made.split([p.shape[0] for p in parts]), strict=True):
            rows.copy_(part.whole() if isinstance(part, Adapted) else part)
    return made


def apply(x: torch.Tensor, weight: torch.Tensor, parts: Sequence[torch.Tensor | Adapted], first: int) -> torch.Tensor:
    """States [..., K] through rows `first` and up of a weight that `merged` made of these parts, to [..., N]."""
    factors: list[torch.Tensor] = []
    pieces: list[tuple[int, int, int, float]] = []
    at = -first
    for part in parts:
        end = at + part.shape[0]
        if isinstance(part, Adapted) and end > 0:
            pieces.append((max(at, 0), end, max(-at, 0), part.scale))
            factors += part.down, part.up
        at = end
    return _Map.apply(x, weight[first:], pieces, *factors)  # type: ignore[no-any-return, no-untyped-call]


class _Map(torch.autograd.Function):
    """A frozen map, whose gradients go to x and to the factors of the pieces of W: rows from, to, rows of B left out, scale."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        pieces: list[tuple[int, int, int, float]],
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        ctx.pieces, ctx.kind = pieces, x.dtype
        ctx.save_for_backward(flat, weight, *factors)
        return (flat @ weight.t()).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, weight, *factors = ctx.saved_tensors
        shape = grads[0].shape
        dy = grads[0].reshape(-1, shape[-1]).to(weight.dtype)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).to(ctx.kind).view(*shape[:-1], weight.shape[1])
        found: list[torch.Tensor | None] = [None] * len(factors)
        if any(ctx.needs_input_grad[3:]):
            seen = (x @ torch.cat(factors[::2]).to(x.dtype).t()).split([a.shape[0] for a in factors[::2]], dim=1)
            back = []
            for i, (start, end, skipped, scale) in enumerate(ctx.pieces):
                part, up = dy[:, start:end], factors[2 * i + 1]
                grad = (part.t() @ seen[i]).to(up.dtype).mul_(scale)
                found[2 * i + 1] = grad if not skipped else torch.cat((grad.new_zeros(skipped, grad.shape[1]), grad))
                back.append(part @ (up[skipped:] * scale).to(x.dtype))
            downs = (torch.cat(back, dim=1).t() @ x).split([b.shape[1] for b in back])
            found[::2] = [grad.to(a.dtype) for grad, a in zip(downs, factors[::2], strict=True)]
        return dx, None, None, *found
