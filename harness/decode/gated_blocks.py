"""Who runs sublayers for a gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from harness.decode.hidden import Seen
from harness.models.block import Context, Operations
from harness.models.cache import KVCache, Memory, RowsOfCache
from harness.models.decoder import Decoder


class Blocks(Protocol):
    """Who runs sublayers over the columns at hand of every row, x [B, T, D]."""

    def stretch(
        self, operations: Operations, x: torch.Tensor, entry: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sublayers in turn; see `Decoder.run_stretch`."""
        ...

    def attend(self, layer: int, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """The attention sublayer of a block; later positions may look at those of `seen` [B, T], None: all."""
        ...

    def feed(self, layer: int, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """The feed-forward sublayer of a block, on any positions; `entry` is the block's input."""
        ...

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """Blocks `layers` store the keys and values of x and compute nothing else."""
        ...

    def skip(self, layer: int, x: torch.Tensor) -> None:
        """A block stores nothing of x."""
        ...


class CalledBlocks:
    """`Blocks` by calling them; `seen` where attention that is skipped leaves positions hidden."""

    def __init__(self, decoder: Decoder, memory: Memory, context: Context, seen: Seen | None = None) -> None:
        self._decoder, self._memory, self._context, self._seen = decoder, memory, context, seen

    def stretch(
        self, operations: Operations, x: torch.Tensor, entry: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Blocks.stretch`."""
        return self._decoder.run_stretch(operations, x, entry, self._memory, self._context)

    def attend(self, layer: int, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """See `Blocks.attend`."""
        return self._decoder.blocks[layer].attend(x, self._memory, self._at(layer, x, seen))

    def feed(self, layer: int, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """See `Blocks.feed`."""
        return self._decoder.blocks[layer].feed(x, entry)

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """See `Blocks.fill`."""
        self._decoder.fill(layers, x, self._memory, self._context)

    def skip(self, layer: int, x: torch.Tensor) -> None:
        """See `Blocks.skip`."""
        if self._seen is not None:
            self._seen.skip(layer, x.shape[0], x.device)

    def some(self, layer: int, x: torch.Tensor, runs: torch.Tensor, feeds: bool, fills: bool) -> torch.Tensor:
        """Attention of some rows [B] of x [B, 1, D] alone, with the feed-forward sublayer if asked for; what these rows get.

        The others' keys and values are stored if `fills`; the position is counted once.
        """
        assert isinstance(self._memory, KVCache), "rows are left out of decode steps alone"
        cache, block = self._memory, self._decoder.blocks[layer]
        context = self._at(layer, x, runs.unsqueeze(1))
        inside, outside = split(runs)
        mine = RowsOfCache(cache, inside)
        y = self._decoder.run_plan(((layer, True, feeds),), x[inside], mine, context.rows(inside))
        if fills:
            block.fill(x[outside], RowsOfCache(cache, outside), context.rows(outside))
        cache.lengths[layer] += 1
        return y

    def _at(self, layer: int, x: torch.Tensor, seen: torch.Tensor | None) -> Context:
        if self._seen is None or layer not in self._seen.layers:
            return self._context
        return self._seen.context(layer, self._context, (x.shape[0], x.shape[1]), seen)


def split(runs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the rows that run, and of those that do not."""
    return runs.nonzero().squeeze(1), (~runs).nonzero().squeeze(1)


def every(flags: torch.Tensor) -> bool:
    """Whether all flags [R] are set. Few are read by Python, which takes a fraction of what a reduction of torch's does."""
    return False not in flags.tolist() if flags.numel() <= _FEW else bool(flags.all())


_FEW = 64
