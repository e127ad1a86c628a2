"""Memories of keys and values: what a block needs of one, and the preallocated cache of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch


class Memory(Protocol):
    """Where a block puts its keys and values and finds those of earlier positions."""

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values [B, T, Hkv, d] at positions [B, T] for block `layer`; return all held, [B, Hkv, S, d] each."""
        ...

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Store keys and values as `extend` does; nobody looks at them now."""
        ...

    def key_positions(self, layer: int) -> torch.Tensor:
        """Positions of the keys block `layer` holds, [B, S]; only where the model was said to need them."""
        ...


Rooms = tuple[torch.Tensor | None, torch.Tensor | None]
"""The cache rows that the rows at hand belong to (None: all, in order), and each row's first column (None: the same for all)."""


class KVCache:
    """Preallocated keys and values with a length of its own for every block.

    A block that did not run at a position holds nothing for it: blocks append, so each attends over exactly the
    positions that ran it (positions are encoded before caching, so storage order carries no meaning).

    Args:
        capacities: positions each block has room for [L].
        batch_size: B.
        heads: key/value heads, Hkv.
        head_dim: d.
        dtype: of the model's states.
        device: of the model.
        keep_positions: also keep every key's position, for models whose attention depends on distances.
    """

    def __init__(
        self,
        capacities: Sequence[int],
        batch_size: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        keep_positions: bool = False,
    ) -> None:
        self.lengths = [0] * len(capacities)
        self.capacities, self.rows, self.device = list(capacities), batch_size, device
        self._columns: torch.Tensor | None = None
        self._table: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._firsts: torch.Tensor | None = None
        self._start = self._held = 0
        self._row = heads * head_dim * batch_size
        self._element = dtype.itemsize
        # Zeros: a column that no row has written yet may be read under a mask, and must be finite.
        store = torch.zeros(2 * self._row * sum(capacities), dtype=dtype, device=device)
        self.allocated_bytes = store.numel() * self._element
        self._write: list[tuple[torch.Tensor, torch.Tensor]] = []  # [B, S, Hkv, d]: tokens are written side by side
        self._read: list[tuple[torch.Tensor, torch.Tensor]] = []  # the same storage as [B, Hkv, S, d]
        for part in store.split([2 * self._row * capacity for capacity in capacities]):
            keys, values = part.view(2, batch_size, -1, heads, head_dim).unbind(0) if part.numel() else (part, part)
            self._write.append((keys, values))
            self._read.append((keys.transpose(1, 2), values.transpose(1, 2)) if part.numel() else (part, part))
        self._positions: list[torch.Tensor] | None = None
        if keep_positions:
            self._positions = [torch.zeros((batch_size, c), dtype=torch.long, device=device) for c in capacities]

    @property
    def written_bytes(self) -> int:
        """Bytes holding keys and values of some position."""
        return 2 * self._row * sum(self.lengths) * self._element

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`."""
        self.write(layer, keys, values, positions)
        held = self._held or self.lengths[layer]
        all_keys, all_values = self._read[layer]
        return all_keys.narrow(2, 0, held), all_values.narrow(2, 0, held)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Append keys and values [B, T, Hkv, d] to block `layer`, or put them where `seek` said."""
        if self._columns is not None:
            rows = torch.arange(keys.shape[0], device=keys.device).unsqueeze(1)
            self._write[layer][0][rows, self._columns] = keys
            self._write[layer][1][rows, self._columns] = values
            if self._positions is not None:
                self._positions[layer][rows, self._columns] = positions
            self.lengths[layer] = max(self.lengths[layer], self._held)
            return
        count = keys.shape[1]
        start = self._start if self._held else self.lengths[layer]
        to_keys, to_values = self._write[layer]
        to_keys.narrow(1, start, count).copy_(keys)
        to_values.narrow(1, start, count).copy_(values)
        if self._positions is not None:
            self._positions[layer].narrow(1, start, count).copy_(positions)
        self.lengths[layer] = start + count

    @property
    def table(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[L, 5], for kernels: addresses of every block's keys and values [B, capacity, Hkv, d], two zeros, the capacity."""
        if self._table is None:
            parts = [
                (k.data_ptr(), v.data_ptr(), 0, 0, c) for (k, v), c in zip(self._write, self.capacities, strict=True)
            ]
            self._table = np.array(parts, dtype=np.int64)
        return self._table

    def claim(self, layers: list[int], count: int, numbers: memoryview, places: list[int]) -> Rooms:
        """A kernel puts the next `count` columns of some blocks itself: numbers[places[i]] gets the first of block layers[i].

        They count as written.
        """
        lengths, start = self.lengths, None
        if self._held:
            start = self._start if self._columns is None else self._held - count
        for layer, place in zip(layers, places, strict=True):
            first = lengths[layer] if start is None else start
            numbers[place] = first
            end = self._checked(layer, first + count)
            lengths[layer] = end if self._columns is None else max(lengths[layer], end)
        return None, None if self._columns is None else self._firsts

    def _checked(self, layer: int, end: int) -> int:
        """The end of columns of a block, which has room for them."""
        if end > self.capacities[layer]:
            raise IndexError(f"block {layer} has room for {self.capacities[layer]} positions, {end} are needed")
        return end

    def put(
        self, layer: int, at: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> None:
        """Write one column [B, 1, Hkv, d] at the place `at` [1], without counting it."""
        self._write[layer][0].index_copy_(1, at, keys)
        self._write[layer][1].index_copy_(1, at, values)
        if self._positions is not None:
            self._positions[layer].index_copy_(1, at, positions)

    def whole(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All room of block `layer` for keys and values, [B, Hkv, S, d] each."""
        return self._read[layer]

    def whole_positions(self, layer: int) -> torch.Tensor:
        """Positions of all keys there is room for, [B, S]."""
        assert self._positions is not None, "this cache was made without positions"
        return self._positions[layer]

    def clear(self) -> None:
        """Hold nothing; the storage stays."""
        self.lengths = [0] * len(self.lengths)
        self._columns, self._start, self._held = None, 0, 0

    def seek(self, columns: torch.Tensor | int, count: int) -> int:
        """Put what is written next at these columns instead of appending: rows that progress raggedly, drafts taken back.

        Args:
            columns: first column to write, the same for every row (int) or one per row [B].
            count: columns that will be written.

        Returns:
            How many columns a block holds then: what is read until the next `seek`.
        """
        if isinstance(columns, int):
            self._columns, self._start, self._held = None, columns, columns + count
        else:
            self._firsts = columns.contiguous()
            self._columns = columns.unsqueeze(1) + torch.arange(count, device=columns.device)
            self._held = int(columns.max()) + count
        return self._held

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`."""
        assert self._positions is not None, "this cache was made without positions"
        return self._positions[layer].narrow(1, 0, self._held or self.lengths[layer])


class RowsOfCache:
    """Some rows of a cache at the position being processed; whoever splits a batch counts the position once, at the end."""

    def __init__(self, cache: KVCache, rows: torch.Tensor) -> None:
        self._cache, self._rows = cache, rows

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`; what these rows hold is copied."""
        self.write(layer, keys, values, positions)
        held = self._cache.lengths[layer] + keys.shape[1]
        return tuple(part[self._rows, :, :held] for part in self._cache._read[layer])  # type: ignore[return-value]

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Keys and values [R, T, Hkv, d] of these rows after what block `layer` holds."""
        start, count = self._cache.lengths[layer], keys.shape[1]
        to_keys, to_values = self._cache._write[layer]
        to_keys[self._rows, start : start + count] = keys
        to_values[self._rows, start : start + count] = values
        if self._cache._positions is not None:
            self._cache._positions[layer][self._rows, start : start + count] = positions

    @property
    def table(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """See `KVCache.table`."""
        return self._cache.table

    def claim(self, layers: list[int], count: int, numbers: memoryview, places: list[int]) -> Rooms:
        """See `KVCache.claim`; the position is counted elsewhere."""
        cache = self._cache
        for layer, place in zip(layers, places, strict=True):
            numbers[place] = cache.lengths[layer]
            cache._checked(layer, cache.lengths[layer] + count)
        return self._rows, None

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`."""
        assert self._cache._positions is not None, "this cache was made without positions"
        return self._cache._positions[layer][self._rows, : self._cache.lengths[layer] + 1]
