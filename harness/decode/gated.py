"""Blocks under a gate: sublayers from the bottom up, and a question wherever the gate has one.

One walk serves the column of a decode step (`gated_step.py`), the positions of a prompt, and given tokens that are scored or
trained on (`gated_pass.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set

import torch

from harness.decode.gated_blocks import Blocks, CalledBlocks, every, split
from harness.method import Gate
from harness.plan import LayerPlan
from harness.state import GateState
from harness.training import Asked

Flags = tuple[torch.Tensor | None, torch.Tensor | None]
"""Of a block, which of the positions that are asked run attention and feed, bool [R] each; None: all."""


class GatedWalk:
    """Positions on their way up.

    Args:
        gate: decides which of them run a sublayer.
        depth: blocks, L.
        blocks: who runs sublayers.
        x: input of the first block [B, T, D].
        state: what the gate may look at.
        asks: the sublayers before which the gate is asked.
        places: the positions that are asked [R], numbered through rows; None: all.
        hiding: blocks in which positions may be hidden: they do not run together with others.
        fills: where no position runs attention, later ones need the keys and values of the state that passes.
        compact: compute a sublayer for the rows that run it alone (decode steps); False: for all rows, where one runs it.
        gathers: compute feed-forward sublayers for the positions that run them alone.

    Attributes:
        ran: for each block that was reached what ran.
        asked: how many positions that is, R.
        filled: blocks that stored keys and values without attending.
        questions: what was asked, in training passes.
    """

    def __init__(
        self,
        gate: Gate,
        depth: int,
        blocks: Blocks,
        x: torch.Tensor,
        state: GateState,
        asks: Set[tuple[int, str]],
        *,
        places: torch.Tensor | None = None,
        hiding: frozenset[int] = frozenset(),
        fills: bool = True,
        compact: bool = False,
        gathers: bool = False,
    ) -> None:
        self.gate, self.depth, self.blocks, self.x, self.state = gate, depth, blocks, x, state
        self.asks, self.places, self.hiding = asks, places, hiding
        self.compact, self.gathers = compact, gathers or compact
        self.single = x.shape[1] == 1 and places is None
        self.asked = x.shape[0] * x.shape[1] if places is None else len(places)
        self.recomputes, self.fills = gate.kv == "recompute", fills and gate.kv == "own"
        self.bypasses = type(gate).bypass is not Gate.bypass
        self.entry = x
        """Input of the block at hand, or of the one before while its successor is asked about."""
        self.open: torch.Tensor | None = None
        """Positions that run what is not asked about, bool [R]; None: all."""
        self.openness: torch.Tensor | None = None
        self.waiting: list[tuple[int, bool, bool]] = []
        """Sublayers that all positions run and that nobody has needed the result of yet: block, attention, feed."""
        self._viewed: tuple[torch.Tensor | None, torch.Tensor] = None, x
        """What was asked about last, and its positions that are asked."""
        self.ran: list[Flags] = []
        self.filled: list[int] = []
        self.fill_rows = 0
        self.questions: list[Asked] = []
        self.left: torch.Tensor | None = None
        """With `recompute`, the states with which positions closed [R, D]."""
        state.picked = places

    def go(self) -> None:
        """Up to the last block, or to the one above which nothing runs."""
        gate = self.gate
        for layer in range(self.depth):
            feed_asked = (layer, "feed") in self.asks and not self.recomputes
            attends = self._asked(layer, "attention") if (layer, "attention") in self.asks else self.open
            if attends is not None and not gate.reopens and not bool(attends.any()) and self.may_stop(layer):
                break
            if attends is None or self.recomputes:
                self._all(layer, "attention")
            elif not feed_asked and not gate.reopens and self.single and self._plain(layer):
                self._catch_up()
                x = self.x
                self._whole(layer, attends)
                self.entry = x
                self.ran.append((attends, attends))
                continue
            else:
                self._catch_up()
                x = self.x
                self._attend(layer, attends)
                self.entry = x
            feeds = self._asked(layer, "feed") if feed_asked else None if gate.reopens else attends
            if feeds is None or self.recomputes:
                self._all(layer, "feed")
            else:
                self._catch_up()
                self._feed(layer, feeds, self.entry)
            self.ran.append((attends, feeds))
        self._catch_up()
        above = tuple(range(len(self.ran), self.depth))
        if above and self.fills:
            self.blocks.fill(above, self.x)
            self.filled += above
        else:
            for layer in above:
                self.blocks.skip(layer, self.x)

    def may_stop(self, layer: int) -> bool:
        """Whether the walk may end below a block that no position runs."""
        return True

    def _plain(self, layer: int) -> bool:
        """Nothing stands between a block's sublayers, and all look at what the others look at."""
        return layer not in self.hiding and self.openness is None and not self.bypasses

    def at(self, x: torch.Tensor) -> torch.Tensor:
        """The states [R, D] of the positions that are asked, of x [B, T, D]."""
        if self.single:
            return x.squeeze(1)
        flat = x.flatten(0, 1)
        return flat if self.places is None else flat[self.places]

    def spread(self, flags: torch.Tensor) -> torch.Tensor:
        """Numbers or flags of the positions that are asked [R] or [R, D] for all [B, T, 1 or D]; others False or 1."""
        rows, columns, _ = self.x.shape
        flags = flags if flags.dim() > 1 else flags.unsqueeze(1)
        if self.places is not None:
            base = flags.new_full((rows * columns, flags.shape[1]), flags.dtype != torch.bool)
            flags = base.index_copy(0, self.places, flags)
        return flags.view(rows, columns, -1)

    def _all(self, layer: int, sublayer: str) -> None:
        """A sublayer of all positions: together with its neighbours, once somebody needs the result."""
        attends = sublayer == "attention"
        if (attends and layer in self.hiding) or (self.openness is not None and not self.recomputes):
            self._catch_up()
            if attends:
                x = self.x
                self._attend(layer, None)
                self.entry = x
            else:
                self._feed(layer, None, self.entry)
        elif not attends and self.waiting and self.waiting[-1][0] == layer:
            self.waiting[-1] = (layer, True, True)
        else:
            self.waiting.append((layer, attends, not attends))

    def _catch_up(self) -> None:
        """Run the sublayers that wait."""
        if self.waiting:
            self.x, self.entry = self.blocks.stretch(tuple(self.waiting), self.x, self.entry)
            self.waiting.clear()

    def _asked(self, layer: int, sublayer: str) -> torch.Tensor | None:
        """The positions that run a sublayer, bool [R]; None: all."""
        gate, state, open_ = self.gate, self.state, self.open
        self._catch_up()
        x = self.at(self.x)
        entry = self._viewed[1] if self._viewed[0] is self.entry else self.at(self.entry)
        self._viewed = self.x, x
        asked = None
        if self.compact and not gate.reopens and open_ is not None:
            # Closed rows are not asked.
            asked = open_.nonzero().squeeze(1)
            x, entry = x[asked], entry[asked]
            state.picked = asked
        state.advance(entry)
        runs = gate.runs(layer, sublayer, x, state)
        if runs.dtype is not torch.bool or runs.dim() != 1 or runs.numel() != x.shape[0]:
            raise TypeError(f"runs() gives {runs.dtype} of shape {tuple(runs.shape)}; it must be bool [{x.shape[0]}]")
        self.openness = state.openness if gate.weighs or state.training else None
        if state.training:
            self.questions.append(Asked(layer, sublayer, runs, state.openness, state.aside))
        if gate.reopens:
            return None if every(runs) else runs
        runs = self.must_run(runs)
        if every(runs):
            return open_
        closes = ~runs if open_ is None or asked is not None else ~runs & open_
        if not bool(closes.any()):
            return open_
        if self.compact:
            state.scratch = {name: left[~closes] for name, left in state.scratch.items()}
        self.close(closes, asked)
        return self.open

    def must_run(self, runs: torch.Tensor) -> torch.Tensor:
        """An answer [R] of a gate that does not reopen, and those that may not close whatever it says."""
        return runs

    def close(self, closes: torch.Tensor, asked: torch.Tensor | None) -> None:
        """Positions close: those of `closes`, bool over `asked`, or over all of them."""
        gone = closes.nonzero().squeeze(1)
        gone = gone if asked is None else asked[gone]
        x = self.at(self.x)
        if self.recomputes:
            self.left = torch.zeros_like(x) if self.left is None else self.left
            self.left = self.left.index_copy(0, gone, x[gone])
        self.open = (
            torch.ones(x.shape[0], dtype=torch.bool, device=x.device) if self.open is None else self.open.clone()
        )
        self.open[gone] = False

    def states(self) -> torch.Tensor:
        """The states [R, D] that the positions ended with."""
        x = self.at(self.x)
        return x if self.left is None or self.open is None else torch.where(self.open.unsqueeze(1), x, self.left)

    def _whole(self, layer: int, runs: torch.Tensor) -> None:
        """A block of some rows; the others keep their state and store its keys and values."""
        x = self.x
        if self.compact:
            self.x = self._some(layer, x, runs, feeds=True)
        else:
            # What a closed row stores in this block's cache comes from the state it keeps already.
            self.x = torch.where(runs[:, None, None], self.blocks.stretch(((layer, True, True),), x, x)[0], x)

    def _some(self, layer: int, x: torch.Tensor, runs: torch.Tensor, feeds: bool) -> torch.Tensor:
        assert isinstance(self.blocks, CalledBlocks), "static buffers hold all rows"
        y = self.blocks.some(layer, x, runs, feeds, self.fills)
        self.fill_rows += self.fills * (len(runs) - len(y))
        return x.index_copy(0, split(runs)[0], y)

    def _attend(self, layer: int, runs: torch.Tensor | None) -> None:
        """Attention of some positions; of the others keys and values are stored, or not, as `Gate.kv` says."""
        x, blocks = self.x, self.blocks
        if runs is None:
            y = blocks.attend(layer, x)
        elif self._soft():
            y = blocks.attend(layer, x, self.spread(runs).squeeze(2))
        elif not bool(runs.any()):
            if self.fills:
                blocks.fill((layer,), x)
                self.filled.append(layer)
            else:
                blocks.skip(layer, x)
            y = x
        elif self.compact:
            y = self._some(layer, x, runs, feeds=False)
        else:
            flags = self.spread(runs)
            y = torch.where(flags, blocks.attend(layer, x, flags.squeeze(2)), x)
        self.x = self._passed(layer, "attention", x, y, runs)

    def _feed(self, layer: int, runs: torch.Tensor | None, entry: torch.Tensor) -> None:
        x = self.x
        if runs is None or self._soft():
            y = self.blocks.feed(layer, x, entry)
        elif not bool(runs.any()):
            y = x
        elif self.gathers:
            inside = runs.nonzero().squeeze(1)
            inside = inside if self.places is None else self.places[inside]
            axis = 1 if self.x.shape[1] == 1 else 0
            some = (each.flatten(0, 1)[inside].unsqueeze(axis) for each in (x, entry))
            y = x.flatten(0, 1).index_copy(0, inside, self.blocks.feed(layer, *some).squeeze(axis)).view_as(x)
        else:
            y = torch.where(self.spread(runs), self.blocks.feed(layer, x, entry), x)
        self.x = self._passed(layer, "feed", x, y, runs)

    def _soft(self) -> bool:
        """Every position computes the sublayer: how open the gate is has a gradient."""
        return self.state.training and self.openness is not None

    def _passed(
        self, layer: int, sublayer: str, x: torch.Tensor, y: torch.Tensor, runs: torch.Tensor | None
    ) -> torch.Tensor:
        """The states after a sublayer that took x to y where it ran: weighed, and with what bypasses it elsewhere."""
        openness, self.openness = self.openness, None
        outside = (~runs).nonzero().squeeze(1) if self.bypasses and runs is not None else None
        if openness is not None:
            ran = torch.ones_like(openness[:, 0] if openness.dim() > 1 else openness) if runs is None else runs
            ran = ran.to(openness.dtype).view(-1, *(1,) * (openness.dim() - 1))
            weight = openness * ran if self.gate.weighs else ran + openness - openness.detach()
            weight = self.spread(weight).to(y.dtype)
            y = x + weight * (y - x)
            if self.bypasses and self.state.training and not self.gate.weighs:
                outside = torch.arange(self.asked, device=x.device)
                y = y + (1 - weight) * (self._bypassed(layer, sublayer, x, x, outside) - x)
                return y
        return y if outside is None or not len(outside) else self._bypassed(layer, sublayer, x, y, outside)

    def _bypassed(
        self, layer: int, sublayer: str, x: torch.Tensor, y: torch.Tensor, outside: torch.Tensor
    ) -> torch.Tensor:
        """y, where positions `outside` of those asked have what bypasses the sublayer."""
        state = self.state
        outside = outside if self.places is None else self.places[outside]
        before, state.picked = state.picked, outside
        new = self.gate.bypass(layer, sublayer, x.flatten(0, 1)[outside], state)
        state.picked = before
        return y.flatten(0, 1).index_copy(0, outside, new).view_as(y)

    def flags(self) -> list[Flags]:
        """What ran in each of the L blocks."""
        if len(self.ran) == self.depth:
            return self.ran
        none = torch.zeros(self.asked, dtype=torch.bool, device=self.x.device)
        return [*self.ran, *((none, none) for _ in range(len(self.ran), self.depth))]

    def counts(self) -> list[tuple[int, int]]:
        """How many of the positions asked ran attention and feed of each of the L blocks."""
        return [(_count(a, self.asked), _count(f, self.asked)) for a, f in self.flags()]

    def both(self) -> torch.Tensor:
        """Bool [R, 2, L]: the attention and the feed-forward sublayers that took part in a position's state."""
        every = torch.ones(self.asked, dtype=torch.bool, device=self.x.device)
        parts = zip(*self.flags(), strict=True)
        return torch.stack([torch.stack([every if f is None else f for f in part], dim=1) for part in parts], dim=1)


def planned(counts: Sequence[tuple[int, int]]) -> LayerPlan:
    """The sublayers that some position ran."""
    return _plan(tuple(a > 0 for a, _ in counts), tuple(f > 0 for _, f in counts))


@functools.lru_cache(maxsize=4096)
def _plan(attention: tuple[bool, ...], feed: tuple[bool, ...]) -> LayerPlan:
    return LayerPlan(attention, feed)


def _count(flags: torch.Tensor | None, every: int) -> int:
    return every if flags is None else int(flags.sum())
