"""Times by a clock that is told what time it is: what is timed and what is not."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import methods
from harness.decode.engine import Decoding, generate
from harness.measure.probes import latency
from harness.method import Method
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Step
from methods.fixed_exit import FixedExit
from tests.conftest import ragged_prompts
from tests.method_cases import SPECS

NEW = 6
FULL = methods.create("full")


class FakeClock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


class FakeDecoding:
    """A generation whose prefill takes 5 s and whose steps take 1, 2, 3 s and yield 2, 4, 2 tokens."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.steps = clock, [(1.0, 2), (2.0, 4), (3.0, 2)]
        clock.spend(0.5)  # allocating the cache belongs to the time to first token

    @property
    def done(self) -> bool:
        return not self.steps

    def prefill(self) -> int:
        self.clock.spend(5.0)
        return 2

    def step(self) -> int:
        seconds, tokens = self.steps.pop(0)
        self.clock.spend(seconds)
        return tokens

    def output(self) -> Any:
        self.clock.spend(1000.0)  # collecting what came out is nobody's decode time
        return None


def test_a_steps_record_is_its_time_and_what_it_yielded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 14: the first token's time was in the time between tokens. Defect 11: one timestamp was one token."""
    clock, waits = FakeClock(), []

    def synchronise(device: torch.device) -> Any:
        return lambda: (waits.append(clock.now), clock.spend(0.25))

    monkeypatch.setattr(latency, "synchronise", synchronise)
    timing, _ = latency.measure(lambda method: FakeDecoding(clock), FULL, torch.device("cpu"), clock)  # type: ignore[arg-type, return-value]
    # What is queued when a reading begins or ends is waited for: 0.25 s each, inside the interval it ends.
    assert timing.ttft_s == 5.75
    assert timing.step_s == [1.25, 2.25, 3.25]
    assert timing.step_tokens == [2, 4, 2]
    # Defect 16: synchronising every module is no headline: once before, once after prefill, once a step.
    assert len(waits) == 2 + 3


@dataclass(frozen=True)
class SlowToPlan(FixedExit):
    """A schedule that thinks k seconds about step k."""

    clock: Any = None

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        self.clock.spend(float(step.index))
        return super().layers(step, prompt_length, depth)


@pytest.mark.parametrize("static", [False, True])
def test_making_a_plan_is_time_of_the_step_it_is_for(opt: Decoder, static: bool) -> None:
    """Plans are made before the prompt runs; an expensive `layers()` was hidden in the time to first token."""
    clock = FakeClock()
    method = SlowToPlan(budget=2, clock=clock)
    ids, mask = ragged_prompts()

    def make(timed: Method) -> Decoding:
        return Decoding(opt, timed, ids, mask, max_new_tokens=NEW, stop_at_eos=False, static=static)

    timing, output = latency.measure(make, method, torch.device("cpu"), clock)
    assert timing.ttft_s == 0.0
    assert timing.step_s == timing.plan_s == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(step.plan.budget == 2 for step in output.trace.steps)


def test_plans_that_no_step_used_stay_where_they_were_made(opt: Decoder) -> None:
    """What was spent is all there, also where every row ends early."""
    clock = FakeClock()
    ids, _ = ragged_prompts(rows=1)
    free = generate(opt, methods.create("fixed_exit(budget=2)"), ids, max_new_tokens=NEW, stop_at_eos=False)
    text = SlowToPlan(budget=2, clock=clock)
    before = opt.source.generation_config.eos_token_id
    opt.source.generation_config.eos_token_id = int(free.tokens[0, 2])
    try:
        timing, output = latency.measure(
            lambda timed: Decoding(opt, timed, ids, max_new_tokens=NEW), text, torch.device("cpu"), clock
        )
    finally:
        opt.source.generation_config.eos_token_id = before
    assert len(timing.step_s) == output.tokens.shape[1] - 1 < NEW - 1
    assert timing.ttft_s + sum(timing.step_s) == 15.0


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_prints_while_measuring(opt: Decoder, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 15: tokens were decoded and printed inside the timed loop."""

    class Loud:
        def write(self, text: str) -> int:
            raise AssertionError(f"printed {text!r} inside a measured region")

        def flush(self) -> None:
            pass

    def log(*arguments: Any, **named: Any) -> None:
        raise AssertionError("logged inside a measured region")

    ids, mask = ragged_prompts()
    method = methods.create(spec)
    monkeypatch.setattr(sys, "stdout", Loud())
    monkeypatch.setattr(sys, "stderr", Loud())
    monkeypatch.setattr(logging.Logger, "handle", log)
    timing, _ = latency.measure(
        lambda timed: Decoding(opt, timed, ids, mask, max_new_tokens=NEW, stop_at_eos=False),
        method,
        torch.device("cpu"),
    )
    assert sum(timing.step_tokens) == 3 * (NEW - 1)


def test_the_check_for_printing_would_notice(opt: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = opt.head

    def chatty(x: torch.Tensor) -> torch.Tensor:
        print("token!")
        return inner(x)

    monkeypatch.setattr(opt, "head", chatty)
    with pytest.raises(AssertionError, match="printed 'token!'"):
        test_nothing_prints_while_measuring(opt, "full", monkeypatch)
