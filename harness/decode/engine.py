"""The decode loop: prefill, then one step at a time. No clocks, no method names.

A `Decoding` is one generation of one batch. Its `prefill()` yields token 0 of every row, each `step()` one more (several, where
a method drafts and the model verifies); whoever wants times wraps those calls. The engine asks the method for a plan, runs it,
and records what ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.decode.arguments import check_generation
from harness.decode.gated import run_gated
from harness.decode.prompt_pass import run_prompt
from harness.decode.sampling import GREEDY, Sampling, StopStrings, noise_of_rows
from harness.decode.static import StaticSteps, steps_for
from harness.method import Draft, Exit, Method
from harness.models.decoder import Context, Decoder
from harness.plan import LayerPlan, Pass, Step, StepTrace, Trace


@dataclass(frozen=True)
class Output:
    """A finished generation.

    Attributes:
        tokens: generated ids [B, N]; rows that ended (end token included) are padded.
        lengths: generated tokens of each row [B], the end token counted.
        trace: what ran at every position.
        kv_cache_bytes: bytes the cache allocated.
        kv_written_bytes: bytes of it that hold the keys and values of some position.
        replayed: the steps were captured graphs, replayed; False: their functions were called.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    trace: Trace
    kv_cache_bytes: int
    kv_written_bytes: int
    replayed: bool


