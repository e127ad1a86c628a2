"""Memories of keys and values: the preallocated cache of decoding, and the differentiable one of scoring."""

from __future__ import annotations

from typing import Protocol

import torch


class Memory(Protocol):
    """Where a block puts its keys and values and finds those of earlier positions."""

    def extend(self, layer: int, keys_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [2, B, H, T, d] for block `layer`; return all keys and all values held, each [B, H, S, d]."""
        ...


class KVCache:
    """Preallocated keys and values with a length of its own for every block.

    A block that did not run at a position holds nothing for it: blocks append, so each attends over exactly the
    positions that ran it (positions are encoded before caching, so storage order carries no meaning).
    """

    def __init__(
        self,
        depth: int,
        batch_size: int,
        heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity = capacity
        self.lengths = [0] * depth
        self._store = torch.empty((depth, 2, batch_size, heads, capacity, head_dim), dtype=dtype, device=device)
        self._layers = list(self._store.unbind(0))

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated."""
        return self._store.numel() * self._store.element_size()

    @property
    def written_bytes(self) -> int:
        """Bytes holding keys and values of some position."""
        return sum(self.lengths) * self.allocated_bytes // (self.capacity * len(self.lengths))

    def extend(self, layer: int, keys_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`."""
        self.write(layer, keys_values)
        keys, values = self._layers[layer][:, :, :, : self.lengths[layer]].unbind(0)
        return keys, values

    def write(self, layer: int, keys_values: torch.Tensor) -> None:
        """Append [2, B, H, T, d] to block `layer`."""
        start = self.lengths[layer]
        end = start + keys_values.shape[3]
        self._layers[layer][:, :, :, start:end].copy_(keys_values)
        self.lengths[layer] = end


class ForcedMemory:
    """Keys and values as a function: nothing is written in place, so gradients flow. One pass of prompts, one of targets."""

    def __init__(self, depth: int) -> None:
        self._prompt: list[torch.Tensor | None] = [None] * depth
        self._owners: torch.Tensor | None = None

    def share(self, owners: torch.Tensor) -> None:
        """From now on rows are continuations: row n continues the prompt row `owners[n]`."""
        self._owners = owners

    def extend(self, layer: int, keys_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`; the prompt's keys and values are kept, a continuation's are only joined to them."""
        if self._owners is None:
            self._prompt[layer] = keys_values
        else:
            prompt = self._prompt[layer]
            assert prompt is not None, "prompts run before their continuations"
            keys_values = torch.cat((prompt.index_select(1, self._owners), keys_values), dim=3)
        keys, values = keys_values.unbind(0)
        return keys, values
