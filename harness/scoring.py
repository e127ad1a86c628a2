"""The teacher-forced pass under a method: every position as it would be computed when decoding, in one parallel pass.

Prompts run at full depth. A continuation's token j (0-based) is processed by decode step j+1, so its column runs the sublayers
that step would run: a scheduled block runs on the columns of the steps that run it (for a monotone schedule a prefix), and
with exits a row's frozen state feeds the K and V of the blocks above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from harness.cache import ForcedMemory, Memory
from harness.errors import BadInput
from harness.method import Exit, ExitState, Method, Moment
from harness.models.decoder import Block, Context, Decoder
from harness.plan import LayerPlan, Step

Through = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]
"""How a function of hidden states is called: at once, or so that it is computed again on the way back."""


def at_once(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Call the function."""
    return function(x)


@dataclass
class Forced:
    """Result of one teacher-forced pass: M prompts of width P, N continuations of width T.

    Attributes:
        prompt_hidden: state after the last block at the prompt columns [M, P, D] (left-padded).
        target_hidden: the same at the continuation columns [N, T, D], the exit state where a position exited.
        layers: bool [N, T, L], block l ran at the position.
        prompt_blocks: state after every block at each prompt's last column, [M, D] each, if asked for.
        target_blocks: state after every block at the continuation columns, [N, T, D] each, if asked for.
    """

    prompt_hidden: torch.Tensor
    target_hidden: torch.Tensor
    layers: torch.Tensor
    prompt_blocks: list[torch.Tensor] = field(default_factory=list)
    target_blocks: list[torch.Tensor] = field(default_factory=list)


