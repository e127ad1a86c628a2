"""A decode step's blocks in one call of the compiled kernels.

Blocks that say what they compute (`FusableBlock.sublayers`) are run by `kernels.native` when every row has one token or a few, in
single precision on a CPU, unless torch's calls were found to be faster at that number of rows (kernels.py). Attention over prompts
(but short ones), scoring and training use torch's calls; tests hold the two to the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.models.cache import KVCache, Memory, RowsOfCache
from harness.models.decoder import Block, Context, Operations
from harness.models.kernels import linear as kernels
from harness.models.kernels import native
from harness.models.rotary import Rotary

MAX_COLUMNS = 16
"""Of a row, in one call: a drafted token or several to verify, not a prompt."""


@dataclass(frozen=True)
class Norm:
    """A norm over [D]: `kind` is `layer` or `rms`."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float
    kind: str


@dataclass(frozen=True)
class Sublayers:
    """What a block computes, as far as the kernels can compute it: plain attention over every key held.

    Attributes:
        qkv, out, up, down: the maps; `qkv` is [(H + 2 Hkv) d, D], a gated block's `up` [2 F, D] with the gate first.
        attention_norm, feed_norm: before the sublayers.
        heads, kv_heads, head_dim: H, Hkv, d.
        scale: of the scores.
        activation: one of `native.ACTIVATIONS`; None where the map `up` has it already (ReLU) or there is none.
        gated: the activation of one half of `up`'s result multiplies the other.
        side_by_side: the feed-forward sublayer reads the block's input.
        rotary: turns queries and keys; None where positions are not encoded there.
    """

    qkv: kernels.Linear
    out: kernels.Linear
    up: kernels.Linear
    down: kernels.Linear
    attention_norm: Norm
    feed_norm: Norm
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    activation: str | None
    gated: bool = False
    side_by_side: bool = False
    rotary: Rotary | None = None


class FusableBlock(Block):
    """A block that may run in the compiled kernels.

    Attributes:
        watch: told the seconds of this block's `attention`, `feed` and `kv_fill` whenever the kernels ran it; None: nobody asks.
    """

    watch: Callable[[str, float], None] | None = None

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._stack: _Stack | None = None

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
        self._stack = shared or _Stack(blocks)

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

    def fill(self, x: torch.Tensor, memory: KVCache | RowsOfCache, context: Context) -> None:
        """See `Block.fill`."""
        if self._alone(native.FILL, x, memory, context) is None:
            super().fill(x, memory, context)

    def run_plan(
        self, blocks: Sequence[Block], operations: Operations, x: torch.Tensor, memory: Memory, context: Context
    ) -> torch.Tensor | None:
        """See `Block.run_plan`: one call of the kernels."""
        layers, what = _codes(tuple(operations))
        return _run(blocks, layers, what, x, memory, context)

    def fill_blocks(
        self, blocks: Sequence[Block], layers: Sequence[int], x: torch.Tensor, memory: Memory, context: Context
    ) -> bool:
        """See `Block.fill_blocks`: one call of the kernels."""
        filled = np.array(layers)
        return _run(blocks, filled, np.full(len(filled), native.FILL), x, memory, context) is not None

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
        return self._stack.run(np.array([self.index]), np.array([what]), x, memory, context, entry)

    def runs_native(self, rows: int) -> bool:
        """Whether the kernels run a decode step of this block over a number of rows now."""
        return self._stack is not None and self._stack.serves(self.index, rows)


