"""One decode step whose rows choose what they run: sublayers from the bottom up, and a question wherever the gate has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from harness.method import Gate
from harness.models.block import Context
from harness.models.cache import KVCache, RowsOfCache
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, StepTrace
from harness.state import GateState


class Blocks(Protocol):
    """Who runs sublayers over one column of every row."""

    def blocks(self, layers: Sequence[int], x: torch.Tensor) -> torch.Tensor:
        """Whole blocks `layers` in turn on x [B, 1, D]."""
        ...

    def attend(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """The attention sublayer of block `layer` on x [B, 1, D]."""
        ...

    def feed(self, layer: int, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """The feed-forward sublayer of block `layer` on x [B, 1, D]; `entry` is the block's input."""
        ...

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """Blocks `layers` store the keys and values of x [B, 1, D] and compute nothing else."""
        ...


class CalledBlocks:
    """`Blocks` by calling them."""

    def __init__(self, decoder: Decoder, cache: KVCache, context: Context) -> None:
        self._decoder, self._cache, self._context = decoder, cache, context

    def blocks(self, layers: Sequence[int], x: torch.Tensor) -> torch.Tensor:
        """See `Blocks.blocks`."""
        return self._decoder.run_plan(tuple((layer, True, True) for layer in layers), x, self._cache, self._context)

    def attend(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """See `Blocks.attend`."""
        return self._decoder.blocks[layer].attend(x, self._cache, self._context)

    def feed(self, layer: int, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """See `Blocks.feed`."""
        return self._decoder.blocks[layer].feed(x, entry)

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """See `Blocks.fill`."""
        self._decoder.fill(layers, x, self._cache, self._context)


def run_gated(
    decoder: Decoder,
    cache: KVCache,
    gate: Gate,
    x: torch.Tensor,
    state: GateState,
    context: Context,
    *,
    compact: bool,
    blocks: Blocks | None = None,
) -> tuple[torch.Tensor, StepTrace]:
    """Run a step under a gate.

    Args:
        decoder: the model.
        cache: of the generation; every block gets the keys and values of this position, from the state that passes where a row
            skips attention.
        gate: decides which rows run a sublayer.
        x: input of the first block [B, 1, D].
        state: what the gate may look at.
        context: of the column.
        compact: compute a sublayer for the rows that run it alone; False: for all rows, where one runs it.
        blocks: who runs sublayers over all rows; None: they are called.

    Returns:
        Logits [B, V], and the record of what ran.
    """
    return _Step(
        decoder, cache, gate, x, state, context, compact, blocks or CalledBlocks(decoder, cache, context)
    ).run()


class _Step:
    """A step on its way up; arguments as in `run_gated`."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        gate: Gate,
        x: torch.Tensor,
        state: GateState,
        context: Context,
        compact: bool,
        blocks: Blocks,
    ) -> None:
        self.decoder, self.cache, self.gate, self.x, self.state = decoder, cache, gate, x, state
        self.context, self.compact, self.blocks = context, compact, blocks
        self.rows, self.depth = x.shape[0], decoder.depth
        self.entry = x
        """Input of the block at hand, or of the one before while its successor is asked about."""
        self.open: torch.Tensor | None = None
        """Rows that run what is not asked about, bool [B]; None: all."""
        self.logits: torch.Tensor | None = None
        self.head_rows = self.fill_rows = 0
        self.waiting: list[int] = []
        """Whole blocks that all rows run and that nobody has needed the result of yet."""
        self.ran: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []
        """For each block the rows that run attention and feed, bool [B]; None: all."""
        self.filled: list[int] = []

    def run(self) -> tuple[torch.Tensor, StepTrace]:
        """See `run_gated`."""
        gate, depth = self.gate, self.depth
        for layer in range(depth):
            asked, feed_asked = gate.gated(layer, "attention", depth), gate.gated(layer, "feed", depth)
            if not asked and not feed_asked and self.open is None:
                self.waiting.append(layer)
                self.ran.append((None, None))
                continue
            self._catch_up()
            attends = self._asked(layer, "attention") if asked else self.open
            if not gate.reopens and attends is not None and not bool(attends.any()):
                break
            x = self.x
            together = attends is None and not feed_asked
            if together:
                self.x = self.blocks.blocks((layer,), x)
                self.entry = x
                self.ran.append((None, None))
                continue
            if feed_asked or gate.reopens:
                self._attend(layer, attends)
                self.entry = x
                feeds = self._asked(layer, "feed") if feed_asked else None
                self._feed(layer, feeds, x)
            else:
                assert attends is not None
                self._whole(layer, attends)
                self.entry, feeds = x, attends
            self.ran.append((attends, feeds))
        self._catch_up()
        return self._finished()

    def _catch_up(self) -> None:
        """Run the blocks that wait; the last one apart, whose input the next question may be about."""
        if len(self.waiting) > 1:
            self.x = self.blocks.blocks(tuple(self.waiting[:-1]), self.x)
        if self.waiting:
            self.entry = self.x
            self.x = self.blocks.blocks((self.waiting[-1],), self.x)
            self.waiting.clear()

    def _asked(self, layer: int, sublayer: str) -> torch.Tensor | None:
        """The rows that run a sublayer, bool [B]; None: all."""
        gate, state, open_ = self.gate, self.state, self.open
        x, entry = self.x[:, 0], self.entry[:, 0]
        places = None
        if self.compact and not gate.reopens and open_ is not None:
            # Closed rows are not asked.
            places = open_.nonzero().squeeze(1)
            x, entry = x[places], entry[places]
        state.advance(entry)
        runs = gate.runs(layer, sublayer, x, state)
        if runs.shape != x.shape[:1] or runs.dtype != torch.bool:
            raise TypeError(f"runs() gives {runs.dtype} of shape {tuple(runs.shape)}; it must be bool [{x.shape[0]}]")
        if gate.reopens:
            return None if bool(runs.all()) else runs
        closes = ~runs if open_ is None or places is not None else ~runs & open_
        if not bool(closes.any()):
            return open_
        if self.compact:
            state.scratch = {name: left[~closes] for name, left in state.scratch.items()}
        found = state.last_logits
        if places is not None:
            gone = places[closes]
            picked = None if found is None else found[closes]
        else:
            gone = closes.nonzero().squeeze(1)
            picked = None if found is None else found[gone]
        if picked is not None:
            # The test computed this row's prediction already; it is not computed twice.
            if self.logits is None:
                self.logits = picked.new_zeros(self.rows, picked.shape[1])
            self.logits[gone] = picked
        self.open = (runs if open_ is None else open_).clone()
        self.open[gone] = False
        return self.open

    def _whole(self, layer: int, runs: torch.Tensor) -> None:
        """A block of some rows; the others keep their state and store its keys and values."""
        x = self.x
        if self.compact:
            inside, outside = _split(runs)
            memory, part = RowsOfCache(self.cache, inside), self.context.rows(inside)
            y = self.decoder.run_plan(((layer, True, True),), x[inside], memory, part)
            self._fill_beside(layer, outside)
            self.x = x.index_copy(0, inside, y)
        else:
            # What a closed row stores in this block's cache comes from the state it keeps already.
            self.x = torch.where(runs[:, None, None], self.blocks.blocks((layer,), x), x)

    def _fill_beside(self, layer: int, rows: torch.Tensor) -> None:
        """Keys and values of rows beside those that attended; the position is counted now."""
        memory, part = RowsOfCache(self.cache, rows), self.context.rows(rows)
        self.decoder.blocks[layer].fill(self.x[rows], memory, part)
        self.cache.lengths[layer] += 1
        self.fill_rows += len(rows)

    def _attend(self, layer: int, runs: torch.Tensor | None) -> None:
        """Attention of some rows; the others store keys and values of the state that passes."""
        x = self.x
        if runs is None:
            self.x = self.blocks.attend(layer, x)
        elif not bool(runs.any()):
            self.blocks.fill((layer,), x)
            self.filled.append(layer)
        elif self.compact:
            inside, outside = _split(runs)
            memory, part = RowsOfCache(self.cache, inside), self.context.rows(inside)
            y = self.decoder.blocks[layer].attend(x[inside], memory, part)
            self._fill_beside(layer, outside)
            self.x = x.index_copy(0, inside, y)
        else:
            self.x = torch.where(runs[:, None, None], self.blocks.attend(layer, x), x)

    def _feed(self, layer: int, runs: torch.Tensor | None, entry: torch.Tensor) -> None:
        x = self.x
        if runs is None:
            self.x = self.blocks.feed(layer, x, entry)
        elif not bool(runs.any()):
            return
        elif self.compact:
            inside, _ = _split(runs)
            self.x = x.index_copy(0, inside, self.decoder.blocks[layer].feed(x[inside], entry[inside]))
        else:
            self.x = torch.where(runs[:, None, None], self.blocks.feed(layer, x, entry), x)

    def _finished(self) -> tuple[torch.Tensor, StepTrace]:
        """The head for the rows that have no prediction yet, and the record."""
        computed = len(self.ran)
        above = tuple(range(computed, self.depth))
        self.blocks.fill(above, self.x)
        logits = self.logits
        if logits is None:
            # No row left, or tests that make no prediction: the head over the column as it stands.
            logits = self.decoder.head(self.x[:, 0])
            self.head_rows = self.rows
        elif self.open is not None and bool(self.open.any()):
            rest, _ = _split(self.open)
            logits[rest] = self.decoder.head(self.x[rest, 0])
            self.head_rows = len(rest)
        none = torch.zeros(self.rows, dtype=torch.bool, device=self.x.device)
        flags = [*self.ran, *((none, none) for _ in above)]
        counts = [tuple(self.rows if f is None else int(f.sum()) for f in pair) for pair in flags]
        attention, feed = (tuple(pair[i] > 0 for pair in counts) for i in (0, 1))
        plan, skipped = LayerPlan(attention, feed), any(f is not None for pair in flags for f in pair)
        ran = None
        if skipped:
            ran = torch.stack(
                [torch.stack([~none if f is None else f for f in part]) for part in zip(*flags, strict=True)]
            )
            ran = ran.permute(2, 0, 1)
        return logits, StepTrace(
            plan,
            ran,
            (*self.filled, *above),
            self.state.test_heads,
            self.state.test_flops,
            self.head_rows,
            rows=tuple((counts[i][0], counts[i][1]) for i in plan.blocks) if self.compact else None,
            fill_rows=self.fill_rows,
            test_reads=self.state.test_reads,
        )


def _split(runs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the rows that run, and of those that do not."""
    return runs.nonzero().squeeze(1), (~runs).nonzero().squeeze(1)