def run_prompt(
    decoder: Decoder,
    memory: Memory,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    after_block: Callable[[torch.Tensor], None] | None = None,
    *,
    dropped: torch.Tensor | None = None,
    through: Through = at_once,
) -> torch.Tensor:
    """All blocks over left-padded prompts `ids` [M, P] (`mask` [M, P], None without padding); K and V go to `memory`.

    Training may leave blocks out for some rows (`dropped`, bool [M, L]) and compute blocks again on the way back (`through`).
    Returns the state after the last block [M, P, D]. The one place where prompts are computed.
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
    for block in decoder.blocks:
        # The block is bound now: a call on the way back must not meet the loop's last one.
        y = through(lambda z, block=block: block.feed(block.attend(z, memory, context), z), x)  # type: ignore[misc]
        x = _kept(x, y, dropped, block.index)
        if after_block is not None:
            after_block(x)
    return x


def _kept(x: torch.Tensor, y: torch.Tensor, dropped: torch.Tensor | None, layer: int) -> torch.Tensor:
    """Output y [R, T, D] of a block, its input x in the rows that leave it out (`dropped` [R, L])."""
    return y if dropped is None else torch.where(dropped[:, layer, None, None], x, y)


def force(
    decoder: Decoder,
    method: Method,
    prompts: torch.Tensor,
    prompt_mask: torch.Tensor | None,
    targets: torch.Tensor,
    owners: torch.Tensor | None = None,
    *,
    expected_tokens: int,
    keep_blocks: bool = False,
    dropped: torch.Tensor | None = None,
    through: Through = at_once,
) -> Forced:
    """Teacher-forced pass of continuations under a method; several continuations may share one prompt.

    Args:
        decoder: the model.
        method: resolved method (`Method.resolve`).
        prompts: left-padded prompt ids [M, P].
        prompt_mask: 1 for real tokens [M, P]; None when there is no padding.
        targets: right-padded continuation ids [N, T].
        owners: prompt row each continuation belongs to [N]; None when row n continues prompt n.
        expected_tokens: as the run's steps would say (`Step.expected_tokens`).
        keep_blocks: also keep the state after every block.
        dropped: bool [M, L], blocks that a prompt and all its continuations leave out (layer dropout); None: none.
        through: how blocks are called; training may compute them again on the way back.
    """
    device = targets.device
    if owners is None:
        owners = torch.arange(targets.shape[0], device=device)
    memory = ForcedMemory(decoder.depth)
    prompt_blocks: list[torch.Tensor] = []
    keep = (lambda x: prompt_blocks.append(x[:, -1])) if keep_blocks else None
    prompt_hidden = run_prompt(decoder, memory, prompts, prompt_mask, keep, dropped=dropped, through=through)
    memory = memory.continued(owners)

    n, t = targets.shape
    width = prompts.shape[1]
    seen = torch.ones_like(prompts, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
    positions = seen.sum(1)[owners].unsqueeze(1) + torch.arange(t, device=device)
    # Only padding can lie beyond the last position the model knows; callers check the real lengths.
    positions = positions.clamp_max(decoder.geometry.max_positions - 1)
    causal = torch.ones(t, t, dtype=torch.bool, device=device).tril()
    mask = torch.cat((seen[owners][:, None, None, :].expand(n, 1, t, width), causal.expand(n, 1, t, t)), dim=3)
    x = decoder.embed(targets, positions)
    steps = [Step(k, expected_tokens) for k in range(1, t + 1)]
    plans = [method.plan(step, width, decoder.depth) for step in steps]
    if isinstance(method, Exit):
        assert dropped is None, "layer dropout is for whole plans; an exit gate decides by itself"
        run = _run_exits(decoder, method, memory, x, positions, mask, plans, expected_tokens)
    else:
        dropped = None if dropped is None else dropped[owners]
        run = _run_plans(decoder, memory, x, positions, mask, plans, keep_blocks, dropped, through)
    return Forced(prompt_hidden, run.target_hidden, run.layers, prompt_blocks, run.target_blocks)


Sublayer = Callable[[torch.Tensor, torch.Tensor | slice], torch.Tensor]


@dataclass
class _Run:
    target_hidden: torch.Tensor
    layers: torch.Tensor
    target_blocks: list[torch.Tensor]


def _run_plans(
    decoder: Decoder,
    memory: ForcedMemory,
    x: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    plans: list[LayerPlan],
    keep_blocks: bool,
    dropped: torch.Tensor | None,
    through: Through,
) -> _Run:
    blocks: list[torch.Tensor] = []
    for layer, block in enumerate(decoder.blocks):

        def attend(part: torch.Tensor, columns: torch.Tensor | slice, block: Block = block) -> torch.Tensor:
            count = part.shape[1]
            context = Context(positions[:, columns], mask[:, :, :count, : mask.shape[3] - mask.shape[2] + count])
            return block.attend(part, memory, context)

        def whole(
            entry: torch.Tensor, layer: int = layer, block: Block = block, attend: Sublayer = attend
        ) -> torch.Tensor:
            y = _on_columns(entry, [p.attention[layer] for p in plans], attend)
            return _on_columns(y, [p.feed[layer] for p in plans], lambda part, at: block.feed(part, entry[:, at]))

        if any(p.attention[layer] or p.feed[layer] for p in plans):
            x = _kept(x, through(whole, x), dropped, layer)
        if keep_blocks:
            blocks.append(x)
    ran = torch.tensor([[a or f for a, f in zip(p.attention, p.feed, strict=True)] for p in plans])
    return _Run(x, ran.unsqueeze(0).expand(x.shape[0], -1, -1), blocks)


def _on_columns(x: torch.Tensor, runs: list[bool], sublayer: Sublayer) -> torch.Tensor:
    """Apply a sublayer to the columns of x [N, T, D] that run it; the others pass by unchanged."""
    count = sum(runs)
    if count == 0:
        return x
    if count == len(runs):
        return sublayer(x, slice(None))
    if all(runs[:count]):
        return torch.cat((sublayer(x[:, :count], slice(0, count)), x[:, count:]), dim=1)
    columns = torch.tensor([i for i, run in enumerate(runs) if run], device=x.device)
    return x.index_copy(1, columns, sublayer(x.index_select(1, columns), columns))


def _run_exits(
    decoder: Decoder,
    method: Exit,
    memory: ForcedMemory,
    x: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    plans: list[LayerPlan],
    expected_tokens: int,
) -> _Run:
    n, t, _ = x.shape
    depth = decoder.depth
    context = Context(positions, mask)
    step = torch.arange(1, t + 1, device=x.device).expand(n, t).flatten()
    state = ExitState(decoder.head, decoder.extras, step, expected_tokens)
    running = torch.ones(n * t, dtype=torch.bool, device=x.device)
    layers = torch.zeros(n, t, depth, dtype=torch.bool)
    for layer, block in enumerate(decoder.blocks):
        layers[:, :, layer] = running.view(n, t).cpu()
        if not running.any():
            continue
        state.advance(x.flatten(0, 1))
        # Exited positions keep their state; their K and V at this block come from it, which is state propagation.
        x = torch.where(running.view(n, t, 1), block.feed(block.attend(x, memory, context), x), x)
        if method.tests(layer, depth):
            running = running & ~method.should_exit(layer, x.flatten(0, 1), state)
    return _Run(x, layers, [])


def score(
    decoder: Decoder,
    method: Method,
    input_ids: torch.Tensor,
    prompt_lengths: torch.Tensor | list[int],
    *,
    expected_tokens: int | None = None,
) -> torch.Tensor:
    """Logits [B, T, V] of every position, each computed as the method would have when decoding.

    Position j of row b belongs to the prompt (full depth) when j < prompt_lengths[b]; later positions are decode steps
    1, 2, .... Rows may be right-padded with any token: a position never depends on what follows it.

    Args:
        decoder: model from `load_model`.
        method: from `methods.create`.
        input_ids: [B, T], right-padded.
        prompt_lengths: tokens of each row that are prompt, 1..T, [B].
        expected_tokens: as in `generate`; default the longest continuation here plus one.

    Raises:
        BadInput: shapes or lengths do not fit each other or the model.
    """
    if input_ids.dim() != 2 or not input_ids.numel():
        raise BadInput(f"input_ids: shape {tuple(input_ids.shape)}; give [batch, tokens] with at least one of each")
    lengths = torch.as_tensor(prompt_lengths, device=input_ids.device)
    rows, total = input_ids.shape
    if lengths.shape != (rows,) or bool((lengths < 1).any()) or bool((lengths > total).any()):
        raise BadInput(
            f"prompt_lengths: {lengths.tolist()}; give one length from 1 to {total} for each of the {rows} rows"
        )
    if total > decoder.geometry.max_positions:
        raise BadInput(f"input_ids: {total} tokens but the model has {decoder.geometry.max_positions} positions")
    width = int(lengths.max())
    longest = total - int(lengths.min())
    expected = expected_tokens or longest + 1
    column = torch.arange(width, device=input_ids.device)
    source = column - (width - lengths).unsqueeze(1)  # left-padded prompts: where each column comes from
    prompts = input_ids.gather(1, source.clamp_min(0))
    prompt_mask = source >= 0
    after = lengths.unsqueeze(1) + torch.arange(max(longest, 1), device=input_ids.device)
    targets = input_ids.gather(1, after.clamp_max(total - 1))
    method = method.resolve(decoder.depth, decoder.extras)
    with torch.inference_mode():
        forced = force(
            decoder,
            method,
            prompts,
            None if bool(prompt_mask.all()) else prompt_mask,
            targets,
            expected_tokens=expected,
        )
        hidden = torch.cat((forced.prompt_hidden, forced.target_hidden), dim=1)
        place = torch.arange(total, device=input_ids.device) + (width - lengths).unsqueeze(1)
        return decoder.head(hidden.gather(1, place.unsqueeze(2).expand(-1, -1, hidden.shape[2])))


@dataclass
class TrainingPass:
    """A differentiable teacher-forced pass with its labels, as `TrainingStage.loss` sees it.

    Attributes:
        decoder: the model being trained.
        forced: the pass; its targets are the continuations without their last token.
        owners: prompt row of each continuation [N].
        labels: the continuations themselves [N, T+1]; column 0 is predicted from the prompt's last column.
        real: bool [N, T+1], False at padding.
        extras: extra tensors being trained, by name.
        moment: where the training stands.
        through: how the head is called.
    """

    decoder: Decoder
    forced: Forced
    owners: torch.Tensor
    labels: torch.Tensor
    real: torch.Tensor
    extras: dict[str, torch.Tensor]
    moment: Moment = Moment(0, 1)
    through: Through = at_once

    def states(self, layer: int | None = None) -> torch.Tensor:
        """States [R, D] that predict the R real labels: after block `layer`, or the final ones."""
        if layer is None:
            first, rest = self.forced.prompt_hidden[:, -1], self.forced.target_hidden
        else:
            first, rest = self.forced.prompt_blocks[layer], self.forced.target_blocks[layer]
        return torch.cat((first[self.owners].unsqueeze(1), rest), dim=1)[self.real]

    def loss_at(self, layer: int | None = None) -> torch.Tensor:
        """Mean cross-entropy of the real labels, predicted by the model's own head from the state after block `layer`."""
        labels = self.labels[self.real]
        return self.through(lambda x: F.cross_entropy(self.decoder.head(x).float(), labels), self.states(layer))

    def final_loss(self) -> torch.Tensor:
        """Mean cross-entropy after the last block."""
        return self.loss_at(None)
