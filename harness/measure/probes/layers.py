"""Layers executed: per token, per position, and per batch column."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.models.decoder import Geometry
from harness.plan import Trace
from harness.records.fields import SublayerShares
from harness.records.quantities import Measured


@dataclass(frozen=True)
class LayerCount:
    """Blocks that ran at the decode steps of one or several generations; N-1 steps, L blocks.

    Attributes:
        by_position: share of rows for which block l ran at decode step k, [N-1][L].
        sublayers_by_position: the same for the `attention` and the `feed` sublayer of each block; None where no block ran in part.
        per_token: blocks per decode token, those run over earlier tokens once more included, mean over rows that had not ended.
        computed_per_token: blocks the batch computed per step (the last row decides), mean over steps.
        rows: (row, step) pairs counted.
        serial_per_token: block runs one after the other per token: a verification of several columns counts once, and what a
            draft computes to draft better next time does not (as exit tests do not).
        serial_attention_per_token: the same for attention sublayers alone.
        serial_feed_per_token: the same for feed-forward sublayers alone.
        attention_per_token: attention sublayers per decode token, what was computed in vain included, mean as in `per_token`.
        feed_per_token: the same for feed-forward sublayers; a method that skips sublayers shows here.
        heads_per_token: vocabulary projections one after the other per token, those of exit tests left out.
    """

    by_position: list[list[float]]
    sublayers_by_position: SublayerShares | None
    per_token: float | None
    computed_per_token: float | None
    rows: int
    serial_per_token: float | None
    serial_attention_per_token: float | None
    serial_feed_per_token: float | None
    heads_per_token: float | None
    attention_per_token: float | None
    feed_per_token: float | None


def fields(counted: LayerCount) -> Measured:
    """What a speed cell holds of a count."""
    return {
        "layers_per_token": counted.per_token,
        "attention_per_token": counted.attention_per_token,
        "feed_per_token": counted.feed_per_token,
        "computed_layers_per_token": counted.computed_per_token,
        "serial_layers_per_token": counted.serial_per_token,
        "serial_attention_per_token": counted.serial_attention_per_token,
        "serial_feed_per_token": counted.serial_feed_per_token,
        "heads_per_token": counted.heads_per_token,
    }


def executed_share(counted: LayerCount, geometry: Geometry, blocks: int | None = None) -> float | None:
    """Weight bytes of the blocks' matrices that a token's own sublayers read, over those of all blocks: the executed budget.

    Of a draft, rejected work included, it may be above 1. The embedding and the head are in neither. `blocks` are those of the
    run's model where this one has fewer.
    """
    if counted.attention_per_token is None or counted.feed_per_token is None:
        return None
    attention, feed = geometry.attention_weights, geometry.feed_weights
    ran = counted.attention_per_token * attention + counted.feed_per_token * feed
    return ran / ((blocks or geometry.depth) * (attention + feed))


def count(traces: list[tuple[Trace, torch.Tensor]]) -> LayerCount:
    """Count over generations given as (trace, generated lengths [B]); tokens after a row's end are left out."""
    depth = traces[0][0].depth
    steps = max(len(trace.steps) for trace, _ in traces)
    ran, attended, fed = (torch.zeros(steps, depth, dtype=torch.float64) for _ in range(3))
    alive = torch.zeros(steps, dtype=torch.float64)
    computed = total_steps = 0
    again = [0, 0, 0]  # runs of blocks, attention and feed over tokens that are computed once more
    for trace, lengths in traces:
        n = len(trace.steps)
        if not n:
            continue
        if trace.drafts:
            return _count_drafts(traces)
        live = torch.arange(1, n + 1) < lengths.cpu().unsqueeze(1)  # [B, n]: step k yields token k
        kept_rows = live.unsqueeze(2)
        attends, feeds = trace.attention[:, 1:] & kept_rows, trace.feed[:, 1:] & kept_rows
        attended[:n] += attends.sum(0)
        fed[:n] += feeds.sum(0)
        ran[:n] += (attends | feeds).sum(0)
        alive[:n] += live.sum(0)
        computed += int(trace.computed[1:].sum())
        total_steps += n
        for step, alive_rows in zip(trace.steps, live.sum(0).tolist(), strict=True):
            columns = step.passes[0].columns - 1 if step.passes else 0
            kinds = step.plan.budget, sum(step.plan.attention), sum(step.plan.feed)
            again = [a + alive_rows * columns * one for a, one in zip(again, kinds, strict=True)]
    rows = int(alive.sum())
    kept = int((alive > 0).sum())
    attention, feed = int(attended.sum()), int(fed.sum())
    per_token = float(ran.sum() / rows) if rows else None

    def shares(of: torch.Tensor) -> list[list[float]]:
        found = of[:kept] / alive[:kept, None] if kept else of[:0]
        return [[round(value, 6) for value in row] for row in found.tolist()]

    in_part = not torch.equal(attended, fed)
    return LayerCount(
        shares(ran),
        {"attention": shares(attended), "feed": shares(fed)} if in_part else None,
        (float(ran.sum()) + again[0]) / rows if rows else None,
        computed / total_steps if total_steps else None,
        rows,
        per_token,
        attention / rows if rows else None,
        feed / rows if rows else None,
        1.0 if rows else None,
        (attention + again[1]) / rows if rows else None,
        (feed + again[2]) / rows if rows else None,
    )


def _count_drafts(traces: list[tuple[Trace, torch.Tensor]]) -> LayerCount:
    """Where steps draft and verify: all block runs of a row, rejected work included, over the tokens it got."""
    depth = traces[0][0].depth
    executed = batch = columns = 0.0
    ran_attention = ran_feed = 0
    serial = attention = feed = heads = 0
    tokens = 0
    for trace, _ in traces:
        for step in trace.steps:
            assert step.yielded is not None
            ran = [max(a, f) for a, f in zip(step.runs("attention"), step.runs("feed"), strict=True)]
            got, living = int(step.yielded.sum()), int((step.yielded > 0).sum())
            executed += sum(ran) * living
            ran_attention += sum(step.runs("attention")) * living
            ran_feed += sum(step.runs("feed")) * living
            batch += sum(ran)
            tokens += got
            columns += got / len(step.yielded)
            passes = [part for part in step.passes if not part.probe]
            serial += sum(part.plan.budget for part in passes)
            attention += sum(sum(part.plan.attention) for part in passes)
            feed += sum(sum(part.plan.feed) for part in passes)
            heads += sum(part.head_rows > 0 for part in passes)
    longest = max(trace.layers.shape[1] for trace, _ in traces) - 1
    shares = [[1.0] * depth for _ in range(longest)]
    if not tokens:
        return LayerCount(shares, None, None, None, 0, *(None,) * 6)
    one, two, three, four = (each / columns for each in (serial, attention, feed, heads))
    in_all = ran_attention / tokens, ran_feed / tokens
    return LayerCount(shares, None, executed / tokens, batch / columns, tokens, one, two, three, four, *in_all)
