"""Blocks that may run in the compiled kernels: a step's blocks in one call of them where that goes, else one by one."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from harness.models.block import Block, Context, Operations
from harness.models.cache import Memory
from harness.models.fused import Codes, Stack, Sublayers
from harness.models.kernels import native, threads
from harness.plan import Skip


class FusableBlock(Block):
    """A block that may run in the compiled kernels.

    Attributes:
        watch: told the seconds of this block's `attention`, `feed` and `kv_fill` whenever the kernels ran it; None: nobody asks.
    """

    watch: Callable[[str, float], None] | None = None

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._stack: Stack | None = None

    def own_threads(self, rows: int) -> AbstractContextManager[None]:
        """See `Decoder.own_threads`: the kernels', where they run all blocks."""
        library = None if self._stack is None else self._stack.runs_all(rows)
        return nullcontext() if library is None else threads.Own(library)

    @abstractmethod
    def sublayers(self) -> Sublayers | None:
        """What this block computes; None where the kernels cannot."""

    @abstractmethod
    def attend_in_calls(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        """`attend` in torch's calls."""

    @abstractmethod
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """`feed` in torch's calls."""

    def join(self, blocks: Sequence[Block]) -> None:
        """See `Block.join`."""
        first = blocks[0]
        shared = first._stack if isinstance(first, FusableBlock) and first is not self else None
        self._stack = shared or Stack([b.sublayers if isinstance(b, FusableBlock) else _unknown for b in blocks])

    def renew(self) -> None:
        """Forget the kernels' copy of the weights; called by `refresh`."""
        if self._stack is not None:
            self._stack.forget()

    def attend(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        """See `Block.attend`."""
        found = self._alone(native.ATTEND, x, memory, context)
        return self.attend_in_calls(x, memory, context) if found is None else found

    def feed(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """See `Block.feed`."""
        found = self._alone(native.FEED, x, None, None, entry)
        return self.feed_in_calls(x, entry) if found is None else found

    def fill(self, x: torch.Tensor, memory: Memory, context: Context) -> None:
        """See `Block.fill`."""
        if self._alone(native.FILL, x, memory, context) is None:
            super().fill(x, memory, context)

    def run_plan(
        self,
        blocks: Sequence[Block],
        operations: Operations,
        x: torch.Tensor,
        memory: Memory,
        context: Context,
        entry: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """See `Block.run_plan`: one call of the kernels."""
        return _run(self._stack, blocks, _codes(tuple(operations)), x, memory, context, entry, kept)

    def fill_blocks(
        self, blocks: Sequence[Block], layers: Sequence[int], x: torch.Tensor, memory: Memory, context: Context
    ) -> bool:
        """See `Block.fill_blocks`: one call of the kernels."""
        return (
            _run(self._stack, blocks, tuple((layer, native.FILL, 1.0) for layer in layers), x, memory, context)
            is not None
        )

    def _alone(
        self,
        what: int,
        x: torch.Tensor,
        memory: Memory | None,
        context: Context | None,
        entry: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """One sublayer of this block in the kernels; None where they cannot."""
        if self._stack is None:
            return None
        return self._stack.run(((self.index, what, 1.0),), x, memory, context, entry)


def _unknown() -> None:
    """What a block of another kind says of itself."""


def _run(
    stack: Stack | None,
    blocks: Sequence[Block],
    codes: Codes,
    x: torch.Tensor,
    memory: Memory,
    context: Context,
    entry: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
) -> torch.Tensor | None:
    watched = False
    for layer, _, _ in codes:
        block = blocks[layer]
        if getattr(block, "watch", None) is not None:
            watched = True
        # Whoever replaced a sublayer's function wants to be asked; who only wants to know the seconds is told them.
        elif not _SUBLAYERS.isdisjoint(block.__dict__):
            return None
    if stack is None:
        return None
    spent = np.zeros((len(codes), 3)) if watched else None
    out = stack.run(codes, x, memory, context, entry, spent, kept)
    if out is not None and spent is not None:
        for (layer, does, _), seconds in zip(codes, spent.tolist(), strict=True):
            watch = blocks[layer].watch  # type: ignore[attr-defined]
            for code, part, spent_s in zip((native.ATTEND, native.FEED, native.FILL), PARTS, seconds, strict=True):
                if watch is not None and does & code:
                    watch(part, spent_s)
    return out  # type: ignore[no-any-return]


PARTS = ("attention", "feed", "kv_fill")
_SUBLAYERS = frozenset(("attend", "feed", "fill"))


@functools.lru_cache(maxsize=4096)
def _codes(operations: Operations) -> Codes:
    """A plan's calls as the kernels take them. Keys and values are stored before a block feeds: an operation of its own."""
    codes: list[tuple[int, int, float]] = []
    factor = 1.0
    for layer, attends, feeds in operations:
        if isinstance(attends, Skip):
            factor *= float(attends.scale)
            if attends.fill:
                codes.append((layer, native.FILL, factor))
                factor = 1.0
        does = native.ATTEND * bool(attends) + native.FEED * bool(feeds)
        if does:
            codes.append((layer, does, factor))
            factor = 1.0
        factor *= float(feeds.scale) if isinstance(feeds, Skip) else 1.0
    if factor != 1:
        codes.append((operations[-1][0], 0, factor))
    return tuple(codes)
