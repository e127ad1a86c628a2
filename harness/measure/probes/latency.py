"""Wall-clock times of a generation: time to first token, and every step with the tokens it yielded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.decode.engine import Decoding, Output

Clock = Callable[[], float]
"""Seconds since some moment, rising."""


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


def measure(
    make: Callable[[], Decoding], device: torch.device, clock: Clock = time.perf_counter
) -> tuple[Timing, Output]:
    """Time one generation; nothing but the engine runs between two readings of the clock."""
    wait = synchronise(device)
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
