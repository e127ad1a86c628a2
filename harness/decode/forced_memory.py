"""Keys and values of a teacher-forced pass, differentiable: those of the prompts, and those of continuations joined to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class ForcedMemory:
    """Keys and values as a function: nothing is written in place, so gradients flow. One pass of prompts, then continuations."""

    def __init__(self, depth: int) -> None:
        self._prompt: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * depth
        self._positions: torch.Tensor | None = None

    def continued(self, owners: torch.Tensor | None) -> ContinuedMemory:
        """The memory of rows that continue these prompts: row n the prompt row `owners[n]`, or row n if there are no owners.

        Another object, so that a block may be computed again later (gradient checkpointing) on either side.
        """
        return ContinuedMemory(tuple(self._prompt), self._positions, owners)

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`; the prompt's keys and values are kept."""
        self.write(layer, keys, values, positions)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """See `Memory.write`."""
        self._prompt[layer] = keys, values
        self._positions = positions

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`; the keys just extended are the ones asked about."""
        assert self._positions is not None, "nothing is held yet"
        return self._positions


class ContinuedMemory:
    """Keys and values of continuations: a prompt's are only joined to theirs, so any number of passes may follow one prompt."""

    def __init__(
        self,
        prompt: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
        prompt_positions: torch.Tensor | None,
        owners: torch.Tensor | None,
    ) -> None:
        self._prompt, self._prompt_positions, self._owners = prompt, prompt_positions, owners
        self._positions: torch.Tensor | None = None

    def _of_rows(self, part: torch.Tensor) -> torch.Tensor:
        if self._owners is None:
            return part
        if part.shape[0] == 1:
            return part.expand(len(self._owners), *part.shape[1:])
        if part.requires_grad:
            return _Copies.apply(part, self._owners)  # type: ignore[no-any-return, no-untyped-call]
        return part.index_select(0, self._owners)

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`."""
        prompt = self._prompt[layer]
        if prompt is None:  # no position of the prompts attended there
            self._positions = positions
            return keys.transpose(1, 2), values.transpose(1, 2)
        assert self._prompt_positions is not None, "prompts run before their continuations"
        keys = torch.cat((self._of_rows(prompt[0]), keys), dim=1)
        values = torch.cat((self._of_rows(prompt[1]), values), dim=1)
        self._positions = torch.cat((self._of_rows(self._prompt_positions), positions), dim=1)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """See `Memory.write`: what all columns of a pass store without attending, none of them looks at."""

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`; the keys just extended are the ones asked about."""
        assert self._positions is not None, "nothing is held yet"
        return self._positions


class _Copies(torch.autograd.Function):
    """Rows of x [M, ...] for their continuations [N]; gradients are summed from one piece of memory, else torch is slow."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        ctx.rows = x.shape[0]
        ctx.save_for_backward(owners)
        return x.index_select(0, owners)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (owners,) = ctx.saved_tensors
        grad = grads[0].contiguous()
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_add_(0, owners, grad), None
