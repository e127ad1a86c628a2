"""The teacher-forced pass under a method: every position as it would be computed when decoding, in one parallel pass.

Prompts run at full depth. A continuation's token j (0-based) is processed by decode step j+1, so its column runs the sublayers
that step would run: a scheduled block runs on the columns of the steps that run it (for a monotone schedule a prefix), and
with exits a row's frozen state feeds the K and V of the blocks above.

Padding stands on the right, where no real position sees it. Two ways lead to the same numbers: a schedule whose blocks run on
prefixes, over rows that share nothing, is one causal pass whose columns become fewer where blocks are skipped; anything else
runs the prompts first and then the continuations on their keys and values, so that a shared prompt is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from harness.cache import ForcedMemory, Memory
from harness.errors import BadInput
from harness.method import Exit, ExitState, Method
from harness.models.decoder import Block, Context, Decoder
from harness.plan import LayerPlan, Step


@dataclass
class Started:
    """Prompts that were run, M of them of width P, for continuations to start from.

    Attributes:
        memory: their keys and values.
        hidden: state after the last block [M, P, D], right-padded.
        lengths: tokens of each prompt [M].
        blocks: state after every block at each prompt's last token, [M, D] each, if asked for.
    """

    memory: ForcedMemory
    hidden: torch.Tensor
    lengths: torch.Tensor
    blocks: list[torch.Tensor] = field(default_factory=list)

    @property
    def last(self) -> torch.Tensor:
        """State after the last block at each prompt's last token [M, D]."""
        return _at_last(self.hidden, self.lengths)


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
    after_block: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """All blocks over prompts `ids` [M, P]; K and V go to `memory`. The one place where prompts are computed.

    Args:
        decoder: the model.
        memory: of the prompts.
        ids: left-padded where `mask` says so; without a mask right-padded or not at all.
        mask: 1 for real tokens [M, P], None without padding on the left.
        after_block: is given the state after every block.

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
    for block in decoder.blocks:
        x = block.feed(block.attend(x, memory, context), x)
        if after_block is not None:
            after_block(x)
    return x


def start(
    decoder: Decoder, prompts: torch.Tensor, lengths: torch.Tensor | None = None, keep_blocks: bool = False
) -> Started:
    """Run prompts [M, P] at full depth, right-padded to the tokens `lengths` [M] says (None: no padding)."""
    if lengths is None:
        lengths = torch.full((prompts.shape[0],), prompts.shape[1], device=prompts.device)
    memory = ForcedMemory(decoder.depth)
    blocks: list[torch.Tensor] = []
    keep = (lambda x: blocks.append(_at_last(x, lengths))) if keep_blocks else None
    hidden = run_prompt(decoder, memory, prompts, None, keep)
    return Started(memory, hidden, lengths, blocks)


def _at_last(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(x.shape[0], device=x.device), lengths - 1]


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

    Raises:
        BadInput: the method says that it cannot be scored.
    """
    plans = _plans(decoder, method, prompts.shape[1], targets.shape[1], expected_tokens)
    if owners is None and not keep_blocks and not isinstance(method, Exit):
        counts = _prefixes(plans, decoder.depth)
        if counts is not None:
            return _run_joined(decoder, prompts, prompt_lengths, targets, target_lengths, plans, counts)
    started = start(decoder, prompts, prompt_lengths, keep_blocks)
    return proceed(decoder, method, started, targets, owners, expected_tokens=expected_tokens, keep_blocks=keep_blocks)


def proceed(
    decoder: Decoder,
    method: Method,
    started: Started,
    targets: torch.Tensor,
    owners: torch.Tensor | None = None,
    *,
    expected_tokens: int,
    keep_blocks: bool = False,
) -> Forced:
    """Continuations of prompts that were run; arguments as in `force`. A `Started` may be continued any number of times."""
    device = targets.device
    n, t = targets.shape
    width = started.hidden.shape[1]
    plans = _plans(decoder, method, width, t, expected_tokens)
    if not t:
        nothing = started.hidden.new_empty(n, 0, started.hidden.shape[2])
        return Forced(started.hidden, started.last, nothing, _ran(plans, decoder.depth, n), started.blocks)
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
    if isinstance(method, Exit):
        run = _run_exits(decoder, method, memory, x, positions, mask, expected_tokens)
    else:
        run = _run_plans(decoder, memory, x, positions, mask, plans, keep_blocks)
    return Forced(
        started.hidden, started.last, run.target_hidden, run.layers, started.blocks, target_blocks=run.target_blocks
    )


