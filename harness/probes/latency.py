"""Wall-clock times of a generation: time to first token, and every step with the tokens it yielded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.engine import Decoding, Output
from harness.models.decoder import Context, Decoder


@dataclass(frozen=True)
class Timing:
    """Times of one generation.

    Attributes:
        ttft_s: prefill and token 0, the cache's allocation included.
        step_s: each decode step.
        step_tokens: tokens each step yielded over the batch.
    """

    ttft_s: float
    step_s: list[float]
    step_tokens: list[int]


def synchronise(device: torch.device) -> Callable[[], None]:
    """What to call before reading the clock so that queued work on `device` is done."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def measure(make: Callable[[], Decoding], device: torch.device) -> tuple[Timing, Output]:
    """Time one generation; nothing but the engine runs between two readings of the clock."""
    wait, clock = synchronise(device), time.perf_counter
    step_s: list[float] = []
    step_tokens: list[int] = []
    wait()
    start = clock()
    decoding = make()
    decoding.prefill()
    wait()
    last = clock()
    ttft = last - start
    while not decoding.done:
        tokens = decoding.step()
        wait()
        now = clock()
        step_s.append(now - last)
        step_tokens.append(tokens)
        last = now
    return Timing(ttft, step_s, step_tokens), decoding.output()


@torch.inference_mode()
def step_parts(decoder: Decoder, ids: torch.Tensor, mask: torch.Tensor | None, steps: int) -> dict[str, list[float]]:
    """Seconds of the parts of `steps` full-depth decode steps: `embed`, `blocks` (all of them) and `head` with argmax.

    The same calls the engine makes, on a cache of the same size, with a clock between the parts.
    """
    from harness.scoring import run_prompt

    rows, width = ids.shape
    wait, clock = synchronise(decoder.device), time.perf_counter
    cache = decoder.new_cache(rows, [width + steps] * decoder.depth)
    run_prompt(decoder, cache, ids, mask)
    real = ids.new_full((rows,), width) if mask is None else mask.sum(1)
    step_mask = None
    if mask is not None:
        step_mask = torch.cat((mask.bool(), mask.new_ones(rows, steps).bool()), dim=1)[:, None, None, :]
    token = ids[:, -1:]
    parts: dict[str, list[float]] = {"embed": [], "blocks": [], "head": []}
    for k in range(steps):
        position = (real + k).unsqueeze(1)
        context = Context(position, step_mask)
        wait()
        t0 = clock()
        x = decoder.embed(token, position)
        wait()
        t1 = clock()
        for block in decoder.blocks:
            x = block.feed(block.attend(x, cache, context), x)
        wait()
        t2 = clock()
        token = decoder.head(x[:, 0]).argmax(-1).unsqueeze(1)
        wait()
        t3 = clock()
        for name, value in (("embed", t1 - t0), ("blocks", t2 - t1), ("head", t3 - t2)):
            parts[name].append(value)
    return parts
