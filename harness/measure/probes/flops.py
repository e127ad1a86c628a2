"""FLOPs and weight bytes of a generation, counted from the engine's trace and the model's sizes.

A multiplication and an addition count as two. Counted are matrix products (projections, attention scores and sums, vocabulary
projections, exit tests, K/V fill): norms, activations and softmax are left out, as in torch's FlopCounterMode on the math
attention backend, which the tests compare with. Work computed for rows that had exited already is charged: it was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.models.decoder import Geometry
from harness.plan import Trace
from harness.records.quantities import Measured


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one generation, summed over its rows.

    Attributes:
        prefill: the prompts, padding included, and the first token's head.
        blocks: sublayers of the decode steps.
        head: final vocabulary projections of the decode steps.
        exit_tests: everything that tests computed, and what a draft computed to draft better next time.
        fill: K and V written for blocks that did not run.
        tokens: tokens the decode steps yielded (every row, ended ones too: the batch stays aligned).
        weight_bytes: bytes of weights the decode steps read, once per matrix and step.
        kv_bytes: bytes of keys and values that their attention looked at, once per row and step.
    """

    prefill: float
    blocks: float
    head: float
    exit_tests: float
    fill: float
    tokens: int
    weight_bytes: float
    kv_bytes: float

    @property
    def decode(self) -> float:
        """FLOPs of all decode steps."""
        return self.blocks + self.head + self.exit_tests + self.fill


def fields(traces: Sequence[Trace], geometry: Geometry, weight_bytes: int, state_bytes: int) -> Measured:
    """What a speed cell holds of finished generations, one for each prompt set: per decoded token, over all of them."""
    sums = [count(trace, geometry, weight_bytes, state_bytes) for trace in traces]
    tokens = sum(each.tokens for each in sums)
    return {
        "flops_per_token": sum(each.decode for each in sums) / tokens,
        "exit_test_flops_per_token": sum(each.exit_tests for each in sums) / tokens,
        "fill_flops_per_token": sum(each.fill for each in sums) / tokens,
        "head_flops_per_token": sum(each.head for each in sums) / tokens,
        "prefill_flops": sums[0].prefill,
        "weight_bytes_per_token": sum(each.weight_bytes for each in sums) / tokens,
        "kv_bytes_per_token": sum(each.kv_bytes for each in sums) / tokens,
    }


def count(trace: Trace, geometry: Geometry, weight_bytes: int, state_bytes: int) -> FlopCount:
    """Count a finished generation.

    Args:
        trace: of the generation.
        geometry: sizes of the model that ran it.
        weight_bytes: bytes of one weight.
        state_bytes: bytes of one element of a key or value.
    """
    g, rows, width = geometry, trace.batch_size, trace.prompt_width
    per_key = 4 * g.heads * g.head_dim
    held = 2 * g.kv_heads * g.head_dim
    prompt = trace.prefill.plan
    first = trace.prefill
    prefill = rows * (width * 2 * (len(first.filled) * g.kv_weights + g.embed_weights) + 2 * g.head_weights)
    prefill += first.test_heads * 2 * g.head_weights + first.test_flops
    for place, (_, attends, feeds) in enumerate(prompt.operations):
        attending, feeding = (rows * width,) * 2 if first.rows is None else first.rows[place]
        prefill += attends * attending * (2 * g.attention_weights + width * per_key)
        prefill += feeds * feeding * 2 * g.feed_weights
    blocks = head = tests = fill = weights = looked = 0.0
    filled = first.filled
    keys = [width * (stores or layer in filled) for layer, stores in enumerate(prompt.stores)]
    for step in trace.steps:
        for part in step.passes:
            columns = rows * part.columns
            ran = part.plan.operations
            products = sum(g.attention_weights * a + g.feed_weights * f for _, a, f in ran)
            products += g.embed_weights * part.embeds
            attending = sum(a for _, a, _ in ran)
            in_blocks, in_heads = (
                columns * (2 * products + attending * per_key * part.keys),
                part.head_rows * 2 * g.head_weights,
            )
            if part.probe:
                tests += in_blocks + in_heads
            else:
                blocks, head = blocks + in_blocks, head + in_heads
            looked += rows * attending * held * part.keys
            weights += products + len(ran) * g.block_vectors + g.head_weights * (part.head_rows > 0)
        if not step.passes:
            blocks += rows * 2 * g.embed_weights
            weights += g.embed_weights
        for place, (layer, attends, feeds) in enumerate(() if step.passes else step.plan.operations):
            attend_rows, feed_rows = (rows, rows) if step.rows is None else step.rows[place]
            if attends:
                keys[layer] += 1
                blocks += attend_rows * (2 * g.attention_weights + per_key * keys[layer])
                looked += attend_rows * held * keys[layer]
                weights += g.attention_weights
            if feeds:
                blocks += feed_rows * 2 * g.feed_weights
                weights += g.feed_weights
            weights += g.block_vectors
        for layer in step.filled:
            keys[layer] += 1
        fill += 2 * g.kv_weights * (rows * len(step.filled) + step.fill_rows)
        weights += g.kv_weights * len(step.filled)
        tests += step.test_heads * 2 * g.head_weights + step.test_flops
        head += step.head_rows * 2 * g.head_weights
        # A vocabulary projection reads its matrix once for all rows; tests project the whole column.
        weights += g.head_weights * (step.test_reads + (step.head_rows > 0))
    tokens = sum(rows if step.yielded is None else int(step.yielded.sum()) for step in trace.steps)
    return FlopCount(prefill, blocks, head, tests, fill, tokens, weights * weight_bytes, looked * state_bytes)
