"""Prompts and continuations as one causal pass whose columns become fewer where blocks are skipped: one way of `force`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import functional as F

from harness.decode.forced_memory import ForcedMemory
from harness.decode.prompt_pass import Forced, Through, around, at_last, ran
from harness.models.block import Columns, Context
from harness.models.decoder import Decoder
from harness.plan import LayerPlan


def prefixes(prompt: LayerPlan, plans: Sequence[LayerPlan]) -> list[tuple[int | None, int | None]] | None:
    """For each block the leading steps that run its attention and its feed after the prompt did; None: neither runs it.

    None for all unless the steps that run a sublayer are the leading ones, and nothing is stored or scaled that does not run.
    """
    if any(p.calls != p.operations for p in (prompt, *plans)):
        return None
    counts = []
    for layer in range(prompt.depth):
        pair = []
        for sublayer in ("attention", "feed"):
            runs = [getattr(p, sublayer)[layer] for p in plans]
            count = sum(runs)
            at_prompt = getattr(prompt, sublayer)[layer]
            if not all(runs[:count]) or (count and not at_prompt):
                return None
            pair.append(count if at_prompt else None)
        counts.append((pair[0], pair[1]))
    return counts


def run_joined(
    decoder: Decoder,
    prompts: torch.Tensor,
    targets: torch.Tensor,
    token_counts: tuple[torch.Tensor | None, torch.Tensor | None],
    plans: Sequence[LayerPlan],
    counts: Sequence[tuple[int | None, int | None]],
    dropped: torch.Tensor | None,
    through: Through,
) -> Forced:
    """Prompts and continuations as one sequence per row, one causal pass over it.

    A sublayer runs on the prompt and the leading columns of the continuation that run it. What padding computes is never seen: a
    real query looks back only, and every column before it ran each block that it runs.
    """
    device = targets.device
    n, t = targets.shape
    width = prompts.shape[1]
    before, after = (
        [most] * n if given is None else given.tolist() for most, given in zip((width, t), token_counts, strict=True)
    )
    total = max(b + a for b, a in zip(before, after, strict=True))
    lengths = torch.tensor(before, device=device)
    level = min(before) == width
    columns = torch.arange(total, device=device)
    ids = F.pad(prompts, (0, total - width)) if total >= width else prompts[:, :total]
    if t:
        place = columns - lengths.unsqueeze(1)
        ids = torch.where(place >= 0, targets.gather(1, place.clamp(0, t - 1)), ids)
    positions = columns.clamp_max(decoder.geometry.max_positions - 1).expand(n, total)

    @cache
    def leading(count: int | None) -> bool | Columns:
        """The prompt and the first `count` steps, computed as far as any row's end reaches; what counts is each row's own."""
        if count is None:
            return False
        reach = total if count >= t else max(b + min(count, a) for b, a in zip(before, after, strict=True))
        counting = None if level or count >= t else (columns[:reach] < (lengths + count).unsqueeze(1)).unsqueeze(2)

        def put(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
            if counting is not None:
                new = torch.where(counting, new, old[:, :reach])
            return new if reach == total else torch.cat((new, old[:, reach:]), dim=1)

        return Columns(lambda x: x[:, :reach].contiguous(), put, Context(positions[:, :reach], causal=True))

    operations = ((layer, leading(attends), leading(feeds)) for layer, (attends, feeds) in enumerate(counts))
    x, context = decoder.embed(ids, positions), Context(positions, causal=True)
    x = decoder.run_blocks(operations, x, ForcedMemory(decoder.depth), context, around(through, dropped))
    after_prompt = (lengths.unsqueeze(1) + torch.arange(t, device=device)).clamp_max(total - 1)
    return Forced(
        x[:, :width],
        at_last(x, lengths),
        x.gather(1, after_prompt.unsqueeze(2).expand(-1, -1, x.shape[2])),
        ran(plans, decoder.depth, n),
    )
