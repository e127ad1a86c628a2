"""All positions of prompts or of given tokens at once under a gate, each choosing what it runs as it would when decoding."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import torch

from harness.decode.gated import GatedWalk, planned
from harness.decode.gated_blocks import CalledBlocks
from harness.decode.hidden import Seen
from harness.errors import BadInput
from harness.method import Exit, Gate, Start
from harness.models.block import Context
from harness.models.cache import Memory
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, StepTrace
from harness.state import GateState
from harness.training import Asked

KV = ("own", "hidden", "recompute")


class Gating:
    """A gate over the prompts of a generation, or of given tokens: what it remembers, and what positions hold unseen.

    Args:
        decoder: the model.
        gate: resolved.
        expected_tokens: as in `Step`.
        training: the passes are differentiated.

    Attributes:
        asked: the sublayers before which a decode step is asked.
        asks_prompt: whether the prompts' positions are asked anything.
        seen: what rows may look at, of a gate that hides; None: of others.
        memory: what `begin` returned.

    Raises:
        BadInput: what the gate says of itself does not fit together.
    """

    def __init__(self, decoder: Decoder, gate: Gate, expected_tokens: int, training: bool = False) -> None:
        self.decoder, self.gate, self.expected_tokens, self._training = decoder, gate, expected_tokens, training
        depth = decoder.depth
        sublayers = [(layer, kind) for layer in range(depth) for kind in ("attention", "feed")]
        asked = frozenset(one for one in sublayers if gate.prompt_gated(*one, depth))
        self._asked_of_prompts, self.asks_prompt = asked, bool(asked)
        self.asked = frozenset(one for one in sublayers if gate.gated(*one, depth))
        hides = [i for i in range(depth) if (i, "attention") in asked | self.asked]
        if not gate.reopens:  # above the first question a position may be missing in every block
            hides = list(range(min(hides, default=depth), depth))
        self.seen = Seen(hides) if gate.kv == "hidden" else None
        self.memory: Any = None
        self._check()

    def _check(self) -> None:
        gate, name = self.gate, getattr(self.gate, "name", type(self.gate).__name__)
        if gate.kv not in KV:
            raise BadInput(f"{name}: kv={gate.kv!r} is not known; give one of {', '.join(KV)}")
        if gate.kv == "recompute" and (not isinstance(gate, Exit) or self.asks_prompt):
            raise BadInput(f"{name}: kv='recompute' is for exits whose prompt runs at full depth")
        if self.asks_prompt and gate.prompt_plan(self.decoder.depth) != LayerPlan.full(self.decoder.depth):
            raise BadInput(f"{name}: prompt_plan() leaves sublayers out and prompt_gated() asks; give one of the two")

    @property
    def hiding(self) -> frozenset[int]:
        """Blocks in which positions may be hidden."""
        return frozenset() if self.seen is None else self.seen.layers

    def begin(self, prompts: torch.Tensor, lengths: torch.Tensor) -> None:
        """Prompts [B, P] of `lengths` [B] tokens begin, left-padded."""
        start = Start(self.decoder.depth, prompts, lengths, self.expected_tokens, self.decoder.extras)
        self.memory = self.gate.begin(start)

    def state(self, step: int | torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> GateState:
        """What the gate may look at, at positions [B, T] of the prompts `rows` [B, T]."""
        decoder = self.decoder
        return GateState(
            *(decoder.head, decoder.extras, step, self.expected_tokens, self.memory),
            norm=self._norm,
            rows=rows,
            positions=positions,
            training=self._training,
        )

    def _norm(self, layer: int, sublayer: str, x: torch.Tensor) -> torch.Tensor:
        return self.decoder.blocks[layer].normed(sublayer, x)

    def prompt(self, memory: Memory, context: Context, x: torch.Tensor, real: torch.Tensor | None) -> GatedPositions:
        """The prompts' positions x [B, P, D], those of `real` [B, P] being no padding; their keys and values go to `memory`."""
        rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1).expand(x.shape[:2])
        blocks = CalledBlocks(self.decoder, memory, context, self.seen)
        state = self.state(0, rows, context.positions)
        walk = GatedPositions(
            self,
            blocks,
            x,
            state,
            self._asked_of_prompts,
            real,
            fills=True,
        )
        walk.go()
        return walk

    def targets(
        self,
        memory: Memory,
        context: Context,
        x: torch.Tensor,
        seen: torch.Tensor,
        owners: torch.Tensor | None,
        real: torch.Tensor | None,
    ) -> GatedPositions:
        """Positions of continuations x [N, T, D], each processed by a decode step of its own.

        Args:
            memory: continues the prompts.
            context: of the positions.
            x: input of the first block.
            seen: bool [N or 1, P], the prompts' columns that are no padding.
            owners: prompt row each continuation belongs to [N]; None: row n continues prompt n.
            real: bool [N, T], the positions that are no padding; None: all.
        """
        n, t, _ = x.shape
        rows = torch.arange(n, device=x.device) if owners is None else owners
        steps = torch.arange(1, t + 1, device=x.device).expand(n, t).flatten()
        at = None if self.seen is None else self.seen.continued(seen.shape[1], seen, owners)
        blocks = CalledBlocks(self.decoder, memory, context, at)
        real = None if self.gate.kv == "recompute" else real
        state = self.state(
            steps if real is None else steps[_numbers(real)], rows[:, None].expand(n, t), context.positions
        )
        walk = GatedPositions(self, blocks, x, state, self.asked, real, fills=False)
        walk.go()
        return walk


