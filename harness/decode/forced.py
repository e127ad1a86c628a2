"""The teacher-forced pass under a method: every position as it would be computed when decoding, in one parallel pass.

Prompts run at full depth. A continuation's token j (0-based) is processed by decode step j+1, so its column runs the sublayers
that step would run: a scheduled block runs on the columns of the steps that run it (for a monotone schedule a prefix), and
with exits a row's frozen state feeds the K and V of the blocks above.

Padding stands on the right, where no real position sees it. Two ways lead to the same numbers: a schedule whose blocks run on
prefixes, over rows that share nothing, is one causal pass whose columns become fewer where blocks are skipped; anything else
runs the prompts first and then the continuations on their keys and values, so that a shared prompt is computed once.

Training computes its losses from the same pass: it may leave blocks out for some rows (`dropped`, layer dropout) and compute
blocks again on the way back instead of keeping what they computed (`through`, gradient checkpointing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from harness.decode.forced_joined import prefixes, run_joined
from harness.decode.prompt_pass import Forced, Started, Through, at_once, kept, ran, start
from harness.errors import BadInput
from harness.method import Exit, ExitState, Method
from harness.models.cache import Memory
from harness.models.decoder import Block, Context, Decoder
from harness.plan import LayerPlan, Step

Sublayer = Callable[[torch.Tensor, torch.Tensor | slice], torch.Tensor]
"""A sublayer on some columns: their states [N, C, D] and which columns they are."""


def force(
    decoder: Decoder,
    method: Method,
    prompts: torch.Tensor,
    prompt_lengths: torch.Tensor | None,
    targets: torch.Tensor,
    owners: torch.Tensor | None = None,
    *,
    expected_tokens: int,
    target_lengths: torch.Tensor | None = None,
    keep_blocks: bool = False,
    dropped: torch.Tensor | None = None,
    through: Through = at_once,
) -> Forced:
    """Teacher-forced pass of continuations under a method; several continuations may share one prompt.

    Args:
        decoder: the model.
        method: resolved method (`Method.resolve`).
        prompts: right-padded prompt ids [M, P].
        prompt_lengths: tokens of each prompt [M]; None when there is no padding.
        targets: right-padded continuation ids [N, T].
        owners: prompt row each continuation belongs to [N]; None when row n continues prompt n.
        expected_tokens: as the run's steps would say (`Step.expected_tokens`).
        target_lengths: tokens of each continuation [N]; None: all T. Nothing is computed beyond the furthest end of a row.
        keep_blocks: also keep the state after every block.
        dropped: bool [M, L], blocks that a prompt and all its continuations leave out (layer dropout); None: none.
        through: how blocks are called; training may compute them again on the way back.

    Raises:
        BadInput: the method says that it cannot be scored.
    """
    plans = _plans(decoder, method, prompts.shape[1], targets.shape[1], expected_tokens)
    if owners is None and not keep_blocks and not isinstance(method, Exit):
        counts = prefixes(plans, decoder.depth)
        if counts is not None:
            lengths = prompt_lengths, target_lengths
            return run_joined(decoder, prompts, targets, lengths, plans, counts, dropped, through)
    started = start(decoder, prompts, prompt_lengths, keep_blocks, dropped=dropped, through=through)
    return _proceed(decoder, method, started, targets, owners, plans, expected_tokens, keep_blocks, through)


def proceed(
    decoder: Decoder,
    method: Method,
    started: Started,
    targets: torch.Tensor,
    owners: torch.Tensor | None = None,
    *,
    expected_tokens: int,
    keep_blocks: bool = False,
    through: Through = at_once,
) -> Forced:
    """Continuations of prompts that were run; arguments as in `force`. A `Started` may be continued any number of times."""
    plans = _plans(decoder, method, started.hidden.shape[1], targets.shape[1], expected_tokens)
    return _proceed(decoder, method, started, targets, owners, plans, expected_tokens, keep_blocks, through)


def _proceed(
    decoder: Decoder,
    method: Method,
    started: Started,
    targets: torch.Tensor,
    owners: torch.Tensor | None,
    plans: Sequence[LayerPlan],
    expected_tokens: int,
    keep_blocks: bool,
    through: Through,
) -> Forced:
    device = targets.device
    n, t = targets.shape
    width = started.hidden.shape[1]
    if not t:
        nothing = started.hidden.new_empty(n, 0, started.hidden.shape[2])
        return Forced(started.hidden, started.last, nothing, ran(plans, decoder.depth, n), started.blocks)
    lengths = started.lengths if owners is None else started.lengths[owners]
    seen = torch.arange(width, device=device) < lengths.unsqueeze(1)
    if bool(seen.all()):
        seen = seen[:1]
    positions = lengths.unsqueeze(1) + torch.arange(t, device=device)
    # Only padding can lie beyond the last position the model knows; callers check the real lengths.
    positions = positions.clamp_max(decoder.geometry.max_positions - 1)
    causal = torch.ones(t, t, dtype=torch.bool, device=device).tril()
    rows = seen.shape[0]
    mask = torch.cat((seen[:, None, None, :].expand(rows, 1, t, width), causal.expand(rows, 1, t, t)), dim=3)
    memory = started.memory.continued(owners)
    x = decoder.embed(targets, positions)
    dropped = started.dropped if started.dropped is None or owners is None else started.dropped[owners]
    if isinstance(method, Exit):
        assert dropped is None, "layer dropout is for whole plans; an exit gate decides by itself"
        run = _run_exits(decoder, method, memory, x, positions, mask, expected_tokens, through)
    else:
        run = _run_plans(decoder, memory, x, positions, mask, plans, keep_blocks, dropped, through)
    return Forced(
        started.hidden, started.last, run.target_hidden, run.layers, started.blocks, target_blocks=run.target_blocks
    )


def _plans(decoder: Decoder, method: Method, width: int, steps: int, expected_tokens: int) -> list[LayerPlan]:
    """The plan of each of a continuation's steps."""
    if method.cannot_score:
        raise BadInput(f"{method.name}: cannot be scored: {method.cannot_score}")
    return [method.plan(Step(k, expected_tokens), width, decoder.depth) for k in range(1, steps + 1)]


