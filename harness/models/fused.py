"""Whole sublayers of a decode step as one compiled kernel each, where that is faster than torch's calls.

A block that says what it computes (`FusableBlock.sublayers`) is run by `kernels.native` when every row has one token or a few,
in single precision on a CPU. Whether it is for a number of rows is measured once, like the layouts of the linear maps, and is
as much a condition of the run. Prompts (but short ones), scoring and training use torch's calls; tests hold the two to the
same numbers.
"""

from __future__ import annotations

import ctypes
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from harness.models.cache import Column, KVCache, Memory, RowsOfCache
from harness.models.decoder import Block, Context
from harness.models.kernels import copies, native
from harness.models.kernels import layouts as kernels
from harness.models.rotary import Rotary

_MEASURED_BYTES = 64 << 20
_MEASURED_KEYS = 64
_KINDS = ("torch", "native")
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
    """A block that may run as two kernels."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._peers: Sequence[Block] = (self,)
        self._kernel: _Kernel | None = None
        self._by_rows: dict[int, _Kernel | None] = {}

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
        self._peers = blocks

    def renew(self) -> None:
        """Forget the kernel's copy of the weights; called by `refresh`."""
        self._kernel = None
        self._by_rows.clear()

    def attend(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        """See `Block.attend`."""
        kernel = self._kernel_for(x)
        # Several columns need the mask that says which of them see which: drafts have one, prompts are for torch's calls.
        if (
            kernel is None
            or not isinstance(memory, (KVCache, RowsOfCache))
            or (x.shape[1] > 1 and context.mask is None)
        ):
            return self.attend_in_calls(x, memory, context)
        column = memory.column(self.index, x.shape[1])
        out = kernel.attend(x, column, context)
        memory.wrote(self.index, column, x.shape[1])
        return out

    def feed(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """See `Block.feed`."""
        kernel = self._kernel_for(x)
        return self.feed_in_calls(x, entry) if kernel is None else kernel.feed(x, entry)

    def fill(self, x: torch.Tensor, memory: KVCache | RowsOfCache, context: Context) -> None:
        """See `Block.fill`."""
        kernel = self._kernel_for(x)
        if kernel is None or not kernel.fills:
            return super().fill(x, memory, context)
        column = memory.column(self.index, x.shape[1])
        kernel.fill(x, column, context)
        memory.wrote(self.index, column, x.shape[1])

    def _kernel_for(self, x: torch.Tensor) -> _Kernel | None:
        """The kernel that shall run x [B, T, D], None for torch's calls."""
        if x.shape[1] > MAX_COLUMNS or not kernels.native_allowed(x):
            return None
        rows = x.shape[0] * x.shape[1]
        if kernels.forced() is not None:
            what = self.sublayers()
            return None if what is None or not rows else self._made(what)
        if rows not in self._by_rows:
            self._by_rows[rows] = self._choose(rows)
        return self._by_rows[rows]

    def _choose(self, rows: int) -> _Kernel | None:
        what = self.sublayers()
        if what is None or not rows:
            return None
        chosen, _ = kernels.choose(_kind(what), rows, lambda: self._fastest(what, rows), "torch")
        return self._made(what) if chosen == "native" else None

    def _made(self, what: Sublayers) -> _Kernel:
        if self._kernel is None:
            self._kernel = _Kernel(what)
        return self._kernel

    def _fastest(self, what: Sublayers, rows: int) -> str:
        found = [(block, block.sublayers()) for block in self._peers if isinstance(block, FusableBlock)]
        return fastest([b for b, other in found if other is not None and _kind(other) == _kind(what)], rows)

    def use(self, kind: str, rows: int) -> None:
        """Run a number of rows as `torch` or `native` from now on, whatever was chosen; for measuring."""
        what = self.sublayers()
        assert what is not None, "this block has no kernel"
        self._by_rows[rows] = self._made(what) if kind == "native" else None


class _Kernel:
    """The kernels of one block over its weights in panels."""

    def __init__(self, what: Sublayers) -> None:
        library = native.library()
        assert library is not None, "asked only where there are kernels"
        self._library, self._what = library, what
        self.fills = what.heads * what.head_dim % native.panel_columns() == 0
        maps = (m.panels()[1] for m in (what.qkv, what.out, what.up, what.down))
        norms = (
            native.Norm(n.weight.data_ptr(), native.pointer(n.bias), n.eps, native.NORMS[n.kind])
            for n in (what.attention_norm, what.feed_norm)
        )
        rotary = 0 if what.rotary is None else what.rotary.size
        activation = native.ACTIVATIONS["relu" if what.up.relu else what.activation]
        sizes = (what.heads, what.kv_heads, what.head_dim, rotary)
        self._block = ctypes.byref(native.Sublayers(*maps, *norms, *sizes, activation, what.gated, what.scale))

    def attend(self, x: torch.Tensor, column: Column, context: Context) -> torch.Tensor:
        """`Block.attend` of x [B, T, D], its keys and values written to the columns."""
        x = x.contiguous()
        out = torch.empty_like(x)
        step = self._of_step(context)
        target = self._target(column, step, x.shape[1])
        _checked(
            self._library.attend(
                *(
                    self._block,
                    x.shape[0],
                    x.data_ptr(),
                    out.data_ptr(),
                    target,
                    step.mask,
                    step.row,
                    step.column,
                    step.threads,
                )
            )
        )
        return out

    def feed(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """`Block.feed` of x [B, T, D]."""
        x = x.contiguous()
        out = torch.empty_like(x)
        read = entry.contiguous() if self._what.side_by_side else x
        threads = torch.get_num_threads()
        _checked(
            self._library.feed(
                self._block, x.shape[0] * x.shape[1], x.data_ptr(), read.data_ptr(), out.data_ptr(), threads
            )
        )
        return out

    def fill(self, x: torch.Tensor, column: Column, context: Context) -> None:
        """`Block.fill` of x [B, T, D]."""
        x = x.contiguous()
        step = self._of_step(context)
        _checked(
            self._library.fill(
                self._block, x.shape[0], x.data_ptr(), self._target(column, step, x.shape[1]), step.threads
            )
        )

    def _target(self, at: Column, step: _Step, count: int) -> Any:
        places, columns = native.pointer(at.places), native.pointer(at.columns)
        return ctypes.byref(
            native.Target(
                *(at.keys, at.values, places, columns, at.capacity, at.column, count, step.cosines, step.sines)
            )
        )

    def _of_step(self, context: Context) -> _Step:
        """What all blocks of a step share; `context` keeps what it points to."""
        key = ("native", self._what.rotary)
        found = context.cache.get(key)
        if found is None:
            mask, row, column = context.mask, 0, 0
            if mask is not None:
                mask = context.cache["native mask"] = mask.contiguous()
                row = mask.stride(0) if mask.shape[0] > 1 else 0
                column = mask.stride(2) if mask.shape[2] > 1 else 0
            tables: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
            if self._what.rotary is not None:
                tables = self._what.rotary.tables(context, torch.float32)
            cosines, sines = map(native.pointer, tables)
            found = context.cache[key] = _Step(
                native.pointer(mask), row, column, cosines, sines, torch.get_num_threads()
            )
        return found  # type: ignore[no-any-return]


class _Step(NamedTuple):
    """Addresses of the mask (and elements between its rows and columns) and of the rotary tables, and the threads to use."""

    mask: int | None
    row: int
    column: int
    cosines: int | None
    sines: int | None
    threads: int


def _checked(status: int) -> None:
    if status:
        raise MemoryError("no memory to work in for a decode step")


def _kind(what: Sublayers) -> str:
    """Blocks of one kind share a choice."""
    sizes = f"{what.qkv.weight.shape[1]} {what.heads}/{what.kv_heads}x{what.head_dim} {what.up.weight.shape[0]}"
    return f"block {sizes} {what.activation or ('relu' if what.up.relu else 'none')}{' gated' if what.gated else ''}"


def fastest(blocks: Sequence[FusableBlock], rows: int) -> str:
    """How one pass over the blocks (some of them, if they are large) takes least time at this number of rows."""
    what = blocks[0].sublayers()
    assert what is not None, "asked only for blocks the kernels can compute"
    size = sum(m.weight.numel() * 4 for m in (what.qkv, what.out, what.up, what.down))
    some = blocks[: max(2, min(len(blocks), _MEASURED_BYTES // size + 1))]
    capacities = [0] * (1 + max(block.index for block in some))
    for block in some:
        capacities[block.index] = _MEASURED_KEYS
    cache = KVCache(capacities, rows, what.kv_heads, what.head_dim, torch.float32, torch.device("cpu"), True)
    x = torch.randn(rows, 1, what.qkv.weight.shape[1])
    # The panels come first: they serve every number of rows.
    panels = {n: size for m in (what.qkv, what.out, what.up, what.down) for n, size in m.copy("panel", rows).items()}
    before, kinds = copies.held(), _KINDS if copies.fit(panels) else _KINDS[:1]
    times: dict[str, float] = {}
    for kind in kinds:
        for block in some:
            block.use(kind, rows)
        times[kind] = min(_pass_seconds(some, x, cache) for _ in range(8))
    best = min(times, key=lambda kind: times[kind])
    if best == "native":  # the copies of the weights made for torch's calls serve nobody now
        copies.restore(before | panels)
        for block in some:
            for m in block.maps():
                m.forget(rows)
    return best


def _pass_seconds(blocks: Sequence[FusableBlock], x: torch.Tensor, cache: KVCache) -> float:
    for block in blocks:
        cache.lengths[block.index] = _MEASURED_KEYS - 1
    context = Context(torch.full((x.shape[0], 1), _MEASURED_KEYS - 1), furthest=_MEASURED_KEYS - 1)
    start = time.perf_counter()
    for block in blocks:  # past whatever watches the block: this is no step of a generation
        FusableBlock.feed(block, FusableBlock.attend(block, x, cache, context), x)
    return time.perf_counter() - start