def _plans(decoder: Decoder, method: Method, width: int, steps: int, expected_tokens: int) -> list[LayerPlan]:
    """The plan of each of a continuation's steps."""
    if method.cannot_score:
        raise BadInput(f"{method.name}: cannot be scored: {method.cannot_score}")
    return [method.plan(Step(k, expected_tokens), width, decoder.depth) for k in range(1, steps + 1)]


def _ran(plans: Sequence[LayerPlan], depth: int, rows: int) -> torch.Tensor:
    """Bool [N, T, L]: anything of block l ran."""
    ran = torch.tensor([[a or f for a, f in zip(p.attention, p.feed, strict=True)] for p in plans], dtype=torch.bool)
    return ran.view(1, len(plans), depth).expand(rows, -1, -1)


def _prefixes(plans: Sequence[LayerPlan], depth: int) -> list[tuple[int, int]] | None:
    """For each block the leading steps that run its attention and its feed; None unless all steps that run one are leading."""
    counts = []
    for layer in range(depth):
        pair = []
        for runs in ([p.attention[layer] for p in plans], [p.feed[layer] for p in plans]):
            count = sum(runs)
            if not all(runs[:count]):
                return None
            pair.append(count)
        counts.append((pair[0], pair[1]))
    return counts


def _run_joined(
    decoder: Decoder,
    prompts: torch.Tensor,
    prompt_lengths: torch.Tensor | None,
    targets: torch.Tensor,
    target_lengths: torch.Tensor | None,
    plans: Sequence[LayerPlan],
    counts: Sequence[tuple[int, int]],
) -> Forced:
    """Prompts and continuations as one sequence per row, one causal pass over it.

    A sublayer runs on the prompt and the leading columns of the continuation that run it. What padding computes is never seen: a
    real query looks back only, and every column before it ran each block that it runs.
    """
    device = targets.device
    n, t = targets.shape
    width = prompts.shape[1]
    before = [width] * n if prompt_lengths is None else prompt_lengths.tolist()
    after = [t] * n if target_lengths is None else target_lengths.tolist()
    total = max(b + a for b, a in zip(before, after, strict=True))
    lengths = torch.tensor(before, device=device)
    level = min(before) == width
    columns = torch.arange(total, device=device)
    ids = F.pad(prompts, (0, total - width)) if total >= width else prompts[:, :total]
    if t:
        place = columns - lengths.unsqueeze(1)
        ids = torch.where(place >= 0, targets.gather(1, place.clamp(0, t - 1)), ids)
    positions = columns.clamp_max(decoder.geometry.max_positions - 1).expand(n, total)
    memory = ForcedMemory(decoder.depth)
    contexts: dict[int, tuple[Context, torch.Tensor | None]] = {}

    def scope(count: int) -> tuple[int, Context, torch.Tensor | None]:
        """Columns to compute where the first `count` steps run, their context, and which of them count (None: all)."""
        reach = total if count >= t else max(b + min(count, a) for b, a in zip(before, after, strict=True))
        if count not in contexts:
            counting = None if level or count >= t else (columns[:reach] < (lengths + count).unsqueeze(1)).unsqueeze(2)
            contexts[count] = Context(positions[:, :reach], causal=True), counting
        return reach, *contexts[count]

    def merged(new: torch.Tensor, old: torch.Tensor, counting: torch.Tensor | None) -> torch.Tensor:
        reach = new.shape[1]
        if counting is not None:
            new = torch.where(counting, new, old[:, :reach])
        return new if reach == total else torch.cat((new, old[:, reach:]), dim=1)

    x = decoder.embed(ids, positions)
    for block, (attends, feeds) in zip(decoder.blocks, counts, strict=True):
        entry = x
        reach, context, counting = scope(attends)
        part = x[:, :reach].contiguous()
        y = block.attend(part, memory, context)
        if attends == feeds:
            x = merged(block.feed(y, part), x, counting)
            continue
        x = merged(y, x, counting)
        reach, _, counting = scope(feeds)
        x = merged(block.feed(x[:, :reach].contiguous(), entry[:, :reach]), x, counting)
    after_prompt = (lengths.unsqueeze(1) + torch.arange(t, device=device)).clamp_max(total - 1)
    return Forced(
        x[:, :width],
        _at_last(x, lengths),
        x.gather(1, after_prompt.unsqueeze(2).expand(-1, -1, x.shape[2])),
        _ran(plans, decoder.depth, n),
    )


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
    plans: list[LayerPlan],
    keep_blocks: bool,
) -> _Run:
    blocks: list[torch.Tensor] = []
    for layer, block in enumerate(decoder.blocks):
        attends, feeds = [p.attention[layer] for p in plans], [p.feed[layer] for p in plans]

        def attend(part: torch.Tensor, columns: torch.Tensor | slice, block: Block = block) -> torch.Tensor:
            count = part.shape[1]
            context = Context(positions[:, columns], mask[:, :, :count, : mask.shape[3] - mask.shape[2] + count])
            return block.attend(part, memory, context)

        def feed(
            part: torch.Tensor, columns: torch.Tensor | slice, block: Block = block, entry: torch.Tensor = x
        ) -> torch.Tensor:
            return block.feed(part, entry[:, columns])

        def both(part: torch.Tensor, columns: torch.Tensor | slice, block: Block = block) -> torch.Tensor:
            return block.feed(attend(part, columns, block), part)

        same = attends == feeds
        x = _on_columns(x, attends, both if same else attend)
        x = x if same else _on_columns(x, feeds, feed)
        if keep_blocks:
            blocks.append(x)
    return _Run(x, _ran(plans, decoder.depth, x.shape[0]), blocks)


