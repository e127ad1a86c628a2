"""Invariants every registered method must keep, over the table in method_cases.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.method import Exit, Method, Schedule
from harness.models.decoder import Decoder
from harness.models.kernels import linear
from harness.plan import LayerPlan, Step
from harness.run import contract
from harness.run.contract import NEW, decode_with_logits
from tests.conftest import CONTRACT, MODELS, layout, ragged_prompts
from tests.method_cases import CASES, PAIRS, SPECS


def test_every_registered_method_has_cases() -> None:
    assert set(CASES) == set(methods.names()) and {spec for _, spec in PAIRS} == set(SPECS)
    assert {(name, methods.create(spec).name) for name, spec in PAIRS} == set(itertools.product(CONTRACT, CASES))
    for name, specs in CASES.items():
        assert specs and all(methods.create(spec).name == name for spec in specs)


@pytest.mark.parametrize(("name", "spec"), [pair for pair in PAIRS if not methods.create(pair[1]).cannot_score])
def test_stepwise_decoding_equals_score(name: str, spec: str) -> None:
    """Invariant 2, in a left-padded batch: each emitted token's logits equal the parallel pass."""
    contract.step_equals_score(layout(name), methods.create(spec))


def test_score_takes_rows_of_different_prompt_lengths(decoder: Decoder) -> None:
    ids = torch.randint(2, 90, (3, 12), generator=torch.Generator().manual_seed(1))
    method = methods.create("skipdecode(min_layers=2,max_layers=5)")
    together = score(decoder, method, ids, [3, 12, 7], expected_tokens=6)
    for row, length in enumerate((3, 12, 7)):
        alone = score(decoder, method, ids[row : row + 1], [length], expected_tokens=6)[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_row_in_padded_batch_equals_row_alone(name: str, spec: str) -> None:
    """Invariant 3."""
    contract.batch_equals_alone(layout(name), methods.create(spec))


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_no_skip_setting_equals_full(name: str, spec: str) -> None:
    """Invariant 4: bit for bit, because the same blocks run in the same order; verified drafts run several columns at once."""
    contract.no_skip_equals_full(layout(name), methods.create(spec))


@pytest.mark.parametrize(("name", "spec"), [pair for pair in PAIRS if methods.create(pair[1]).exact])
def test_exact_methods_equal_full(name: str, spec: str) -> None:
    contract.exact_equals_full(layout(name), methods.create(spec))


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_trace_equals_independent_count(name: str, spec: str) -> None:
    """Invariant 5: sublayers counted where they run, not where the engine records them."""
    contract.trace_equals_hooks(layout(name), methods.create(spec))


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_flops_equal_torch_counter(name: str, spec: str) -> None:
    """Invariant 6, on the math backend (the default CPU kernel is not counted by torch)."""
    contract.flops_equal_counter(layout(name), methods.create(spec))


def test_flop_check_would_notice_an_uncounted_backend(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=2)
    ids[ids == 0] = 5
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), linear.only("torch"), FlopCounterMode(display=False) as counter:
        out = generate(opt, methods.create("full"), ids, max_new_tokens=NEW, stop_at_eos=False)
    counted = flops.count(out.trace, opt.geometry, 4, 4)
    assert counted.prefill + counted.decode > 1.01 * counter.get_total_flops()


@pytest.mark.parametrize("spec", SPECS)
def test_repr_rebuilds_the_method(spec: str) -> None:
    method = methods.create(spec)
    assert methods.create(str(method)) == method
    assert hash(method) == hash(methods.create(spec))


def check_only_shrinks(method: Schedule, depth: int, steps: int = 20) -> None:
    """SkipDecode's promise: a later step runs a subset of what an earlier one ran."""
    before = set(range(depth))
    for k in range(1, steps + 1):
        now = set(method.layers(Step(k, 12), 9, depth).blocks)
        assert now <= before, f"step {k} runs {sorted(now - before)} that step {k - 1} did not"
        before = now


@pytest.mark.parametrize("spec", CASES["skipdecode"])
def test_skipdecode_only_shrinks(spec: str) -> None:
    method = methods.create(spec)
    assert isinstance(method, Schedule)
    check_only_shrinks(method, 6)


