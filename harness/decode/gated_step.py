"""One decode step whose rows choose what they run."""

from __future__ import annotations

from collections.abc import Set

import torch

from harness.decode.gated import GatedWalk, planned
from harness.decode.gated_blocks import Blocks, split
from harness.method import Gate
from harness.models.decoder import Decoder
from harness.plan import Pass, StepTrace
from harness.state import GateState


def run_gated(
    decoder: Decoder,
    gate: Gate,
    x: torch.Tensor,
    state: GateState,
    blocks: Blocks,
    *,
    compact: bool,
    asks: Set[tuple[int, str]],
    hiding: frozenset[int] = frozenset(),
    held: int = 0,
    must: torch.Tensor | None = None,
) -> tuple[torch.Tensor, StepTrace]:
    """Run a step under a gate.

    Args:
        decoder: the model.
        gate: decides which rows run a sublayer.
        x: input of the first block [B, T, D]: the newest column, with `recompute` after those that are computed again.
        state: what the gate may look at.
        blocks: who runs sublayers over all rows.
        compact: compute a sublayer for the rows that run it alone; False: for all rows, where one runs it.
        asks: the sublayers before which the gate is asked.
        hiding: blocks in which positions may be hidden.
        held: with `recompute` the keys that attention looks at.
        must: with `recompute` the rows that run to the top whatever they are asked, bool [B]; None: none.

    Returns:
        Logits [B, V], and the record of what ran.
    """
    return _Step(decoder, gate, x, state, blocks, compact, asks, hiding, held, must).run()


class _Step(GatedWalk):
    """A step on its way up; arguments as in `run_gated`."""

    def __init__(
        self,
        decoder: Decoder,
        gate: Gate,
        x: torch.Tensor,
        state: GateState,
        blocks: Blocks,
        compact: bool,
        asks: Set[tuple[int, str]],
        hiding: frozenset[int],
        held: int,
        must: torch.Tensor | None,
    ) -> None:
        rows, columns, _ = x.shape
        if must is not None and bool(must.all()):
            asks = frozenset()
        newest = None if columns == 1 else torch.arange(rows, device=x.device) * columns + columns - 1
        super().__init__(gate, decoder.depth, blocks, x, state, asks, places=newest, hiding=hiding, compact=compact)
        self._head, self._held, self._must = decoder.head, held, must
        self._logits: torch.Tensor | None = None

    def must_run(self, runs: torch.Tensor) -> torch.Tensor:
        """See `GatedWalk.must_run`."""
        return runs if self._must is None else runs | self._must

    def close(self, closes: torch.Tensor, asked: torch.Tensor | None) -> None:
        """See `GatedWalk.close`: the test computed these rows' prediction already, if it made one; it is not computed twice."""
        super().close(closes, asked)
        found = self.state.last_logits
        if found is not None:
            gone = closes.nonzero().squeeze(1)
            if self._logits is None:
                self._logits = found.new_zeros(self.asked, found.shape[1])
            self._logits[gone if asked is None else asked[gone]] = found[gone]

    def run(self) -> tuple[torch.Tensor, StepTrace]:
        """See `run_gated`."""
        self.go()
        logits, head_rows = self._logits, self.asked
        if logits is None:
            # No row left, or tests that make no prediction: the head over the column as it stands.
            logits = self._head(self.states())
        elif self.open is not None and bool(self.open.any()):
            rest, _ = split(self.open)
            logits[rest] = self._head(self.at(self.x)[rest])
            head_rows = len(rest)
        else:
            head_rows = 0
        return logits, self._record(head_rows)

    def _record(self, head_rows: int) -> StepTrace:
        counts, state = self.counts(), self.state
        plan = planned(counts)
        passes = (Pass(plan, self.x.shape[1], self._held, 0, False),) if self.recomputes else ()
        skipped = any(flags is not None for pair in self.flags() for flags in pair)
        return StepTrace(
            plan,
            self.both() if skipped else None,
            tuple(self.filled),
            state.test_heads,
            state.test_flops,
            head_rows,
            passes,
            rows=tuple(counts[i] for i in plan.blocks) if self.compact else None,
            fill_rows=self.fill_rows,
            test_reads=state.test_reads,
        )