def _on_columns(
    x: torch.Tensor, runs: list[bool], sublayer: Callable[[torch.Tensor, torch.Tensor | slice], torch.Tensor]
) -> torch.Tensor:
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
        places = running.nonzero().squeeze(1)
        if not len(places):
            break
        state.advance(x.flatten(0, 1))
        # Exited positions keep their state; their K and V at this block come from it, which is state propagation. The feed
        # sublayer is a function of each position alone: only those still running compute it.
        y = block.attend(x, memory, context)
        if len(places) == n * t:
            x = block.feed(y, x)
        else:
            flat = x.flatten(0, 1)
            fed = block.feed(y.flatten(0, 1)[places].unsqueeze(0), flat[places].unsqueeze(0))
            x = flat.index_copy(0, places, fed[0]).view_as(x)
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


@dataclass
class TrainingPass:
    """A differentiable teacher-forced pass with its labels, as `TrainingStage.loss` sees it.

    Attributes:
        decoder: the model being trained.
        forced: the pass; its targets are the continuations without their last token.
        owners: prompt row of each continuation [N].
        labels: the continuations themselves [N, T+1]; column 0 is predicted from the prompt's last token.
        real: bool [N, T+1], False at padding.
        extras: extra tensors being trained, by name.
    """

    decoder: Decoder
    forced: Forced
    owners: torch.Tensor
    labels: torch.Tensor
    real: torch.Tensor
    extras: dict[str, torch.Tensor]

    def states(self, layer: int | None = None) -> torch.Tensor:
        """States [R, D] that predict the R real labels: after block `layer`, or the final ones."""
        if layer is None:
            first, rest = self.forced.prompt_last, self.forced.target_hidden
        else:
            first, rest = self.forced.prompt_blocks[layer], self.forced.target_blocks[layer]
        return torch.cat((first[self.owners].unsqueeze(1), rest), dim=1)[self.real]

    def loss_at(self, layer: int | None = None) -> torch.Tensor:
        """Mean cross-entropy of the real labels, predicted by the model's own head from the state after block `layer`."""
        return F.cross_entropy(self.decoder.head(self.states(layer)).float(), self.labels[self.real])

    def final_loss(self) -> torch.Tensor:
        """Mean cross-entropy after the last block."""
        return self.loss_at(None)
