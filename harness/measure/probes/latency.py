"""Wall-clock times of a generation: time to first token, and every step with the tokens it yielded.

The engine asks for all plans before the prompt runs, because they say how much room each block's cache needs. What making a
plan took is decode time all the same: it is taken out of the time to first token and added to the step the plan is for.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from harness.decode.engine import Decoding, Output
from harness.method import Method
from harness.plan import LayerPlan, Step

T = TypeVar("T")
Clock = Callable[[], float]
"""Seconds since some moment, rising."""


@dataclass(frozen=True)
class Timing:
    """Times of one generation.

    Attributes:
        ttft_s: prefill and token 0, the cache's allocation included, the plans of the steps left out.
        step_s: each decode step, the making of its plan included.
        plan_s: what making the plan of each step took.
        step_tokens: tokens each step yielded over the batch.
    """

    ttft_s: float
    step_s: list[float]
    plan_s: list[float]
    step_tokens: list[int]


def shadowed(thing: T, **functions: Any) -> T:
    """A shallow copy of an object, frozen or not, some of whose methods are replaced."""
    copied = copy.copy(thing)
    for name, function in functions.items():
        object.__setattr__(copied, name, function)
    return copied


def planned(method: Method, clock: Clock, spent: dict[int, float]) -> Method:
    """The method; seconds that it takes to plan a step are added to `spent`, by the step's index."""

    def plan(step: Step, prompt_length: int, depth: int) -> LayerPlan:
        began = clock()
        made = method.plan(step, prompt_length, depth)
        spent[step.index] += clock() - began
        return made

    def resolve(*arguments: Any) -> Method:
        return planned(method.resolve(*arguments), clock, spent)

    return shadowed(method, plan=plan, resolve=resolve)


def synchronise(device: torch.device) -> Callable[[], None]:
    """What to call before reading the clock so that queued work on `device` is done."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def measure(
    make: Callable[[Method], Decoding], method: Method, device: torch.device, clock: Clock = time.perf_counter
) -> tuple[Timing, Output]:
    """Time one generation; nothing but the engine runs between two readings of the clock.

    Args:
        make: makes the generation under the method it is given.
        method: from `methods.create`.
        device: where it runs.
        clock: seconds, rising.
    """
    spent: dict[int, float] = defaultdict(float)
    watched = planned(method, clock, spent)
    wait = synchronise(device)
    step_s: list[float] = []
    step_tokens: list[int] = []
    wait()
    start = clock()
    decoding = make(watched)
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
    plan_s = [spent[k] for k in range(1, len(step_s) + 1)]
    charged = [step + plan for step, plan in zip(step_s, plan_s, strict=True)]
    return Timing(ttft - sum(plan_s), charged, plan_s, step_tokens), decoding.output()
