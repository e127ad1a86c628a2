"""One decode step whose rows exit one by one: blocks from the bottom up until every row has left, then only K and V."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from harness.method import Exit, ExitState
from harness.models.cache import KVCache, RowsOfCache
from harness.models.decoder import Context, Decoder
from harness.plan import LayerPlan, Step, StepTrace


class Blocks(Protocol):
    """Who runs whole blocks over one column of every row."""

    def block(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Block `layer` on x [B, 1, D]."""
        ...

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """Blocks `layers` store the keys and values of x [B, 1, D] and compute nothing else."""
        ...


class CalledBlocks:
    """`Blocks` by calling them."""

    def __init__(self, decoder: Decoder, cache: KVCache, context: Context) -> None:
        self._decoder, self._cache, self._context = decoder, cache, context

    def block(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """See `Blocks.block`."""
        return self._decoder.run_plan(((layer, True, True),), x, self._cache, self._context)

    def fill(self, layers: Sequence[int], x: torch.Tensor) -> None:
        """See `Blocks.fill`."""
        self._decoder.fill(layers, x, self._cache, self._context)


def run_gated(
    decoder: Decoder,
    cache: KVCache,
    gate: Exit,
    x: torch.Tensor,
    step: Step,
    context: Context,
    *,
    compact: bool,
    blocks: Blocks | None = None,
) -> tuple[torch.Tensor, StepTrace]:
    """Run the blocks under an exit gate.

    Args:
        decoder: the model.
        cache: of the generation; every block gets the keys and values of this position, from the exit state where a row left.
        gate: decides after each block which rows leave.
        x: input of the first block [B, 1, D].
        step: which step this is.
        context: of the column.
        compact: go on with the rows still running alone; False computes all rows along until the last has left.
        blocks: who runs blocks over all rows; None: they are called.

    Returns:
        Logits [B, V], each row's from its own exit, and the record of what ran.
    """
    blocks = blocks or CalledBlocks(decoder, cache, context)
    state = ExitState(decoder.head, decoder.extras, step.index, step.expected_tokens)
    rows, depth = x.shape[0], decoder.depth
    exits = torch.full((rows,), depth, device=x.device)
    running = torch.arange(rows, device=x.device)
    logits: torch.Tensor | None = None
    computed: list[int] = []
    fill_rows = 0
    for layer, block in enumerate(decoder.blocks):
        if compact and len(running) < rows:
            inside = x[running]
            memory = RowsOfCache(cache, running)
            state.advance(inside[:, 0])
            part = context.rows(running)
            y = decoder.run_plan(((layer, True, True),), inside, memory, part)
            gone = (exits <= layer).nonzero().squeeze(1)
            block.fill(x[gone], RowsOfCache(cache, gone), context.rows(gone))
            cache.lengths[layer] += 1
            fill_rows += len(gone)
            x = x.index_copy(0, running, y)
        else:
            state.advance(x[:, 0])
            y = blocks.block(layer, x)
            # A row that exited keeps its state: what it wrote to this block's cache came from that state already.
            x = y if len(running) == rows else torch.where((exits > layer)[:, None, None], y, x)
        computed.append(len(running) if compact else rows)
        if not gate.tests(layer, depth):
            continue
        subset = compact and len(running) < rows
        leaves = gate.should_exit(layer, x[running, 0] if subset else x[:, 0], state)
        fresh = leaves if subset or len(running) == rows else leaves[running]
        if not bool(fresh.any()):
            continue
        leaving = running[fresh]
        exits[leaving] = layer + 1
        if state.last_logits is not None:
            # The test computed this exit's prediction already; it is not computed twice.
            if logits is None:
                logits = state.last_logits.new_zeros(rows, state.last_logits.shape[1])
            logits[leaving] = state.last_logits[fresh if subset else leaving]
        running = running[~fresh]
        if not len(running):
            break
    ran = len(computed)
    filled = tuple(range(ran, depth))
    blocks.fill(filled, x)
    head_rows = 0
    if logits is None:
        # No row left, or tests that make no prediction: the head over the column as it stands.
        logits = decoder.head(x[:, 0])
        head_rows = rows
    elif len(running):
        rest = decoder.head(x[running, 0])
        logits[running] = rest
        head_rows = len(running)
    return logits, StepTrace(
        LayerPlan.of(range(ran), depth),
        exits if ran < depth or bool((exits < depth).any()) else None,
        filled,
        state.test_heads,
        state.test_flops,
        head_rows,
        rows=tuple(computed) if compact else None,
        fill_rows=fill_rows,
        test_reads=state.test_reads,
    )
