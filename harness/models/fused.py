"""A decode step's blocks in one call of the compiled kernels.

Blocks that say what they compute (`sublayers` of fusable.py) are run by `kernels.native` when every row has one token or a few,
over float32 or bfloat16 weights on a CPU, unless torch's calls were found to be faster at that number of rows (linear.py). What
attends over prompts (but short ones), scores and trains uses torch's calls; tests hold the two to the same numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.models.block import Context
from harness.models.cache import KVCache, Memory, RowsOfCache
from harness.models.kernels import linear as kernels
from harness.models.kernels import native, threads
from harness.models.precision import widened
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

    @classmethod
    def layer(cls, module: Any) -> Norm:
        """That of a `torch.nn.LayerNorm`."""
        return cls(widened(module.weight), None if module.bias is None else widened(module.bias), module.eps, "layer")


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


class Stack:
    """The blocks of a model for the kernels: what each computes, over its weights in panels.

    Args:
        describe: asks a block what it computes, for all of the model's; None as an answer: the kernels cannot run it.
    """

    def __init__(self, describe: Sequence[Callable[[], Sublayers | None]]) -> None:
        self._describe = describe
        self.forget()

    def forget(self) -> None:
        """Drop the panels: the weights are read again."""
        self._what: list[Sublayers | None] | None = None
        self._all: bool | None = None
        self._held: list[native.Sublayers] | None = None
        self._library: native.Library | None = None
        self._prepared: dict[Codes, _Prepared | None] = {}

    def sublayers(self) -> list[Sublayers | None]:
        """What every block computes; None for one that the kernels cannot run."""
        if self._what is None:
            self._what = [describe() for describe in self._describe]
        return self._what

    def serves(self, layer: int, rows: int) -> bool:
        """Whether the kernels run a block over this number of rows (columns of rows counted) now."""
        what = self.sublayers()[layer]
        group = None if what is None else what.qkv.group
        return group is not None and group.native(rows)

    def runs_all(self, rows: int) -> native.Library | None:
        """The kernels that run every block over this number of rows now; None where they do not."""
        if self._all is None:
            self._all = None not in self.sublayers()
        first = self.sublayers()[0]
        if first is None or not self._all or not kernels.readable(first.qkv.parts[0]) or not self.serves(0, rows):
            return None
        return self._library or native.library()

    def _ready(self, codes: Codes) -> _Prepared | None:
        """What is the same whenever these blocks run; None where the kernels cannot run all of them."""
        what = self.sublayers()
        found = [what[layer] for layer, _, _ in codes]
        if any(each is None for each in found):
            return None
        if self._held is None:
            self._library = native.library()
            assert self._library is not None, "asked only where there are kernels"
            self._held = [native.Sublayers() if w is None else _described(w) for w in what]
        assert self._library is not None
        whole = self._library.panel_columns
        if any(
            w is not None and d & native.FILL and w.heads * w.head_dim % whole
            for w, (_, d, _) in zip(found, codes, strict=True)
        ):
            return None
        return _Prepared(codes, found, [ctypes.addressof(self._held[layer]) for layer, _, _ in codes])

    def run(
        self,
        codes: Codes,
        x: torch.Tensor,
        memory: Memory | None,
        context: Context | None,
        entry: torch.Tensor | None = None,
        spent: np.ndarray[Any, Any] | None = None,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Blocks in turn over x [B, T, D], each doing what its code says; None where that is for torch's calls.

        `entry` is the input of the first block, where that feeds alone. What the last one reads is put into `kept` [B, T, D].
        Seconds of each block's attention, feeding and filling are added to `spent` [N, 3].
        """
        rows, count, _ = x.shape
        if count > MAX_COLUMNS or not kernels.fits_kernels(x) or (self._library or native.library()) is None:
            return None
        if not self.serves(codes[0][0], rows * count):
            return None
        ready = self._prepared.get(codes)
        if ready is None:
            if codes not in self._prepared:
                ready = self._prepared[codes] = self._ready(codes)
            if ready is None:
                return None
        if ready.count != count:  # used by one call at a time, under the decoder's lock
            ready.operations[:, _COUNT] = ready.count = count
        mask: tuple[int | None, int, int] = (None, 0, 0)
        if ready.writes:
            # Several columns need the mask that says which of them see which: drafts have one, prompts are for torch's calls.
            if (
                not isinstance(memory, (KVCache, RowsOfCache))
                or context is None
                or (count > 1 and context.mask is None)
            ):
                return None
            ready.aim(memory, count)
            for rotary, mine in ready.rotaries:
                ready.turn(mine, *rotary.tables(context, torch.float32))
            mask = _mask(context)
        x = x.contiguous()
        out = torch.empty_like(x)
        entry = None if entry is None or entry is x else entry.contiguous()
        assert self._library is not None
        status = self._library.calls.run(
            *(
                ready.address,
                len(codes),
                rows,
                x.data_ptr(),
                out.data_ptr(),
                native.pointer(entry),
                native.pointer(kept),
                *mask,
            ),
            *threads.team(),
            None if spent is None else spent.ctypes.data,
        )
        if status:
            raise MemoryError("no memory to work in for a decode step")
        return out


