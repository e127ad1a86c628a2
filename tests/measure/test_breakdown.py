"""Where a step's time goes, by a clock that is told what time it is, and the step predicted from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import methods
from harness.decode.engine import Decoding
from harness.decode.sampling import Sampling
from harness.measure import predicted
from harness.measure.probes import breakdown, fewer_blocks
from harness.method import Method
from harness.models.decoder import Decoder
from harness.records.fields import SpeedFields
from harness.state import GateState
from methods.calm import CALM
from tests.conftest import ragged_prompts
from tests.measure.test_latency import NEW, FakeClock, SlowToPlan
from tests.method_cases import SPECS


def instrumented(decoder: Decoder, spec: str | Method, clock: Any = None, compact: bool = False, rows: int = 3) -> Any:
    ids, mask = ragged_prompts(rows)

    def make(timed: Decoder, method: Any, sampling: Sampling) -> Decoding:
        return Decoding(
            timed, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False, sampling=sampling, compact_exits=compact,
            static=False,
        )  # fmt: skip

    more = {} if clock is None else {"clock": clock}
    method = methods.create(spec) if isinstance(spec, str) else spec
    return breakdown.measure(make, decoder, method, **more)


@pytest.mark.parametrize("spec", SPECS)
def test_every_method_has_a_breakdown_that_adds_up(opt: Decoder, spec: str) -> None:
    """All parts together are the step, none is negative, and instrumenting changes no token."""
    ids, mask = ragged_prompts()
    found, output = instrumented(opt, spec)
    plain = Decoding(opt, methods.create(spec), ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    plain.prefill()
    while not plain.done:
        plain.step()
    assert torch.equal(output.tokens, plain.output().tokens)
    assert set(found.parts_s) == set(breakdown.PARTS)
    for i, step in enumerate(found.step_s):
        parts = {part: seconds[i] for part, seconds in found.parts_s.items()}
        assert all(value >= 0 for value in parts.values())
        assert sum(parts.values()) == pytest.approx(step, rel=1e-6)
    assert sum(found.step_tokens) == 3 * (NEW - 1)
    method = methods.create(spec)
    assert (sum(found.parts_s["exit_tests"]) > 0) == (method.family in ("gate", "exit", "draft"))
    filled = any(step.filled or step.fill_rows for step in output.trace.steps)
    assert (sum(found.parts_s["kv_fill"]) > 0) == filled


def test_a_wait_in_one_step_makes_no_slow_block(opt: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second thread wakes up late at the start of a generation, and the first block waits for it."""
    clock, waits = FakeClock(), iter([0.0, 1000.0])  # the prompt, then the first step
    attend = opt.blocks[0].attend

    def late(*arguments: Any) -> Any:
        clock.spend(next(waits, 0.0))
        return attend(*arguments)

    for block in opt.blocks:
        feed = block.feed
        monkeypatch.setattr(block, "feed", lambda *given, feed=feed: (clock.spend(1.0), feed(*given))[1])
    monkeypatch.setattr(opt.blocks[0], "attend", late)
    found, _ = instrumented(opt, "full", clock=clock)
    assert found.step_s[0] > 1000 and found.block_step_s == pytest.approx([1.0] * opt.depth, abs=0.1)


def test_a_block_s_time_is_of_the_steps_in_which_it_ran(opt: Decoder) -> None:
    found, _ = instrumented(opt, "fixed_exit(budget=2)")
    assert [seconds > 0 for seconds in found.block_step_s] == [True] * 2 + [False] * (opt.depth - 2)