class Decoding:
    """One generation of one batch under a method.

    Args:
        decoder: the model.
        method: from `methods.create`.
        input_ids: prompts [B, P], left-padded where they differ in length.
        attention_mask: 1 for real tokens, 0 for padding on the left [B, P]; None when there is none.
        max_new_tokens: tokens to generate per row, at least 1.
        stop_at_eos: rows end with any of the model's end tokens; False generates `max_new_tokens` for every row.
        expected_tokens: what schedules reckon with (`Step.expected_tokens`); default `max_new_tokens`.
        sampling: how tokens are chosen; greedy unless said otherwise.
        noise: the stream of noise each row is sampled with [B]; None: those of the prompts, `sampling.streams`. Whoever divides
            requests into batches gives them, so that equal prompts in two batches get samples of their own.
        stop_strings: texts that end a row with the token that completes one of them.
        compact_exits: after rows have exited, go on with the others alone instead of computing all rows to the last one's exit.
        static: run steps on static buffers (`harness.decode.static`), which a GPU replays as graphs; None: on a GPU. Drafts and
            compacted exits, whose shapes change from step to step, have none.

    Raises:
        BadInput: before any compute, when an argument does not fit the others or the model.
    """

    def __init__(
        self,
        decoder: Decoder,
        method: Method,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        max_new_tokens: int = 64,
        stop_at_eos: bool = True,
        expected_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        noise: Sequence[int] | None = None,
        stop_strings: Sequence[str] = (),
        compact_exits: bool = False,
        static: bool | None = None,
    ) -> None:
        check_generation(decoder, input_ids, attention_mask, max_new_tokens, expected_tokens)
        self.decoder = decoder
        self.method = method.resolve(decoder.depth, decoder.extras)
        self.done = False
        self._ids = input_ids.to(decoder.device)
        padded = attention_mask is not None and not bool(attention_mask.all())
        self._mask = attention_mask.to(decoder.device).bool() if padded and attention_mask is not None else None
        self._max = max_new_tokens
        self._expected = expected_tokens or max_new_tokens
        self._sampling = sampling
        self._compact = compact_exits
        self._stops = StopStrings(stop_strings, decoder.tokenizer)
        rows, width = input_ids.shape
        self._noise = noise_of_rows(sampling, self._ids, self._mask, noise)
        self._plans, capacities = self._prepare_plans(width, max_new_tokens)
        # Only what exits has shapes that change from step to step; full and schedules keep their graphs under either setting.
        compacts = compact_exits and isinstance(self.method, Exit)
        fits = not isinstance(self.method, Draft) and not compacts
        self._static: StaticSteps | None = None
        if fits and (decoder.device.type == "cuda" if static is None else static):
            self._static = steps_for(self, decoder, rows, capacities, width)
        self._cache = decoder.new_cache(rows, capacities) if self._static is None else self._static.cache
        spare = self.method.draft_tokens + 1 if isinstance(self.method, Draft) else 0
        self._tokens = torch.full((rows, max_new_tokens + spare), decoder.pad_token_id, device=decoder.device)
        self._generated = 0
        self._counts = torch.zeros(rows, dtype=torch.long, device=decoder.device)
        self._lengths = torch.full((rows,), max_new_tokens, device=decoder.device)
        eos = decoder.eos_token_ids if stop_at_eos else ()
        self._eos = torch.tensor(eos, device=decoder.device) if eos else None
        self._ends = bool(eos) or bool(self._stops)
        self._ended = torch.zeros(rows, dtype=torch.bool, device=decoder.device)
        self._real = self._ids.new_full((rows,), width) if self._mask is None else self._mask.sum(1)
        self._next_position = self._real.unsqueeze(1)
        self._step_mask: torch.Tensor | None = None
        if self._mask is not None:
            later = self._mask.new_ones(rows, max(capacities) - width)
            self._step_mask = torch.cat((self._mask, later), dim=1)[:, None, None, :]
        self.trace = Trace(rows, decoder.depth, width, StepTrace(LayerPlan.full(decoder.depth), head_rows=rows))
        self.logits: torch.Tensor | None = None
        """[B, V] of the newest token of every row, as the method computed them; [B, T, V] of all columns a draft was verified
        at. On static buffers the next step overwrites them."""

    def _prepare_plans(self, width: int, max_new_tokens: int) -> tuple[list[LayerPlan], list[int]]:
        """The plan of every step of a schedule, and the positions each block's cache needs room for."""
        depth = self.decoder.depth
        if isinstance(self.method, Draft):
            return [], [width + max_new_tokens + self.method.draft_tokens] * depth
        if isinstance(self.method, Exit):
            return [], [width + max_new_tokens - 1] * depth
        # A schedule is known beforehand: a block needs room only for the positions that will run its attention.
        plans = [self.method.plan(Step(k, self._expected), width, depth) for k in range(1, max_new_tokens)]
        return plans, [width + sum(plan.attention[layer] for plan in plans) for layer in range(depth)]

    @torch.inference_mode()
    def prefill(self) -> int:
        """Run the prompts at full depth and yield token 0 of every row; returns the tokens yielded over the batch."""
        hidden = run_prompt(self.decoder, self._cache, self._ids, self._mask)
        if self._static is not None:
            self._static.start(self._next_position, self._mask)
        return self._emit(self.decoder.head(hidden[:, -1]))

    @torch.inference_mode()
    def step(self) -> int:
        """One decode step: process the newest token of every row, yield the next; returns tokens yielded over the batch."""
        if isinstance(self.method, Draft):
            return self._draft_and_verify(self.method)
        token = self._tokens[:, self._generated - 1 : self._generated]
        if isinstance(self.method, Exit):
            logits, record = self._gated(self.method, token)
        else:
            plan = self._plans[self._generated - 1]
            logits, record = self._planned(plan, token), StepTrace(plan, head_rows=token.shape[0])
        self.trace.steps.append(record)
        return self._emit(logits)

    def _planned(self, plan: LayerPlan, token: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] of one step of a schedule for tokens [B, 1]."""
        if self._static is not None:
            return self._static.run(plan, token)
        context = Context(self._next_position, self._step_mask)
        x = self._run(plan, self.decoder.embed(token, self._next_position), context)
        self._next_position = self._next_position + 1
        return self.decoder.head(x[:, 0])

    def _gated(self, gate: Exit, token: torch.Tensor) -> tuple[torch.Tensor, StepTrace]:
        """Logits [B, V] of one step whose rows may exit, for tokens [B, 1], and what ran."""
        static, step = self._static, Step(self._generated, self._expected)
        context = Context(self._next_position, self._step_mask)
        x = self.decoder.embed(token, self._next_position) if static is None else static.enter(token)
        found = run_gated(
            self.decoder, self._cache, gate, x, step, context, compact=self._compact and static is None, blocks=static
        )
        if static is not None:
            static.leave()
        self._next_position = self._next_position + 1
        return found

    def _run(self, plan: LayerPlan, x: torch.Tensor, context: Context, first: int = 0) -> torch.Tensor:
        """The plan's sublayers from block `first` on, over x [B, T, D]."""
        operations = plan.operations if not first else tuple(o for o in plan.operations if o[0] >= first)
        return self.decoder.run_plan(operations, x, self._cache, context)

    def _draft_and_verify(self, method: Draft) -> int:
        """Draft, run the full model over all drafted columns at once, keep what agrees and one token more."""
        decoder, depth = self.decoder, self.decoder.depth
        rows, width = self._ids.shape
        plan = method.draft_plan(depth)
        # Leading blocks that the draft runs whole compute what the full model computes there: their output is kept.
        shared = next(
            (i for i, (a, f) in enumerate(zip(plan.attention, plan.feed, strict=True)) if not (a and f)), depth
        )
        left = self._max - self._counts
        length = min(method.draft_tokens, int(left.max()) - 1)
        column = width + self._counts - 1
        token = self._tokens.gather(1, (self._counts - 1).unsqueeze(1))
        passes: list[Pass] = []
        states, drafts = [], [token]
        drafting = torch.ones(rows, dtype=torch.bool, device=token.device)
        drafted = torch.zeros_like(self._counts)
        for i in range(length):
            context, held = self._at(column + i, 1)
            x = decoder.embed(token, context.positions)
            x = self._run_blocks(x, context, 0, shared)
            states.append(x)
            logits = decoder.head(self._run(plan, x, context, shared)[:, 0])
            passes.append(Pass(plan, 1, held, rows, True))
            token = self._sampling.pick(logits, self._noise, self._counts + i).unsqueeze(1)
            drafts.append(token)
            drafted += drafting
            more = method.goes_on(logits)
            if more is not None:
                drafting = drafting & more
                if not bool(drafting.any()):
                    break
        count = len(drafts)
        context, held = self._at(column + count - 1, 1)
        if shared or count == 1:
            x = decoder.embed(token, context.positions)
            x = self._run_blocks(x, context, 0, shared)
            states.append(x)
            if shared:
                passes.append(Pass(LayerPlan.of(range(shared), depth), 1, held, 0, count > 1))
        context, held = self._at(column, count)
        x = torch.cat(states, dim=1) if shared or count == 1 else decoder.embed(torch.cat(drafts, 1), context.positions)
        logits = decoder.head(self._run_blocks(x, context, shared, depth))
        passes.append(Pass(LayerPlan.of(range(shared, depth), depth), count, held, rows * count, False))
        return self._accept(logits, torch.cat(drafts[1:], 1) if count > 1 else None, drafted, left, passes)

    def _run_blocks(self, x: torch.Tensor, context: Context, first: int, end: int) -> torch.Tensor:
        """Blocks `first` .. `end` - 1 whole."""
        operations = tuple((layer, True, True) for layer in range(first, end))
        return self.decoder.run_plan(operations, x, self._cache, context)

    def _at(self, column: torch.Tensor, count: int) -> tuple[Context, int]:
        """Context of `count` columns of every row from `column` [B] on, the cache made to write there; and the keys seen."""
        width = self._ids.shape[1]
        lowest, highest = int(column.min()), int(column.max())
        level = lowest == highest
        held = self._cache.seek(lowest if level else column, count)
        columns = column.unsqueeze(1) + torch.arange(count, device=column.device)
        # Rows that are done are computed along; what lies beyond the last position is theirs, or will be thrown away.
        positions = (self._real.unsqueeze(1) + columns - width).clamp_max(self.decoder.geometry.max_positions - 1)
        if level and count == 1 and self._mask is None:
            return Context(positions), held
        seen = torch.arange(held, device=column.device) <= columns.unsqueeze(2)
        if self._step_mask is not None:
            seen = seen & self._step_mask[:, 0, :, :held]
        return Context(positions, seen.unsqueeze(1)), held

    def _accept(
        self,
        logits: torch.Tensor,
        drafts: torch.Tensor | None,
        drafted: torch.Tensor,
        left: torch.Tensor,
        passes: list[Pass],
    ) -> int:
        """Take the full model's tokens up to and with the first that differs from the draft; logits [B, T, V]."""
        rows, count, _ = logits.shape
        places = self._counts.unsqueeze(1) + torch.arange(count, device=logits.device)
        chosen = self._sampling.pick(logits.flatten(0, 1), self._noise.repeat_interleave(count), places.flatten())
        chosen = chosen.view(rows, count)
        agreed = torch.zeros_like(self._counts)
        if drafts is not None:
            same = (chosen[:, :-1] == drafts) & (torch.arange(count - 1, device=logits.device) < drafted.unsqueeze(1))
            agreed = same.long().cumprod(1).sum(1)
        got = torch.minimum(agreed + 1, left)
        got = torch.where(self._ended, 0, got)
        if self._eos is not None:
            ends = torch.isin(chosen, self._eos)
            first = torch.where(ends.any(1), ends.long().argmax(1) + 1, count + 1)
            self._ended = self._ended | (first <= got)
            got = torch.minimum(got, first)
        taken = torch.arange(count, device=logits.device) < got.unsqueeze(1)
        self._tokens.scatter_(1, places, torch.where(taken, chosen, self.decoder.pad_token_id))
        self._counts = self._counts + got
        self._stop(got)
        self._lengths = torch.where(self._ended, self._counts, self._max)
        self.logits = logits
        self.trace.steps.append(
            StepTrace(LayerPlan.full(self.decoder.depth), passes=tuple(passes), drafted=drafted, yielded=got)
        )
        self._generated = int(self._counts.max())
        self.done = bool((self._ended | (self._counts == self._max)).all())
        return int(got.sum())

    def _emit(self, logits: torch.Tensor) -> int:
        """Choose the next token of every row from logits [B, V]."""
        n = self._generated
        self.logits = logits
        tokens = self._sampling.pick(logits, self._noise, self._counts)
        yielded = tokens.shape[0]
        self._generated = n + 1
        if not self._ends:
            self._tokens[:, n] = tokens
            self._counts = self._counts + 1
            self.done = self._generated == self._max
            return yielded
        tokens = torch.where(self._ended, self.decoder.pad_token_id, tokens)
        self._tokens[:, n] = tokens
        running = ~self._ended
        yielded = int(running.sum())
        if self._eos is not None:
            self._ended = self._ended | torch.isin(tokens, self._eos)
        # Aligned rows count their padding too: the place of the next token is the same for all.
        self._counts = self._counts + 1
        self._stop(running.long())
        self._lengths = torch.where(self._ended & running, n + 1, self._lengths)
        self.done = self._generated == self._max or bool(self._ended.all())
        return yielded

    def _stop(self, new: torch.Tensor) -> None:
        """End the rows whose newest tokens (`new` [B] of them) complete a stop text; later tokens are taken back."""
        if not self._stops:
            return
        for row, count in enumerate(new.tolist()):
            if not count:
                continue
            total = int(self._counts[row])
            end = self._stops.first_end(self._tokens[row, :total].tolist(), count)
            if end is not None:
                self._ended[row] = True
                if end < total:
                    self._tokens[row, end:total] = self.decoder.pad_token_id
                    self._counts[row] = end
                    new[row] -= total - end

    def output(self) -> Output:
        """What was generated so far."""
        return Output(
            self._tokens[:, : self._generated],
            self._lengths.clamp_max(self._generated),
            self.trace,
            self._cache.allocated_bytes,
            self._cache.written_bytes,
            self._static is not None and self._static.captures,
        )


def generate(
    decoder: Decoder,
    method: Method,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    max_new_tokens: int = 64,
    stop_at_eos: bool = True,
    expected_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    noise: Sequence[int] | None = None,
    stop_strings: Sequence[str] = (),
    compact_exits: bool = False,
    static: bool | None = None,
) -> Output:
    """Generation of a batch under a method, greedy unless `sampling` says otherwise; arguments and errors as in `Decoding`."""
    decoding = Decoding(
        decoder,
        method,
        input_ids,
        attention_mask,
        max_new_tokens=max_new_tokens,
        stop_at_eos=stop_at_eos,
        expected_tokens=expected_tokens,
        sampling=sampling,
        noise=noise,
        stop_strings=stop_strings,
        compact_exits=compact_exits,
        static=static,
    )
    decoding.prefill()
    while not decoding.done:
        decoding.step()
    return decoding.output()