@dataclass
class _Run:
    target_hidden: torch.Tensor
    layers: torch.Tensor
    target_blocks: list[torch.Tensor]


def _run_plans(
    decoder: Decoder,
    memory: Memory,
    x: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    plans: Sequence[LayerPlan],
    keep_blocks: bool,
    dropped: torch.Tensor | None,
    through: Through,
) -> _Run:
    def whole(entry: torch.Tensor, block: Block) -> torch.Tensor:
        attends, feeds = [p.attention[block.index] for p in plans], [p.feed[block.index] for p in plans]

        def attend(part: torch.Tensor, columns: torch.Tensor | slice) -> torch.Tensor:
            count = part.shape[1]
            context = Context(positions[:, columns], mask[:, :, :count, : mask.shape[3] - mask.shape[2] + count])
            return block.attend(part, memory, context)

        if attends == feeds:
            return _on_columns(entry, attends, lambda part, columns: block.feed(attend(part, columns), part))
        y = _on_columns(entry, attends, attend)
        return _on_columns(y, feeds, lambda part, columns: block.feed(part, entry[:, columns]))

    blocks: list[torch.Tensor] = []
    for layer, block in enumerate(decoder.blocks):
        if any(p.attention[layer] or p.feed[layer] for p in plans):
            x = kept(x, through(partial(whole, block=block), x), dropped, layer)
        if keep_blocks:
            blocks.append(x)
    return _Run(x, ran(plans, decoder.depth, x.shape[0]), blocks)


def _on_columns(x: torch.Tensor, runs: list[bool], sublayer: Sublayer) -> torch.Tensor:
    """Apply a sublayer to the columns of x [N, T, D] that run it; the others pass by unchanged."""
    count = sum(runs)
    if count == 0:
        return x
    if count == len(runs):
        return sublayer(x, slice(None))
    if all(runs[:count]):
        return torch.cat((sublayer(x[:, :count].contiguous(), slice(0, count)), x[:, count:]), dim=1)
    columns = torch.tensor([i for i, run in enumerate(runs) if run], device=x.device)
    return x.index_copy(1, columns, sublayer(x.index_select(1, columns), columns))


def _run_exits(
    decoder: Decoder,
    method: Exit,
    memory: Memory,
    x: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    expected_tokens: int,
    through: Through,
) -> _Run:
    n, t, _ = x.shape
    depth = decoder.depth
    context = Context(positions, mask)
    step = torch.arange(1, t + 1, device=x.device).expand(n, t).flatten()
    state = ExitState(decoder.head, decoder.extras, step, expected_tokens)
    running = torch.ones(n * t, dtype=torch.bool, device=x.device)
    layers = torch.zeros(n, t, depth, dtype=torch.bool)

    def whole(entry: torch.Tensor, block: Block, places: torch.Tensor) -> torch.Tensor:
        # Exited positions keep their state; their K and V at this block come from it, which is state propagation. The feed
        # sublayer is a function of each position alone: only those still running compute it.
        y = block.attend(entry, memory, context)
        if len(places) == n * t:
            return block.feed(y, entry)
        flat = entry.flatten(0, 1)
        fed = block.feed(y.flatten(0, 1)[places].unsqueeze(0), flat[places].unsqueeze(0))
        return flat.index_copy(0, places, fed[0]).view_as(entry)

    for layer, block in enumerate(decoder.blocks):
        layers[:, :, layer] = running.view(n, t).cpu()
        places = running.nonzero().squeeze(1)
        if not len(places):
            break
        state.advance(x.flatten(0, 1))
        x = through(partial(whole, block=block, places=places), x)
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
        BadInput: shapes or lengths do not fit each other or the model, or the method cannot be scored.
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
    after = lengths.unsqueeze(1) + torch.arange(longest, device=input_ids.device)
    targets = input_ids.gather(1, after.clamp_max(total - 1))
    method = method.resolve(decoder.depth, decoder.extras)
    with torch.inference_mode():
        forced = force(
            decoder,
            method,
            input_ids[:, :width],
            lengths,
            targets,
            expected_tokens=expected,
            target_lengths=total - lengths,
        )
        hidden = torch.cat((forced.prompt_hidden, forced.target_hidden), dim=1)
        column = torch.arange(total, device=input_ids.device).expand(rows, total)
        place = torch.where(column < lengths.unsqueeze(1), column, column + (width - lengths).unsqueeze(1))
        return decoder.head(hidden.gather(1, place.unsqueeze(2).expand(-1, -1, hidden.shape[2])))