class GatedPositions(GatedWalk):
    """Many positions on their way up; what is asked of `GatedWalk`, with `real` [B, T] those that are no padding."""

    def __init__(
        self,
        gating: Gating,
        blocks: CalledBlocks,
        x: torch.Tensor,
        state: GateState,
        asks: Set[tuple[int, str]],
        real: torch.Tensor | None,
        fills: bool,
    ) -> None:
        places = None if real is None or bool(real.all()) else _numbers(real)
        super().__init__(
            *(gating.gate, gating.decoder.depth, blocks, x, state, asks),
            places=places,
            hiding=gating.hiding,
            fills=fills,
            gathers=True,
        )
        self.single = False
        self._waited: torch.Tensor | None = None

    def may_stop(self, layer: int) -> bool:
        """See `GatedWalk.may_stop`: positions that are computed again with later ones have all their keys and values."""
        return not self.recomputes

    @property
    def hidden(self) -> torch.Tensor:
        """The states [B, T, D] that the positions ended with."""
        if self.left is None:
            return self.x
        return torch.where(self._leaves().unsqueeze(2), self.left.view_as(self.x), self.x)

    @property
    def layers(self) -> torch.Tensor:
        """Bool [B, T, L]: anything of block l ran for the position."""
        shape = (*self.x.shape[:2], self.depth)
        found = torch.ones(shape, dtype=torch.bool)
        for layer, (attends, feeds) in enumerate(self.flags()):
            if attends is not None and feeds is not None:
                found[:, :, layer] = self.spread(attends | feeds).squeeze(2).cpu()
        return found if self.left is None else found | ~self._leaves().unsqueeze(2).cpu()

    def _leaves(self) -> torch.Tensor:
        """Bool [B, T]: with `recompute`, the positions that leave: those that closed, unless as many wait already as may."""
        assert self.open is not None and isinstance(self.gate, Exit)
        if self._waited is None:
            closed = (~self.open).view(self.x.shape[:2])
            waiting = torch.zeros_like(closed[:, 0], dtype=torch.long)
            leaves = []
            for column in closed.unbind(1):
                leaves.append(column & (waiting < self.gate.most_pending))
                waiting = torch.where(leaves[-1], waiting + 1, 0)
            self._waited = torch.stack(leaves, dim=1)
        return self._waited

    def record(self, last: torch.Tensor) -> StepTrace:
        """What ran at the prompts, each row's [B] last column yielding its first token."""
        rows, columns, _ = self.x.shape
        counts = self.counts()
        plan = planned(counts)
        every = rows * columns
        # Attention is computed for all positions, feed-forward sublayers for those that run them.
        computed = [(every, every if flags[1] is None else counts[i][1]) for i, flags in enumerate(self.flags())]
        numbers = torch.zeros(every, dtype=torch.long, device=self.x.device)
        places = torch.arange(every, device=self.x.device) if self.places is None else self.places
        numbers[places] = torch.arange(len(places), device=self.x.device)
        newest = numbers[torch.arange(rows, device=self.x.device) * columns + last]
        state = self.state
        return StepTrace(
            *(plan, self.both()[newest], tuple(self.filled), state.test_heads, state.test_flops, rows),
            rows=tuple(computed[i] for i in plan.blocks),
            test_reads=state.test_reads,
        )


def joined(before: Sequence[Asked], after: Sequence[Asked]) -> list[Asked]:
    """What was asked of prompts and of their continuations, by sublayer."""
    found = {(one.layer, one.sublayer): one for one in before}
    for one in after:
        key = one.layer, one.sublayer
        first = found.pop(key, None)
        if first is not None:
            both = first.openness, one.openness
            openness = torch.cat((both[0], both[1])) if both[0] is not None and both[1] is not None else None
            one = Asked(*key, torch.cat((first.runs, one.runs)), openness)
        found[key] = one
    return list(found.values())


def _numbers(real: torch.Tensor) -> torch.Tensor:
    return real.flatten().nonzero().squeeze(1)