def spending(decoder: Decoder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every function of the model take a time of its own."""

    def slow(thing: object, name: str, seconds: float) -> None:
        inner = getattr(thing, name)

        def function(*arguments: Any) -> Any:
            clock.spend(seconds)
            return inner(*arguments)

        monkeypatch.setattr(thing, name, function)

    slow(decoder, "embed", 1.0)
    slow(decoder, "head", 100.0)
    for block in decoder.blocks:
        slow(block, "attend", 10.0)
        slow(block, "feed", 20.0)
        slow(block, "fill", 3.0)


def test_seconds_go_where_they_were_spent(opt: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    spending(opt, clock, monkeypatch)
    found, _ = instrumented(opt, "fixed_exit(budget=2)", clock)
    assert found.parts_s["embed"] == [1.0] * (NEW - 1)
    assert found.parts_s["attention"] == [20.0] * (NEW - 1)
    assert found.parts_s["feed"] == [40.0] * (NEW - 1)
    assert found.parts_s["head"] == [100.0] * (NEW - 1)
    assert found.parts_s["host"] == [0.0] * (NEW - 1)
    assert found.step_s == [161.0] * (NEW - 1)


@pytest.mark.parametrize("compact", [False, True])
def test_a_vocabulary_projection_for_a_test_belongs_to_the_test(
    opt: Decoder, monkeypatch: pytest.MonkeyPatch, compact: bool
) -> None:
    clock = FakeClock()
    spending(opt, clock, monkeypatch)
    found, output = instrumented(opt, "calm(threshold=0.05,decay=none)", clock, compact, rows=8)
    for i, step in enumerate(output.trace.steps):
        assert found.parts_s["attention"][i] == 10.0 * step.plan.budget
        assert found.parts_s["exit_tests"][i] == 100.0 * step.test_reads
        assert found.parts_s["head"][i] == 100.0 * (step.head_rows > 0)
    fills = sum(found.parts_s["kv_fill"])
    assert fills >= 3.0 * sum(len(step.filled) for step in output.trace.steps)
    assert compact == (fills > 3.0 * sum(len(step.filled) for step in output.trace.steps))


@dataclass(frozen=True)
class Helpful(CALM):
    """An exit whose public helpers take time: one while it is asked where to test, one inside the test."""

    clock: Any = None

    def first_block(self) -> int:
        self.clock.spend(1000.0)
        return 1

    def certain(self, hidden: torch.Tensor) -> torch.Tensor:
        self.clock.spend(7.0)
        return hidden.new_zeros(len(hidden), dtype=torch.bool)

    def tests(self, layer: int, depth: int) -> bool:
        return layer == self.first_block()

    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        return self.certain(hidden)


def test_only_what_a_family_decides_by_is_an_exit_test(opt: Decoder) -> None:
    """Any public helper of a method was timed as one."""
    clock = FakeClock()
    found, _ = instrumented(opt, Helpful(clock=clock), clock)
    assert found.parts_s["exit_tests"] == [7.0] * (NEW - 1)
    # Where tests stand is asked once, before the prompt.
    assert found.parts_s["host"] == pytest.approx([0.0] * (NEW - 1), abs=1.0)


def test_planning_is_the_hosts_in_the_step_it_is_for(opt: Decoder) -> None:
    clock = FakeClock()
    found, _ = instrumented(opt, SlowToPlan(budget=2, clock=clock), clock)
    assert found.parts_s["host"] == found.step_s == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_model_itself_is_left_as_it_was(opt: Decoder) -> None:
    """Defect 16: clocks in the model would be in the headline too. The timed passes run on the untouched objects."""
    before = [(id(block), dict(vars(block))) for block in opt.blocks]
    names = set(vars(opt))
    instrumented(opt, "calm(threshold=0.5)")
    assert [(id(block), dict(vars(block))) for block in opt.blocks] == before
    assert set(vars(opt)) == names


@pytest.mark.parametrize("pace", [1.0, 0.5, 3.0])
def test_predicted_is_in_proportion_to_sublayers(pace: float) -> None:
    """Worked out by hand: skipping every feed sublayer saves the feed time, not half of the blocks.

    What the host does between sublayers (10 of 100) goes with them, and a machine that runs at another pace in the instrumented
    pass changes nothing.
    """
    seconds = {"embed": 1.0, "attention": 20.0, "feed": 60.0, "head": 8.0, "sampling": 1.0, "host": 10.0}
    parts = {part: [pace * value] for part, value in seconds.items()}
    taken = [{"parts_s": parts, "step_s": [pace * 100.0]}]
    full: SpeedFields = {"breakdown": taken, "runs": [{"step_s": [100.0], "repeat": 0}], "depth": 10}
    found: SpeedFields = {"heads_per_token": 1.0, "serial_attention_per_token": 10.0, "serial_feed_per_token": 0.0}
    predicted.add_predicted(full, found, {}, drafts=False)
    assert found["predicted_full_step_s"] == pytest.approx(100.0)
    assert found["predicted_step_s"] == pytest.approx(1 + 8 + 1 + 90 * 20 / 80)
    assert found["step_parts_s"]["block"] == pytest.approx(9.0)
    assert found["step_parts_s"]["rest"] == pytest.approx(1.0)
    predicted.add_predicted(None, found, {}, drafts=False)
    assert found["predicted_step_s"] is None and found["step_parts_s"] is None


def test_predicted_is_read_off_the_full_models_own_step_with_fewer_blocks() -> None:
    """Worked out by hand: a block costs 8 of 100 where half of ten run, 12 in the others; a draft pays the rest once a pass."""
    parts = {"embed": [1.0], "attention": [40.0], "feed": [40.0], "head": [8.0], "sampling": [1.0], "host": [10.0]}
    full: SpeedFields = {
        "breakdown": [{"parts_s": parts, "step_s": [100.0]}],
        "runs": [{"step_s": [pace], "repeat": i} for i, pace in enumerate((50.0, 100.0, 200.0))],
        "depth": 10,
    }
    # Each beside the full step of its own repeat: the machine's pace doubles from repeat to repeat.
    fewer = {2: [8.0, 15.0, 60.0], 5: [20.0, 41.0, 80.0]}
    state: SpeedFields = {"heads_per_token": 1.0, "serial_attention_per_token": 5.0, "serial_feed_per_token": 5.0}
    predicted.add_predicted(full, state, fewer, drafts=False)
    assert state["predicted_step_s"] == pytest.approx(40.0)
    state.update(serial_attention_per_token=7.5, serial_feed_per_token=7.5)
    predicted.add_predicted(full, state, fewer, drafts=False)
    assert state["predicted_step_s"] == pytest.approx(70.0) and state["predicted_full_step_s"] == 100.0
    state.update(heads_per_token=2.0)
    predicted.add_predicted(full, state, {}, drafts=True)
    assert state["predicted_step_s"] == pytest.approx(2 * 10 + 0.75 * 90)


def test_fewer_blocks_are_run_by_the_same_engine(opt: Decoder) -> None:
    ids, mask = ragged_prompts()
    assert fewer_blocks.counts(24) == [3, 6, 12] and fewer_blocks.counts(2) == [1] and fewer_blocks.counts(1) == []
    decoding = Decoding(opt, fewer_blocks.FirstBlocks(2), ids, mask, max_new_tokens=4, stop_at_eos=False)
    decoding.prefill()
    while not decoding.done:
        decoding.step()
    assert decoding.output().trace.layers[:, 1:].sum(2).eq(2).all()
    points = [(2, 1.0), (4, 2.0), (8, 6.0)]
    assert [fewer_blocks.step_seconds(points, n) for n in (0, 2, 3, 6, 9)] == [0.0, 1.0, 1.5, 4.0, 7.0]