@dataclass(frozen=True)
class Rising(methods.get("skipdecode")):  # type: ignore[misc]
    """SkipDecode broken on purpose: the budget rises."""

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return super().layers(Step(max(12 - step.index, 1), step.expected_tokens), prompt_length, depth)  # type: ignore[no-any-return]


def test_a_broken_schedule_turns_the_check_red() -> None:
    with pytest.raises(AssertionError, match="that step"):
        check_only_shrinks(Rising(min_layers=2, max_layers=5), 6)


@dataclass(frozen=True)
class Wandering(Schedule):
    """Different sublayers at every step, attention and feed apart: blocks come back after they were skipped."""

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return LayerPlan(
            tuple((i + step.index) % 3 != 0 for i in range(depth)),
            tuple((i + step.index) % 2 == 0 for i in range(depth)),
        )


def test_sublayer_plans_with_holes_score_as_they_decode(decoder: Decoder) -> None:
    method = Wandering()
    ids, mask = ragged_prompts()
    out, logits = decode_with_logits(decoder, method, ids, mask)
    prompt = ids[1][mask[1].bool()]
    scored = score(decoder, method, torch.cat((prompt, out.tokens[1])).unsqueeze(0), [len(prompt)], expected_tokens=NEW)
    torch.testing.assert_close(scored[0, len(prompt) - 1 : -1], logits[1], atol=1e-4, rtol=0)
    assert not torch.equal(out.trace.attention, out.trace.feed)


@dataclass(frozen=True)
class Passing(Schedule):
    """What does not run leaves its keys and values for later steps, and scales what passes; attention comes back."""

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        attention = tuple((i + step.index) % 3 != 0 for i in range(depth))
        feed = tuple((i + step.index) % 4 != 1 for i in range(depth))
        fill = tuple(not a and i % 2 == 0 for i, a in enumerate(attention))
        scale = tuple(0.9 + 0.02 * ((i * step.index) % 11) for i in range(2 * depth))
        return LayerPlan(attention, feed, fill, scale)

    def prompt_plan(self, depth: int) -> LayerPlan:
        plan = self.layers(Step(5, 1), 1, depth)
        return LayerPlan(plan.attention, plan.feed, tuple(not a for a in plan.attention), plan.scale)


@pytest.mark.parametrize(
    "check",
    [
        contract.step_equals_score,
        contract.batch_equals_alone,
        contract.trace_equals_hooks,
        contract.flops_equal_counter,
    ],
)
def test_what_a_plan_fills_and_scales_is_kept(decoder: Decoder, check: Callable[[Decoder, Method], None]) -> None:
    check(decoder, Passing())


def test_plans_that_cannot_be_are_refused(opt: Decoder) -> None:
    @dataclass(frozen=True)
    class Late(Schedule):
        """Attends where the prompt left nothing."""

        def prompt_plan(self, depth: int) -> LayerPlan:
            return LayerPlan.of(range(3), depth)

        def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
            return LayerPlan.full(depth)

    ids, _ = ragged_prompts(rows=1)
    with pytest.raises(
        BadInput, match="Late: step 1 stores keys and values in block 3, which holds none of the prompt"
    ):
        generate(opt, Late(), ids, max_new_tokens=3)
    for arguments, said in (
        ({"fill": (True, False)}, "to attend and to fill"),
        ({"fill": (True,)}, "1 fill flags for 2 blocks"),
        ({"scale": (1.0, 2.0)}, "2 scales for 4 sublayers"),
        ({"scale": (1.0, float("nan"), 1.0, 1.0)}, "not a finite number"),
    ):
        with pytest.raises(BadInput, match=said):
            LayerPlan((True, False), (True, True), **arguments)  # type: ignore[arg-type]


def test_exits_differ_between_rows_and_rise_with_the_threshold() -> None:
    decoder = MODELS["opt"]()
    ids, mask = ragged_prompts(rows=8)
    depths = []
    for threshold in (0.0, 0.05, 0.2, 1.0):
        method = methods.create("calm", threshold=threshold, decay="none")
        assert isinstance(method, Exit)
        out = generate(decoder, method, ids, mask, max_new_tokens=12, stop_at_eos=False)
        depths.append(out.trace.layers[:, 1:].sum(2).double().mean().item())
    assert depths == sorted(depths)
    assert depths[0] == 1 and depths[-1] == decoder.depth and 1 < depths[1] < decoder.depth
