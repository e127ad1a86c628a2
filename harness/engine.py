"""The decode loop: prefill, then one step at a time. No clocks, no method names.

A `Decoding` is one generation of one batch. Its `prefill()` yields token 0 of every row, each `step()` one more; whoever wants
times wraps those calls. The engine asks the method for a plan, runs it, and records what ran.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.errors import BadInput
from harness.method import Exit, ExitState, Method
from harness.models.decoder import Context, Decoder
from harness.plan import LayerPlan, Step, StepTrace, Trace
from harness.scoring import run_prompt


@dataclass(frozen=True)
class Output:
    """A finished generation.

    Attributes:
        tokens: generated ids [B, N]; rows that ended (end token included) are padded.
        lengths: generated tokens of each row [B], the end token counted.
        trace: what ran at every position.
        kv_cache_bytes: bytes the cache allocated.
        kv_written_bytes: bytes of it that hold the keys and values of some position.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    trace: Trace
    kv_cache_bytes: int
    kv_written_bytes: int


class Decoding:
    """One generation of one batch under a method.

    Args:
        decoder: the model.
        method: from `methods.create`.
        input_ids: prompts [B, P], left-padded where they differ in length.
        attention_mask: 1 for real tokens, 0 for padding on the left [B, P]; None when there is none.
        max_new_tokens: tokens to generate per row, at least 1.
        stop_at_eos: rows end with the model's end token; False generates `max_new_tokens` for every row.
        expected_tokens: what schedules reckon with (`Step.expected_tokens`); default `max_new_tokens`.

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
    ) -> None:
        _check(decoder, input_ids, attention_mask, max_new_tokens, expected_tokens)
        self.decoder = decoder
        self.method = method.resolve(decoder.depth, decoder.extras)
        self.done = False
        self._ids = input_ids.to(decoder.device)
        padded = attention_mask is not None and not bool(attention_mask.all())
        self._mask = attention_mask.to(decoder.device).bool() if padded and attention_mask is not None else None
        self._max = max_new_tokens
        self._expected = expected_tokens or max_new_tokens
        rows, width = input_ids.shape
        # A schedule is known beforehand: a block needs room only for the positions that will run its attention.
        plans = [self.method.plan(Step(k, self._expected), width, decoder.depth) for k in range(1, max_new_tokens)]
        if isinstance(self.method, Exit):
            capacities = [width + max_new_tokens - 1] * decoder.depth
        else:
            capacities = [width + sum(plan.attention[layer] for plan in plans) for layer in range(decoder.depth)]
        self._plans = plans
        self._cache = decoder.new_cache(rows, capacities)
        self._tokens = torch.full((rows, max_new_tokens), decoder.pad_token_id, device=decoder.device)
        self._generated = 0
        self._lengths = torch.full((rows,), max_new_tokens, device=decoder.device)
        eos = decoder.eos_token_ids if stop_at_eos else ()
        self._eos = torch.tensor(eos, device=decoder.device) if eos else None
        self._ended = torch.zeros(rows, dtype=torch.bool, device=decoder.device)
        real = self._ids.new_full((rows,), width) if self._mask is None else self._mask.sum(1)
        self._next_position = real.unsqueeze(1)
        self._step_mask: torch.Tensor | None = None
        if self._mask is not None:
            later = self._mask.new_ones(rows, max_new_tokens)
            self._step_mask = torch.cat((self._mask, later), dim=1)[:, None, None, :]
        self.trace = Trace(rows, decoder.depth, width, StepTrace(LayerPlan.full(decoder.depth), head_rows=rows))
        self.logits: torch.Tensor | None = None
        """[B, V] of the newest token of every row, as the method computed them."""

    @torch.inference_mode()
    def prefill(self) -> int:
        """Run the prompts at full depth and yield token 0 of every row; returns the tokens yielded over the batch."""
        hidden = run_prompt(self.decoder, self._cache, self._ids, self._mask)
        return self._emit(self.decoder.head(hidden[:, -1]))

    @torch.inference_mode()
    def step(self) -> int:
        """One decode step: process the newest token of every row, yield the next; returns tokens yielded."""
        step = Step(self._generated, self._expected)
        plan = self._plans[self._generated - 1]
        context = Context(self._next_position, self._step_mask)
        x = self.decoder.embed(self._tokens[:, self._generated - 1 : self._generated], self._next_position)
        if isinstance(self.method, Exit):
            logits = self._run_gated(self.method, x, step, context)
        else:
            for layer, attends, feeds in plan.operations:
                block, entry = self.decoder.blocks[layer], x
                if attends:
                    x = block.attend(x, self._cache, context)
                if feeds:
                    x = block.feed(x, entry)
            logits = self.decoder.head(x[:, 0])
            self.trace.steps.append(StepTrace(plan, head_rows=x.shape[0]))
        self._next_position = self._next_position + 1
        return self._emit(logits)

    def _run_gated(self, gate: Exit, x: torch.Tensor, step: Step, context: Context) -> torch.Tensor:
        """Blocks from the bottom up until every row has exited; then only K and V from the frozen states."""
        decoder, cache = self.decoder, self._cache
        state = ExitState(decoder.head, decoder.extras, step.index, step.expected_tokens)
        rows = x.shape[0]
        exits: torch.Tensor | None = None
        exited: torch.Tensor | None = None
        logits: torch.Tensor | None = None
        ran = 0
        for layer, block in enumerate(decoder.blocks):
            state.advance(x[:, 0])
            y = block.feed(block.attend(x, cache, context), x)
            # A row that exited keeps its state: what it wrote to this block's cache came from that state already.
            x = y if exited is None else torch.where(exited[:, None, None], x, y)
            ran = layer + 1
            if not gate.tests(layer, decoder.depth):
                continue
            leaves = gate.should_exit(layer, x[:, 0], state)
            fresh = leaves if exited is None else leaves & ~exited
            count = int(fresh.sum())
            if count == 0:
                continue
            if exits is None:
                exits = torch.full((rows,), decoder.depth, device=x.device)
            exits = torch.where(fresh, ran, exits)
            if state.last_logits is not None:
                # The test computed this exit's prediction already; it is not computed twice.
                logits = state.last_logits if logits is None else torch.where(fresh[:, None], state.last_logits, logits)
            exited = fresh if exited is None else exited | fresh
            if bool(exited.all()):
                break
        filled = tuple(range(ran, decoder.depth))
        for layer in filled:
            cache.write(layer, *decoder.blocks[layer].keys_values(x, context), context.positions)
        everyone = exited is not None and bool(exited.all())
        head_rows = 0
        if logits is None or not everyone:
            # Rows that ran to the end, or tests that made no prediction: the head over the column as it stands.
            logits = decoder.head(x[:, 0])
            head_rows = rows
        self.trace.steps.append(
            StepTrace(
                LayerPlan.of(range(ran), decoder.depth), exits, filled, state.test_heads, state.test_flops, head_rows
            )
        )
        return logits

    def _emit(self, logits: torch.Tensor) -> int:
        n = self._generated
        self.logits = logits
        tokens = logits.argmax(-1)
        if self._eos is not None:
            tokens = torch.where(self._ended, self.decoder.pad_token_id, tokens)
            ends = torch.isin(tokens, self._eos) & ~self._ended
            self._lengths = torch.where(ends, n + 1, self._lengths)
            yielded = int((~self._ended).sum())
            self._ended = self._ended | ends
        else:
            yielded = tokens.shape[0]
        self._tokens[:, n] = tokens
        self._generated = n + 1
        self.done = self._generated == self._max or (self._eos is not None and bool(self._ended.all()))
        return yielded

    def output(self) -> Output:
        """What was generated so far."""
        return Output(
            self._tokens[:, : self._generated],
            self._lengths.clamp_max(self._generated),
            self.trace,
            self._cache.allocated_bytes,
            self._cache.written_bytes,
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
) -> Output:
    """Greedy generation of a batch under a method; arguments and errors as in `Decoding`."""
    decoding = Decoding(
        decoder,
        method,
        input_ids,
        attention_mask,
        max_new_tokens=max_new_tokens,
        stop_at_eos=stop_at_eos,
        expected_tokens=expected_tokens,
    )
    decoding.prefill()
    while not decoding.done:
        decoding.step()
    return decoding.output()


def _check(
    decoder: Decoder, ids: torch.Tensor, mask: torch.Tensor | None, max_new_tokens: int, expected_tokens: int | None
) -> None:
    if ids.dim() != 2 or not ids.numel() or ids.is_floating_point():
        raise BadInput(
            f"input_ids: {ids.dtype} of shape {tuple(ids.shape)}; give integers [batch, tokens], one or more of each"
        )
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens: {max_new_tokens} is out of range; give 1 or more")
    if expected_tokens is not None and expected_tokens < 1:
        raise BadInput(f"expected_tokens: {expected_tokens} is out of range; give 1 or more")
    low, high = int(ids.min()), int(ids.max())
    vocabulary = decoder.geometry.vocabulary
    if low < 0 or high >= vocabulary:
        raise BadInput(f"input_ids: token {low if low < 0 else high} is outside the vocabulary 0..{vocabulary - 1}")
    longest = ids.shape[1]
    if mask is not None:
        if mask.shape != ids.shape:
            raise BadInput(f"attention_mask: shape {tuple(mask.shape)} differs from input_ids' {tuple(ids.shape)}")
        seen = mask.bool()
        if not bool(seen[:, -1].all()):
            raise BadInput("attention_mask: a row ends in padding; pad on the left, where decoding does not continue")
        if bool((seen[:, :-1] & ~seen[:, 1:]).any()):
            raise BadInput("attention_mask: a row has padding between its tokens; all padding belongs on the left")
        longest = int(seen.sum(1).max())
    limit = decoder.geometry.max_positions
    if longest > limit:
        raise BadInput(f"input_ids: a prompt of {longest} tokens is longer than the model's {limit} positions")
    if longest + max_new_tokens - 1 > limit:
        raise BadInput(
            f"max_new_tokens: {max_new_tokens} after a prompt of {longest} tokens needs {longest + max_new_tokens - 1} "
            f"positions, the model has {limit}; give at most {limit - longest + 1}"
        )
