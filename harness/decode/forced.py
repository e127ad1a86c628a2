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

from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch

from harness.decode.arguments import check_finite, check_plans
from harness.decode.forced_joined import prefixes, run_joined
from harness.decode.gated_pass import joined
from harness.decode.prompt_pass import Forced, Started, Through, around, at_once, begun, ran, start
from harness.errors import BadInput
from harness.method import Gate, Method
from harness.models.block import Columns, Context
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Skip, Step


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
    training: bool = False,
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
        through: how blocks are called; training may compute them again on the way back (not under a gate: its answers stand).
        training: a gate's openness is differentiated, and what it was asked is kept.

    Raises:
        BadInput: the method says that it cannot be scored.
    """
    plans = _plans(decoder, method, prompts.shape[1], targets.shape[1], expected_tokens)
    if owners is None and not keep_blocks and not isinstance(method, Gate):
        counts = prefixes(method.prompt_plan(decoder.depth), plans)
        if counts is not None:
            lengths = prompt_lengths, target_lengths
            return run_joined(decoder, prompts, targets, lengths, plans, counts, dropped, through)
    started = start(
        *(decoder, method, prompts, prompt_lengths, keep_blocks),
        expected_tokens=expected_tokens,
        dropped=dropped,
        through=through,
        training=training,
    )
    return _proceed(
        *(decoder, method, started, targets, owners, plans, expected_tokens, keep_blocks, through),
        target_lengths,
        training,
    )


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
    target_lengths: torch.Tensor | None = None,
    training: bool = False,
) -> Forced:
    device = targets.device
    n, t = targets.shape
    width = started.hidden.shape[1]
    if not t:
        nothing = started.hidden.new_empty(n, 0, started.hidden.shape[2])
        return Forced(
            *(started.hidden, started.last, nothing, ran(plans, decoder.depth, n), started.blocks),
            prompt_ran=started.ran,
        )
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
    x, context = decoder.embed(targets, positions), Context(positions, mask)
    dropped = started.dropped if started.dropped is None or owners is None else started.dropped[owners]
    blocks: list[torch.Tensor] = []
    if isinstance(method, Gate):
        assert dropped is None, "layer dropout is for whole plans; a gate decides by itself"
        gating = started.gating
        if gating is None or (gating.gate, gating.expected_tokens) != (method, expected_tokens):
            gating = begun(decoder, method, started.prompts, started.lengths, expected_tokens, training)
        real = None if target_lengths is None else torch.arange(t, device=device) < target_lengths.unsqueeze(1)
        walk = gating.targets(memory, context, x, seen, owners, real)
        gates = joined(started.walk.questions if started.walk is not None else (), walk.questions)
        return Forced(
            *(started.hidden, started.last, walk.hidden, walk.layers, started.blocks),
            gates=gates,
            prompt_ran=started.ran,
        )
    runs = around(through, dropped, blocks.append if keep_blocks else None)
    hidden = decoder.run_blocks(_operations(plans, context, keep_blocks), x, memory, context, runs)
    layers = ran(plans, decoder.depth, n)
    return Forced(started.hidden, started.last, hidden, layers, started.blocks, target_blocks=blocks)


def _plans(decoder: Decoder, method: Method, width: int, steps: int, expected_tokens: int) -> list[LayerPlan]:
    """The plan of each of a continuation's steps."""
    if method.cannot_score:
        raise BadInput(f"{method.name}: cannot be scored: {method.cannot_score}")
    plans = [method.plan(Step(k, expected_tokens), width, decoder.depth) for k in range(1, steps + 1)]
    check_plans(method, decoder.depth, method.prompt_plan(decoder.depth), plans)
    return plans


def _operations(
    plans: Sequence[LayerPlan], context: Context, every: bool
) -> Iterator[tuple[int, bool | Skip | Columns, bool | Skip | Columns]]:
    """What each block runs: a sublayer on the columns of the steps that run it. Blocks that run nothing only where `every` asks."""
    chosen = cache(partial(_some_columns, context))
    plain = not any(p.scale for p in plans)
    ones = (1.0,) * len(plans)
    for layer in range(plans[0].depth):
        runs = [tuple(getattr(p, sublayer)[layer] for p in plans) for sublayer in ("attention", "feed")]
        factors = [
            ones if plain else tuple(_factor(p, 2 * layer + i, r) for p, r in zip(plans, runs[i], strict=True))
            for i in (0, 1)
        ]
        attends = chosen(runs[0], tuple(p.stores[layer] for p in plans), factors[0])
        feeds = chosen(runs[1], runs[1], factors[1])
        if every or attends is not False or feeds is not False:
            yield layer, attends, feeds


def _factor(plan: LayerPlan, sublayer: int, runs: bool) -> float:
    """What a plan multiplies the state by where its sublayer (of 2 L) does not run."""
    return 1.0 if runs or not plan.scale else plan.scale[sublayer]


def _some_columns(
    context: Context, runs: tuple[bool, ...], stores: tuple[bool, ...], factors: tuple[float, ...]
) -> bool | Skip | Columns:
    """The columns [T] of a continuation that run a sublayer: all, none, or some under the context that they have.

    `stores` are those whose keys and values the sublayer stores, all that run it among them; `factors` scale the others.
    """
    assert context.mask is not None, "continuations have one"
    count, total = sum(stores), len(runs)
    scale = None
    if any(factor != 1 for factor in factors):
        scale = torch.tensor(factors, device=context.mask.device).unsqueeze(1)
    if not any(runs):
        # What none of these columns looks at need not be stored.
        return False if scale is None else Skip(scale)
    if all(runs):
        return True
    mask = context.mask[:, :, :count, : context.mask.shape[3] - total + count]
    if runs == stores and all(runs[:count]):
        return Columns(
            lambda x: x[:, :count].contiguous(),
            lambda new, old: torch.cat((new, old[:, count:]), dim=1),
            Context(context.positions[:, :count], mask),
            scale,
        )
    columns = torch.tensor([i for i, stored in enumerate(stores) if stored], device=mask.device)
    inside = torch.tensor([run for run, stored in zip(runs, stores, strict=True) if stored], device=mask.device)
    return Columns(
        lambda x: x.index_select(1, columns),
        lambda new, old: old.index_copy(1, columns[inside], new[:, inside]),
        Context(context.positions[:, columns], mask),
        scale,
    )


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
        CellFailed: logits are not finite.
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
    with torch.inference_mode(), decoder.lock:
        decoder.renew()
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
        logits = decoder.head(hidden.gather(1, place.unsqueeze(2).expand(-1, -1, hidden.shape[2])))
        check_finite(logits, "logits")
        return logits