Codes = tuple[tuple[int, int, float], ...]
"""Blocks in turn, what each does (ATTEND, FEED and FILL of `kernels.native` added up), and the factor of the state before it."""
_KEYS, _PLACES, _COLUMN, _COUNT, _COSINES = (
    native.OPERATION.index(name) for name in ("keys", "places", "column", "count", "cosines")
)


class _Prepared:
    """What is the same whenever some blocks run.

    Attributes:
        operations: [N, fields of `native.OPERATION`], what does not change from step to step filled in.
        address: where that lies.
        count: columns of a row that it is filled in for.
        writes: the blocks that write keys and values.
        rotaries: what turns keys and queries, and where the rows begin it does so for, among the numbers of `operations`.
    """

    def __init__(self, codes: Codes, what: Sequence[Sublayers | None], addresses: Sequence[int]) -> None:
        self.operations = np.zeros((len(codes), len(native.OPERATION)), dtype=np.int64)
        self.operations[:, 0], self.operations[:, -2] = addresses, [does for _, does, _ in codes]
        self.operations.view(np.float64)[:, -1] = [factor for _, _, factor in codes]
        rows = [i for i, (_, does, _) in enumerate(codes) if does & (native.ATTEND | native.FILL)]
        self.address: int = self.operations.ctypes.data
        self.count = 0
        self.writes = [codes[i][0] for i in rows]
        self._rows, self._elsewhere = rows, False
        self._table: np.ndarray[Any, np.dtype[np.int64]] | None = None
        # Between two reads of all weights no code of numpy's is in a cache any more: what changes every step goes without.
        self._numbers = self.operations.data.cast("B").cast("q")
        size = len(native.OPERATION)
        self._columns = [i * size + _COLUMN for i in rows]
        turned: dict[int, tuple[Rotary, list[int]]] = {}
        for i, each in enumerate(what):
            if each is not None and each.rotary is not None:
                turned.setdefault(id(each.rotary), (each.rotary, []))[1].append(i * size)
        self.rotaries = list(turned.values())

    def aim(self, memory: KVCache | RowsOfCache, count: int) -> None:
        """Keys and values go to the next `count` columns of this memory, which counts them."""
        table = memory.table
        if self._table is not table:
            self.operations[self._rows, _KEYS:_COLUMN] = table[self.writes]
            self._table = table
        rooms = memory.claim(self.writes, count, self._numbers, self._columns)
        if self._elsewhere or rooms != (None, None):
            self.operations[self._rows, _PLACES : _PLACES + 2] = [native.pointer(each) or 0 for each in rooms]
            self._elsewhere = rooms != (None, None)

    def turn(self, begins: Sequence[int], cosines: torch.Tensor, sines: torch.Tensor) -> None:
        """Keys and queries of the blocks whose numbers begin there are turned by these tables."""
        numbers, pointers = self._numbers, (cosines.data_ptr(), sines.data_ptr())
        for i in begins:
            numbers[i + _COSINES], numbers[i + _COSINES + 1] = pointers


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
    mask = context.masks.get("native")
    if mask is None:
        mask = context.masks["native"] = context.mask.contiguous()
    row = mask.stride(0) if mask.shape[0] > 1 else 0
    return mask.data_ptr(), row, mask.stride(2) if mask.shape[2] > 1 else 0
