"""Decode steps on static buffers, so that a GPU can replay them as captured graphs.

Launching a block's dozen kernels one by one takes a GPU's host longer than a small batch takes the GPU. Here everything a step
reads or writes stays where it is: token, position, keys, values, and on the device itself how far each block's cache is filled. A
plan is captured once and replayed by every later step and generation that runs it; for exit gates, whose answer decides what
runs next, each block is a graph of its own. Elsewhere the same functions are called without graphs (the tests' twin).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from harness.decode.hidden import Seen
from harness.models.block import Context, Operations
from harness.models.cache import KVCache
from harness.models.decoder import Decoder
from harness.plan import LayerPlan

Function = Callable[[], torch.Tensor]
_KEPT = 8
"""Sets of buffers a decoder keeps, with their graphs."""


class StaticMemory:
    """A cache whose fill level is known on the device alone: attention reads all of it under a mask.

    Args:
        cache: whose storage is used.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        device = cache.device
        self._lengths = torch.zeros(len(cache.lengths), dtype=torch.long, device=device)
        rows = cache.rows
        self._visible = [torch.zeros(rows, 1, 1, c, dtype=torch.bool, device=device) for c in cache.capacities]
        self._newest = 0

    @property
    def state(self) -> list[torch.Tensor]:
        """Everything a step changes beside keys and values."""
        return [self._lengths, *self._visible]

    def start(self, width: int, mask: torch.Tensor | None, seen: Seen | None) -> None:
        """The blocks that hold a prompt hold `width` columns of it, hidden where `mask` [B, P] is False, or as `seen` says."""
        self._lengths.copy_(torch.tensor(self._cache.lengths))
        of_blocks = {} if seen is None else seen.held
        for layer, (visible, held) in enumerate(zip(self._visible, self._cache.lengths, strict=True)):
            visible.zero_()
            if layer in of_blocks:
                visible[:, 0, 0, :held] = of_blocks[layer]
            elif held:
                visible[..., :width] = True if mask is None else mask[:, None, None, :]

    def hide(self, layer: int, seen: torch.Tensor) -> None:
        """Rows whose `seen` [B, 1] is False do not look at the newest column of a block any more."""
        self._visible[layer][:, 0, :, self._cache.lengths[layer] - 1] = seen

    def visible(self) -> torch.Tensor:
        """[B, 1, 1, S]: the keys to look at in the block that stored the newest ones."""
        return self._visible[self._newest]

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """See `KVCache.write`, for one column [B, 1, Hkv, d]."""
        at = self._lengths[layer : layer + 1]
        self._cache.put(layer, at, keys, values, positions)
        self._visible[layer].index_fill_(3, at, 1)
        at.add_(1)
        self._newest = layer

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`; what is returned holds room that no position has taken yet, hidden by `visible`."""
        self.write(layer, keys, values, positions)
        return self._cache.whole(layer)

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`, for all of the room."""
        return self._cache.whole_positions(layer)


class _StaticContext(Context):
    """The context of a step whose mask depends on the block."""

    def __init__(self, positions: torch.Tensor, furthest: int, memory: StaticMemory) -> None:
        super().__init__(positions, furthest=furthest)
        self._memory = memory

    def mask_for(self, keys: int) -> torch.Tensor | None:
        """See `Context.mask_for`."""
        return self._memory.visible()


class StaticSteps:
    """The steps of generations of one shape.

    Args:
        decoder: the model.
        rows: B.
        capacities: positions each block has room for [L].
        width: columns of the prompts.
    """

    def __init__(self, decoder: Decoder, rows: int, capacities: Sequence[int], width: int) -> None:
        device, depth = decoder.device, decoder.depth
        self._decoder, self._width = decoder, width
        self.cache = decoder.new_cache(rows, capacities)
        self._memory = StaticMemory(self.cache)
        self._token = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._position = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._context = _StaticContext(self._position, max(capacities), self._memory)
        # What a sublayer reads, and the input of its block, are still there when it is done: rows may skip it, tests compare.
        shape = (rows, 1, decoder.geometry.width)
        self._columns = [torch.zeros(shape, dtype=decoder.state_dtype, device=device) for _ in range(3)]
        self._left = torch.zeros(shape, dtype=decoder.state_dtype, device=device)
        self._graphs: dict[Any, Function] = {}
        self.hiding: frozenset[int] = frozenset()
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._depth = depth
        self._owner: weakref.ref[Any] | None = None

    @property
    def captures(self) -> bool:
        """Whether steps are captured as graphs and replayed; False: called, as on a CPU."""
        return self._pool is not None

    def claim(self, owner: Any) -> bool:
        """Take the buffers for a generation; False while another one that is not done has them."""
        other = None if self._owner is None else self._owner()
        if other is not None and not other.done:
            return False
        self._owner = weakref.ref(owner)
        self.cache.clear()
        return True

    def start(self, positions: torch.Tensor, mask: torch.Tensor | None, seen: Seen | None) -> None:
        """The prompts are in the cache: decoding begins at `positions` [B, 1]; `mask` [B, P] and `seen` hide some of them."""
        self._memory.start(self._width, mask, seen)
        self.hiding = frozenset() if seen is None else seen.layers
        self._position.copy_(positions)

    def run(self, plan: LayerPlan, token: torch.Tensor) -> torch.Tensor:
        """One step of a plan on tokens [B, 1]; returns logits [B, V], overwritten by the next step."""
        self._token.copy_(token)
        logits = self._graph(plan, lambda: self._whole_step(plan))()
        for layer, stores in enumerate(plan.stores):
            self.cache.lengths[layer] += stores
        return logits

    def _whole_step(self, plan: LayerPlan) -> torch.Tensor:
        self._context.forget()
        x = self._decoder.embed(self._token, self._position)
        x = self._decoder.run_plan(plan.calls, x, self._memory, self._context)
        self._position.add_(1)
        return self._decoder.head(x[:, 0])

    def enter(self, token: torch.Tensor) -> torch.Tensor:
        """Begin a step block by block: the first block's input [B, 1, D] for tokens [B, 1]. `leave` ends it."""
        self._token.copy_(token)
        return self._graph("embed", lambda: self._embed())()

    def _embed(self) -> torch.Tensor:
        return self._columns[0].copy_(self._decoder.embed(self._token, self._position))

    def stretch(
        self, operations: Operations, x: torch.Tensor, entry: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Blocks.stretch`; what a block gave is overwritten two sublayers or blocks later."""
        for layer, attends, feeds in operations:
            if attends:
                entry, x = x, self._part(layer, "block" if feeds else "attend", x)
            else:
                x = self.feed(layer, x, entry)
        return x, entry

    def attend(self, layer: int, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """See `Blocks.attend`."""
        y = self._part(layer, "attend", x)
        if seen is not None and layer in self.hiding:
            self._memory.hide(layer, seen)
        return y

    def skip(self, layer: int, x: torch.Tensor) -> None:
        """See `Blocks.skip`."""

    def _part(self, layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        source = self._placed(x, 0)
        y = self._graph((part, layer, source), functools.partial(self._run_part, layer, part == "block", source))()
        self.cache.lengths[layer] += 1
        return y

    def _run_part(self, layer: int, whole: bool, source: int) -> torch.Tensor:
        self._context.forget()
        x, y = self._columns[source], self._columns[(source + 1) % 3]
        return y.copy_(self._decoder.run_plan(((layer, True, whole),), x, self._memory, self._context))

    def feed(self, layer: int, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """See `Blocks.feed`."""
        before = self._placed(entry, 1 if x is self._columns[0] else 0)
        source = before if x is entry else self._placed(x, (before + 1) % 3)
        key = ("feed", layer, source, before)
        return self._graph(key, functools.partial(self._run_feed, layer, source, before))()

    def _run_feed(self, layer: int, source: int, before: int) -> torch.Tensor:
        x, entry = self._columns[source], self._columns[before]
        y = next(c for i, c in enumerate(self._columns) if i not in (source, before))
        return y.copy_(self._decoder.blocks[layer].feed(x, entry))

    def _placed(self, x: torch.Tensor, place: int) -> int:
        """The number of the buffer that holds x, put there where it is in none."""
        found = next((i for i, column in enumerate(self._columns) if column is x), None)
        if found is None:
            self._columns[place].copy_(x)
        return place if found is None else found

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """Blocks `layers` store the keys and values of x [B, 1, D] and compute nothing else."""
        self._left.copy_(x)
        for layer in layers:
            self._graph(("fill", layer), functools.partial(self._fill, layer))()
            self.cache.lengths[layer] += 1

    def _fill(self, layer: int) -> torch.Tensor:
        self._context.forget()
        keys, values = self._decoder.blocks[layer].keys_values(self._left, self._context)
        self._memory.write(layer, keys, values, self._position)
        return keys

    def leave(self) -> None:
        """End a step that was run block by block."""
        self._position.add_(1)

    def _graph(self, key: Any, function: Function) -> Function:
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = self._captured(function) if self._pool is not None else function
        return found

    def _captured(self, function: Function) -> Function:
        """A function as a graph. What running it for warming up changed is put back; the column it wrote is written again."""
        state = [*self._memory.state, self._position]
        before = [t.clone() for t in state]
        stream = torch.cuda.Stream(self._decoder.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                function()
                for t, was in zip(state, before, strict=True):
                    t.copy_(was)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = function()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay


def steps_for(owner: Any, decoder: Decoder, rows: int, capacities: Sequence[int], width: int) -> StaticSteps:
    """Buffers for a generation of this shape: those of an earlier one with their graphs, if nobody uses them."""
    key = rows, tuple(capacities), width
    found: StaticSteps | None = decoder.static_steps.pop(key, None)
    if found is None or not found.claim(owner):
        found = StaticSteps(decoder, rows, capacities, width)
        found.claim(owner)
    decoder.static_steps[key] = found  # the newest last
    while len(decoder.static_steps) > _KEPT:
        decoder.static_steps.pop(next(iter(decoder.static_steps)))
    return found
