"""The decode loop: prefill, then one step at a time. No clocks, no method names.

A `Decoding` is one generation of one batch. Its `prefill()` yields token 0 of every row, each `step()` one more (several, where
a method drafts and the model verifies); whoever wants times wraps those calls. The engine asks the method for a plan, runs it,
and records what ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.decode.arguments import check_finite, check_generation, check_plans
from harness.decode.columns import CacheColumns
from harness.decode.drafting import DraftSteps
from harness.decode.gated_blocks import CalledBlocks
from harness.decode.gated_pass import Gating
from harness.decode.gated_step import run_gated
from harness.decode.prompt_pass import run_gated_prompt, run_prompt
from harness.decode.rows import Rows
from harness.decode.sampling import GREEDY, Sampling, StopStrings, noise_of_rows
from harness.decode.static import StaticSteps, steps_for
from harness.method import Draft, Exit, Gate, Method, Start
from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Step, StepTrace, Trace


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
        with decoder.lock:
            decoder.renew()
        self.decoder = decoder
        self.method = method.resolve(decoder.depth, decoder.extras)
        self._ids = input_ids.to(decoder.device)
        padded = attention_mask is not None and not bool(attention_mask.all())
        self._mask = attention_mask.to(decoder.device).bool() if padded and attention_mask is not None else None
        self._expected = expected_tokens or max_new_tokens
        self._compact = False
        rows, width = input_ids.shape
        self._prompt = self.method.prompt_plan(decoder.depth)
        spare = self.method.draft_tokens + 1 if isinstance(self.method, Draft) else 0
        self._plans, capacities = self._prepare_plans(width, max_new_tokens, spare)
        eos = decoder.eos_token_ids if stop_at_eos else ()
        stops = StopStrings(stop_strings, decoder.tokenizer)
        pad, device = decoder.pad_token_id, decoder.device
        noise_streams = noise_of_rows(sampling, self._ids, self._mask, noise)
        self._rows = Rows(noise_streams, max_new_tokens, spare, sampling, stops, eos, pad, device)
        self._gating: Gating | None = None
        self._pending = 0
        """Columns before the newest that are computed again with it: those since all of them reached the top (`recompute`)."""
        self._waits: torch.Tensor | None = None
        """Of these, each row's own [B]."""
        changes = isinstance(self.method, Draft)
        if isinstance(self.method, Gate):
            self._gating = Gating(decoder, self.method, self._expected)
            again = self.method.kv == "recompute"
            self._waits = torch.zeros(rows, dtype=torch.long, device=decoder.device) if again else None
            # Only what a gate decides has shapes that change from step to step; schedules keep their graphs in any case.
            changes = compact_exits or again
            self._compact = compact_exits and not again
        fits = not changes
        self._static: StaticSteps | None = None
        if fits and (decoder.device.type == "cuda" if static is None else static):
            self._static = steps_for(self, decoder, rows, capacities, width)
        self._cache = decoder.new_cache(rows, capacities) if self._static is None else self._static.cache
        self._drafting: DraftSteps | None = None
        self._real = self._ids.new_full((rows,), width) if self._mask is None else self._mask.sum(1)
        self._next_position = self._real.unsqueeze(1)
        self._numbers = torch.arange(rows, device=decoder.device).unsqueeze(1)
        self._columns = CacheColumns(decoder, self._cache, width, self._mask)
        self._step_mask: torch.Tensor | None = None
        if self._mask is not None:
            later = self._mask.new_ones(rows, max_new_tokens + spare)
            self._step_mask = torch.cat((self._mask, later), dim=1)[:, None, None, :]
        self.trace = Trace(rows, decoder.depth, width, _planned_trace(self._prompt, rows))
        self.logits: torch.Tensor | None = None
        """[B, V] of the newest token of every row, as the method computed them; [B, T, V] of all columns a draft was verified
        at. On static buffers the next step overwrites them."""

    def _prepare_plans(self, width: int, max_new_tokens: int, spare: int) -> tuple[list[LayerPlan], list[int]]:
        """The plan of every step of a schedule, and the positions each block's cache needs room for."""
        depth, prompt = self.decoder.depth, self._prompt
        if isinstance(self.method, Gate | Draft):
            check_plans(self.method, depth, prompt, [LayerPlan.full(depth)])
            return [], [width + max_new_tokens - 1 + spare] * depth
        # A schedule is known beforehand: a block needs room only for the positions that will store keys and values.
        plans = [self.method.plan(Step(k, self._expected), width, depth) for k in range(1, max_new_tokens)]
        check_plans(self.method, depth, prompt, plans)
        stored = [sum(plan.stores[layer] for plan in plans) for layer in range(depth)]
        return plans, [width * held + more for held, more in zip(prompt.stores, stored, strict=True)]

    @property
    def done(self) -> bool:
        """Nothing is left to generate."""
        return self._rows.done

    @torch.inference_mode()
    def prefill(self) -> int:
        """Run the prompts and yield token 0 of every row; returns the tokens yielded over the batch."""
        with self.decoder.lock, self.decoder.own_threads(self._ids.shape[0]):
            return self._prefill()

    def _prefill(self) -> int:
        decoder, gating, lengths = self.decoder, self._gating, self._next_position.squeeze(1)
        if gating is not None:
            gating.begin(self._ids, lengths)
        if gating is not None and gating.asks_prompt:
            walk = run_gated_prompt(gating, self._cache, self._ids, self._mask, self._mask)
            hidden, width = walk.hidden, self._ids.shape[1]
            self.trace.prefill = walk.record(lengths.new_full(lengths.shape, width - 1))
        else:
            hidden = run_prompt(decoder, self._cache, self._ids, self._mask, self._prompt)
        if gating is not None and gating.seen is not None:
            gating.seen = gating.seen.continued(self._ids.shape[1], self._mask)
        if self._static is not None:
            self._static.start(self._next_position, self._mask, None if gating is None else gating.seen)
        if isinstance(self.method, Draft):
            memory = self.method.begin(Start(decoder.depth, self._ids, lengths, self._expected, decoder.extras))
            self._drafting = DraftSteps(decoder, self.method, memory, self._cache, self._rows, self._ids, self._mask)
        self.logits = self.decoder.head(hidden[:, -1])
        return self._rows.emit(self.logits)

    @torch.inference_mode()
    def step(self) -> int:
        """One decode step: process the newest token of every row, yield the next; returns tokens yielded over the batch."""
        with self.decoder.lock, self.decoder.own_threads(self._ids.shape[0]):
            return self._step()

    def _step(self) -> int:
        if self._drafting is not None:
            self.logits, record = self._drafting.step()
            self.trace.steps.append(record)
            assert record.yielded is not None
            return int(record.yielded.sum())
        n = self._rows.generated
        token = self._rows.tokens[:, n - 1 : n]
        if self._gating is not None:
            self.logits, record = self._gated(self._gating, token)
        else:
            plan = self._plans[n - 1]
            self.logits, record = self._planned(plan, token), _planned_trace(plan, token.shape[0])
        self.trace.steps.append(record)
        return self._rows.emit(self.logits)

    def _planned(self, plan: LayerPlan, token: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] of one step of a schedule for tokens [B, 1]."""
        if self._static is not None:
            return self._static.run(plan, token)
        context = Context(self._next_position, self._step_mask)
        x = self.decoder.run_plan(plan.calls, self.decoder.embed(token, self._next_position), self._cache, context)
        self._next_position = self._next_position + 1
        return self.decoder.head(x[:, 0])

    def _gated(self, gating: Gating, token: torch.Tensor) -> tuple[torch.Tensor, StepTrace]:
        """Logits [B, V] of one step whose rows choose what they run, for tokens [B, 1], and what ran."""
        decoder, static, gate, n = self.decoder, self._static, gating.gate, self._rows.generated
        held, must = 0, None
        if isinstance(gate, Exit) and self._waits is not None:
            token = self._rows.tokens[:, n - 1 - self._pending : n]
            context, held = self._columns.at([n - self._pending] * token.shape[0], 0, token.shape[1])
            must = self._waits >= gate.most_pending
        else:
            context = Context(self._next_position, self._step_mask)
        x = decoder.embed(token, context.positions) if static is None else static.enter(token)
        state = gating.state(n, self._numbers.expand(token.shape), context.positions)
        found, record = run_gated(
            *(decoder, gate, x, state),
            static or CalledBlocks(decoder, self._cache, context, gating.seen),
            compact=self._compact,
            asks=gating.asked,
            hiding=gating.hiding,
            held=held,
            must=must,
        )
        if static is not None:
            static.leave()
        if self._waits is not None:
            self._pending = 0 if record.plan.budget == decoder.depth else self._pending + 1
            stayed = record.ran is None or record.ran[:, 0, -1]
            self._waits = torch.where(torch.as_tensor(stayed, device=token.device), 0, self._waits + 1)
        self._next_position = self._next_position + 1
        return found, record

    def output(self) -> Output:
        """What was generated so far."""
        return Output(
            self._rows.tokens[:, : self._rows.generated],
            self._rows.lengths.clamp_max(self._rows.generated),
            self.trace,
            self._cache.allocated_bytes,
            self._cache.written_bytes,
            self._static is not None and self._static.captures,
        )


def _planned_trace(plan: LayerPlan, rows: int) -> StepTrace:
    """What ran where every row ran a plan and then the head."""
    return StepTrace(plan, filled=plan.filled, head_rows=rows)


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
    """Generation of a batch under a method, greedy unless `sampling` says otherwise; arguments and errors as in `Decoding`.

    Raises:
        CellFailed: the logits after the prompt, or after the last step, are not finite: the tokens would mean nothing.
    """
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
    check_finite(decoding.logits, "logits after the prompt")
    while not decoding.done:
        decoding.step()
    check_finite(decoding.logits, "logits after the last step")
    return decoding.output()