class _Stack:
    """The blocks of a model for the kernels: what each computes, over its weights in panels.

    Args:
        blocks: all of the model's.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self.forget()

    def forget(self) -> None:
        """Drop the panels: the weights are read again."""
        self._what: list[Sublayers | None] | None = None
        self._held: list[native.Sublayers] | None = None
        self._library: native.Library | None = None

    def sublayers(self) -> list[Sublayers | None]:
        """What every block computes; None for one that the kernels cannot run."""
        if self._what is None:
            self._what = [b.sublayers() if isinstance(b, FusableBlock) else None for b in self._blocks]
            rotaries = {id(w.rotary): w.rotary for w in self._what if w is not None}
            self._rotaries = list(rotaries.values())
            self._kinds = np.array([0 if w is None else list(rotaries).index(id(w.rotary)) for w in self._what])
            self._able = np.array([w is not None for w in self._what])
        return self._what

    def serves(self, layer: int, rows: int) -> bool:
        """Whether the kernels run a block over this number of rows (columns of rows counted) now."""
        what = self.sublayers()[layer]
        group = None if what is None else what.qkv.group
        return group is not None and group.native(rows)

    def _addresses(self) -> np.ndarray[Any, Any]:
        """Where the description of every block lies; 0 for one that the kernels cannot run."""
        if self._held is None:
            self._library = native.library()
            assert self._library is not None, "asked only where there are kernels"
            self._held = [native.Sublayers() if w is None else _described(w) for w in self.sublayers()]
            where = [ctypes.addressof(held) for held in self._held]
            self._at = np.where(self._able, np.array(where, dtype=np.int64), 0)
            whole = self._library.panel_columns
            self._fills = np.array([w is not None and w.heads * w.head_dim % whole == 0 for w in self.sublayers()])
        return self._at

    def run(
        self,
        layers: np.ndarray[Any, Any],
        what: np.ndarray[Any, Any],
        x: torch.Tensor,
        memory: Memory | None,
        context: Context | None,
        entry: torch.Tensor | None = None,
        spent: np.ndarray[Any, Any] | None = None,
    ) -> torch.Tensor | None:
        """Blocks `layers` [N] in turn, each doing `what` [N] of it, over x [B, T, D]; None where that is for torch's calls.

        Seconds of each block's attention, feeding and filling are added to `spent` [N, 3].
        """
        rows, count, _ = x.shape
        if count > MAX_COLUMNS or not kernels.native_allowed(x):
            return None
        self.sublayers()
        if not self._able[layers].all() or not self.serves(int(layers[0]), rows * count):
            return None
        addresses = self._addresses()
        attends = (what & (native.ATTEND | native.FILL)) != 0
        writes = layers[attends]
        if len(writes) and (
            not isinstance(memory, (KVCache, RowsOfCache))
            or context is None
            # Several columns need the mask that says which of them see which: drafts have one, prompts are for torch's calls.
            or (count > 1 and context.mask is None)
            or not self._fills[layers[(what & native.FILL) != 0]].all()
        ):
            return None
        operations = np.zeros(len(layers), dtype=_OPERATION)
        operations["block"], operations["what"], operations["count"] = addresses[layers], what, count
        mask: tuple[int | None, int, int] = (None, 0, 0)
        if len(writes):
            assert isinstance(memory, (KVCache, RowsOfCache)) and context is not None
            at = memory.columns(writes, count)
            for name in ("keys", "values", "capacity", "column"):
                operations[name][attends] = getattr(at, name)
            for name in ("places", "columns"):
                operations[name] = native.pointer(getattr(at, name)) or 0
            self._turn(operations, layers, context)
            mask = _mask(context)
        x = x.contiguous()
        out = torch.empty_like(x)
        entry = None if entry is None or entry is x else entry.contiguous()
        assert self._library is not None
        status = self._library.calls.run(
            *(operations.ctypes.data, len(layers), rows, x.data_ptr(), out.data_ptr(), native.pointer(entry), *mask),
            *(torch.get_num_threads(), None if spent is None else spent.ctypes.data),
        )
        if status:
            raise MemoryError("no memory to work in for a decode step")
        if len(writes):
            assert isinstance(memory, (KVCache, RowsOfCache))
            memory.wrote(writes, at, count)
        return out

    def _turn(self, operations: np.ndarray[Any, Any], layers: np.ndarray[Any, Any], context: Context) -> None:
        """Tell every block its rotary tables; `context` keeps what they point to."""
        for kind, rotary in enumerate(self._rotaries):
            if rotary is None:
                continue
            tables = [table.data_ptr() for table in rotary.tables(context, torch.float32)]
            mine = self._kinds[layers] == kind
            for name, table in zip(("cosines", "sines"), tables, strict=True):
                operations[name][mine] = table


_OPERATION = np.dtype([(name, np.int64) for name in native.OPERATION])


def _run(
    blocks: Sequence[Block],
    layers: np.ndarray[Any, Any],
    what: np.ndarray[Any, Any],
    x: torch.Tensor,
    memory: Memory,
    context: Context,
) -> torch.Tensor | None:
    watched = False
    for layer in layers:
        block = blocks[layer]
        if not isinstance(block, FusableBlock):
            return None
        watched = watched or block.watch is not None
        # Whoever replaced a sublayer's function wants to be asked; who only wants to know the seconds is told them.
        if block.watch is None and not _SUBLAYERS.isdisjoint(block.__dict__):
            return None
    stack = blocks[layers[0]]._stack  # type: ignore[attr-defined]
    if stack is None:
        return None
    spent = np.zeros((len(layers), 3)) if watched else None
    out = stack.run(layers, what, x, memory, context, None, spent)
    if out is not None and spent is not None:
        for layer, does, seconds in zip(layers, what, spent.tolist(), strict=True):
            watch = blocks[layer].watch  # type: ignore[attr-defined]
            for code, part, spent_s in zip((native.ATTEND, native.FEED, native.FILL), PARTS, seconds, strict=True):
                if watch is not None and does & code:
                    watch(part, spent_s)
    return out  # type: ignore[no-any-return]


PARTS = ("attention", "feed", "kv_fill")
_SUBLAYERS = frozenset(("attend", "feed", "fill"))


@functools.lru_cache(maxsize=4096)
def _codes(operations: Operations) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Layers [N] of a plan's operations, and what each does."""
    what = [native.ATTEND * attends + native.FEED * feeds for _, attends, feeds in operations]
    return np.array([layer for layer, _, _ in operations]), np.array(what)


def _described(what: Sublayers) -> native.Sublayers:
    maps = (m.panels() for m in (what.qkv, what.out, what.up, what.down))
    norms = (
        native.Norm(n.weight.data_ptr(), native.pointer(n.bias), n.eps, native.NORMS[n.kind])
        for n in (what.attention_norm, what.feed_norm)
    )
    rotary = 0 if what.rotary is None else what.rotary.size
    activation = native.ACTIVATIONS["relu" if what.up.relu else what.activation]
    sizes = (what.heads, what.kv_heads, what.head_dim, rotary, activation, what.gated, what.side_by_side)
    return native.Sublayers(*maps, *norms, *sizes, what.scale)


def _mask(context: Context) -> tuple[int | None, int, int]:
    """Where the mask lies, and elements between its rows and its columns; `context` keeps what that points to."""
    if context.mask is None:
        return None, 0, 0
    mask = context.cache.get("native mask")
    if mask is None:
        mask = context.cache["native mask"] = context.mask.contiguous()
    row = mask.stride(0) if mask.shape[0] > 1 else 0
    return mask.data_ptr(), row, mask.stride(2) if mask.shape[2] > 1 else 0
