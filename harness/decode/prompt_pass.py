"""What every teacher-forced pass rests on: how prompts are run, and what a pass returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from harness.decode.forced_memory import ForcedMemory
from harness.method import Method
from harness.models.block import Around, Context
from harness.models.cache import Memory
from harness.models.decoder import Decoder
from harness.plan import LayerPlan

Through = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]
"""How a function of hidden states is called: at once, or so that it is computed again on the way back."""


def at_once(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Call the function."""
    return function(x)


def around(
    through: Through, dropped: torch.Tensor | None = None, after_block: Callable[[torch.Tensor], None] | None = None
) -> Around | None:
    """How a pass runs its blocks; None where they are simply called.

    Args:
        through: how blocks are called.
        dropped: bool [M, L], blocks that a row leaves out; None: none.
        after_block: is given the state after every block.
    """
    if through is at_once and dropped is None and after_block is None:
        return None

    def run(layer: int, block: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        y = through(block, x)
        if dropped is not None:
            y = torch.where(dropped[:, layer, None, None], x, y)
        if after_block is not None:
            after_block(y)
        return y

    return run


@dataclass
class Started:
    """Prompts that were run, M of them of width P, for continuations to start from.

    Attributes:
        memory: their keys and values.
        hidden: state after the last block [M, P, D], right-padded.
        lengths: tokens of each prompt [M].
        blocks: state after every block at each prompt's last token, [M, D] each, if asked for.
        dropped: bool [M, L], blocks that a prompt left out and its continuations leave out too; None: none.
    """

    memory: ForcedMemory
    hidden: torch.Tensor
    lengths: torch.Tensor
    blocks: list[torch.Tensor] = field(default_factory=list)
    dropped: torch.Tensor | None = None

    @property
    def last(self) -> torch.Tensor:
        """State after the last block at each prompt's last token [M, D]."""
        return at_last(self.hidden, self.lengths)


@dataclass
class Forced:
    """Result of one teacher-forced pass: M prompts of width P, N continuations of width T.

    Attributes:
        prompt_hidden: state after the last block at the prompt columns [M, P, D] (right-padded).
        prompt_last: the same at each prompt's last token [M, D].
        target_hidden: the same at the continuation columns [N, T, D], the exit state where a position exited.
        layers: bool [N, T, L], block l ran at the position.
        prompt_blocks: state after every block at each prompt's last token, [M, D] each, if asked for.
        target_blocks: state after every block at the continuation columns, [N, T, D] each, if asked for.
    """

    prompt_hidden: torch.Tensor
    prompt_last: torch.Tensor
    target_hidden: torch.Tensor
    layers: torch.Tensor
    prompt_blocks: list[torch.Tensor] = field(default_factory=list)
    target_blocks: list[torch.Tensor] = field(default_factory=list)


def run_prompt(
    decoder: Decoder,
    memory: Memory,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    plan: LayerPlan,
    around: Around | None = None,
) -> torch.Tensor:
    """A plan over prompts `ids` [M, P]; K and V go to `memory`. The one place where prompts are computed.

    Args:
        decoder: the model.
        memory: of the prompts.
        ids: left-padded where `mask` says so; without a mask right-padded or not at all.
        mask: 1 for real tokens [M, P], None without padding on the left.
        plan: the sublayers that run.
        around: how blocks are run.

    Returns:
        The state after the last block [M, P, D].
    """
    width = ids.shape[1]
    if mask is None:
        positions = torch.arange(width, device=ids.device).expand_as(ids)
        context = Context(positions, causal=True)
    else:
        seen = mask.bool()
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        # A padding column may look at itself: a query without any key would be NaN. No real column sees it.
        own = torch.eye(width, dtype=torch.bool, device=ids.device)
        context = Context(positions, (causal & seen[:, None, None, :]) | own)

    x = decoder.embed(ids, positions)
    if around is None:
        return decoder.run_plan(plan.calls, x, memory, context)
    if plan.budget == plan.depth:
        return decoder.run_blocks(plan.calls, x, memory, context, around)
    # Whoever looks on wants to see every block, those that nothing runs of too.
    calls = {layer: (attends, feeds) for layer, attends, feeds in plan.calls}
    every = ((layer, *calls.get(layer, (False, False))) for layer in range(plan.depth))
    return decoder.run_blocks(every, x, memory, context, around)


def start(
    decoder: Decoder,
    method: Method,
    prompts: torch.Tensor,
    lengths: torch.Tensor | None = None,
    keep_blocks: bool = False,
    *,
    dropped: torch.Tensor | None = None,
    through: Through = at_once,
) -> Started:
    """Run prompts [M, P] as a method runs them, right-padded to `lengths` [M] tokens (None: no padding); rest as in `force`."""
    if lengths is None:
        lengths = torch.full((prompts.shape[0],), prompts.shape[1], device=prompts.device)
    memory = ForcedMemory(decoder.depth)
    blocks: list[torch.Tensor] = []
    keep = (lambda x: blocks.append(at_last(x, lengths))) if keep_blocks else None
    hidden = run_prompt(
        decoder, memory, prompts, None, method.prompt_plan(decoder.depth), around(through, dropped, keep)
    )
    return Started(memory, hidden, lengths, blocks, dropped)


def at_last(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """States of x [M, P, D] at each row's last token [M, D]."""
    return x[torch.arange(x.shape[0], device=x.device), lengths - 1]


def ran(plans: Sequence[LayerPlan], depth: int, rows: int) -> torch.Tensor:
    """Bool [N, T, L]: anything of block l ran."""
    ran = torch.tensor([[a or f for a, f in zip(p.attention, p.feed, strict=True)] for p in plans], dtype=torch.bool)
    return ran.view(1, len(plans), depth).expand(rows, -1, -1)
