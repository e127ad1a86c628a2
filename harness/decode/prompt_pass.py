"""What every teacher-forced pass rests on: how prompts are run, and what a pass returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from harness.decode.forced_memory import ForcedMemory
from harness.decode.gated_pass import GatedPositions, Gating
from harness.method import Gate, Method
from harness.models.block import Around, Context
from harness.models.cache import Memory
from harness.models.decoder import Decoder
from harness.plan import LayerPlan
from harness.training import Asked

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
        prompts: their ids [M, P].
        blocks: state after every block at each prompt's last token, [M, D] each, if asked for.
        dropped: bool [M, L], blocks that a prompt left out and its continuations leave out too; None: none.
        gating: the gate that they were run under; None: it was none.
        walk: their way under a gate that asks over prompts.
    """

    memory: ForcedMemory
    hidden: torch.Tensor
    lengths: torch.Tensor
    prompts: torch.Tensor
    blocks: list[torch.Tensor] = field(default_factory=list)
    dropped: torch.Tensor | None = None
    gating: Gating | None = None
    walk: GatedPositions | None = None

    @property
    def last(self) -> torch.Tensor:
        """State after the last block at each prompt's last token [M, D]."""
        return at_last(self.hidden, self.lengths)

    @property
    def ran(self) -> list[int] | None:
        """Blocks of which anything ran at each prompt's last token [M]; None: those of the method's `prompt_plan`."""
        return None if self.walk is None else at_last(self.walk.layers, self.lengths.cpu()).sum(1).tolist()


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
        gates: what a gate was asked, in training passes.
        prompt_ran: see `Started.ran`.
    """

    prompt_hidden: torch.Tensor
    prompt_last: torch.Tensor
    target_hidden: torch.Tensor
    layers: torch.Tensor
    prompt_blocks: list[torch.Tensor] = field(default_factory=list)
    target_blocks: list[torch.Tensor] = field(default_factory=list)
    gates: list[Asked] = field(default_factory=list)
    prompt_ran: list[int] | None = None


def run_prompt(
    decoder: Decoder,
    memory: Memory,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    plan: LayerPlan,
    around: Around | None = None,
    walked: Callable[[Context, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """A plan over prompts `ids` [M, P]; K and V go to `memory`. The one place where prompts are computed.

    Args:
        decoder: the model.
        memory: of the prompts.
        ids: left-padded where `mask` says so; without a mask right-padded or not at all.
        mask: 1 for real tokens [M, P], None without padding on the left.
        plan: the sublayers that run.
        around: how blocks are run.
        walked: runs the blocks instead, given the context and the first one's input: positions that choose what they run.

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
    if walked is not None:
        return walked(context, x)
    if around is None:
        return decoder.run_plan(plan.calls, x, memory, context)
    if plan.budget == plan.depth:
        return decoder.run_blocks(plan.calls, x, memory, context, around)
    # Whoever looks on wants to see every block, those that nothing runs of too.
    calls = {layer: (attends, feeds) for layer, attends, feeds in plan.calls}
    every = ((layer, *calls.get(layer, (False, False))) for layer in range(plan.depth))
    return decoder.run_blocks(every, x, memory, context, around)


def run_gated_prompt(
    gating: Gating, memory: Memory, ids: torch.Tensor, mask: torch.Tensor | None, real: torch.Tensor | None
) -> GatedPositions:
    """`run_prompt` with positions that choose; `real` [M, P] are no padding, on whichever side it is."""
    found: list[GatedPositions] = []

    def walked(context: Context, x: torch.Tensor) -> torch.Tensor:
        found.append(gating.prompt(memory, context, x, real))
        return found[0].hidden

    run_prompt(gating.decoder, memory, ids, mask, LayerPlan.full(gating.decoder.depth), walked=walked)
    return found[0]


def start(
    decoder: Decoder,
    method: Method,
    prompts: torch.Tensor,
    lengths: torch.Tensor | None = None,
    keep_blocks: bool = False,
    *,
    expected_tokens: int = 1,
    dropped: torch.Tensor | None = None,
    through: Through = at_once,
    training: bool = False,
) -> Started:
    """Run prompts [M, P] as a method runs them, right-padded to `lengths` [M] tokens (None: no padding); rest as in `force`."""
    width = prompts.shape[1]
    if lengths is None:
        lengths = torch.full((prompts.shape[0],), width, device=prompts.device)
    memory = ForcedMemory(decoder.depth)
    gating = begun(decoder, method, prompts, lengths, expected_tokens, training) if isinstance(method, Gate) else None
    if gating is not None and gating.asks_prompt:
        assert not keep_blocks and dropped is None, "layer dropout and exits' losses are for whole plans"
        real = torch.arange(width, device=prompts.device) < lengths.unsqueeze(1)
        walk = run_gated_prompt(gating, memory, prompts, None, real)
        return Started(memory, walk.hidden, lengths, prompts, gating=gating, walk=walk)
    blocks: list[torch.Tensor] = []
    keep = (lambda x: blocks.append(at_last(x, lengths))) if keep_blocks else None
    hidden = run_prompt(
        decoder, memory, prompts, None, method.prompt_plan(decoder.depth), around(through, dropped, keep)
    )
    return Started(memory, hidden, lengths, prompts, blocks, dropped, gating)


def begun(
    decoder: Decoder, gate: Gate, prompts: torch.Tensor, lengths: torch.Tensor, expected_tokens: int, training: bool
) -> Gating:
    """A gate over prompts [M, P], right-padded to `lengths` [M] tokens."""
    gating = Gating(decoder, gate, expected_tokens, training)
    width = prompts.shape[1]
    column = torch.arange(width, device=prompts.device) - (width - lengths).unsqueeze(1)
    gating.begin(torch.where(column < 0, 0, prompts.gather(1, column.clamp_min(0))), lengths)
    return gating


def prompts_alike(method: Method, depth: int) -> LayerPlan | Method:
    """What methods share that run prompts alike: the plan, or the method itself where positions of prompts choose."""
    asks = isinstance(method, Gate) and any(
        method.prompt_gated(layer, kind, depth) for layer in range(depth) for kind in ("attention", "feed")
    )
    return method if asks else method.prompt_plan(depth)


def at_last(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """States of x [M, P, D] at each row's last token [M, D]."""
    return x[torch.arange(x.shape[0], device=x.device), lengths - 1]


def ran(plans: Sequence[LayerPlan], depth: int, rows: int) -> torch.Tensor:
    """Bool [N, T, L]: anything of block l ran."""
    ran = torch.tensor([[a or f for a, f in zip(p.attention, p.feed, strict=True)] for p in plans], dtype=torch.bool)
    return ran.view(1, len(plans), depth).expand(rows, -1, -1)
