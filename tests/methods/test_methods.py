"""Parameters, rules and refusals of single methods."""

from __future__ import annotations

import pytest
import torch

import methods
from harness.errors import BadInput
from harness.method import Schedule
from harness.plan import LayerPlan, Step
from harness.state import GateState
from methods.calm import CALM
from methods.skipdecode import SkipDecode


def budgets(method: Schedule, depth: int, steps: int, expected: int) -> list[int]:
    return [method.layers(Step(k, expected), 10, depth).budget for k in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("speedup", "depth", "low", "high"),
    [(2, 24, 8, 16), (3, 24, 6, 10), (4, 24, 5, 7), (5, 24, 4, 6), (2, 32, 11, 22), (5, 32, 5, 8), (1, 24, 24, 24)],
)
def test_skipdecode_reported_settings(speedup: float, depth: int, low: int, high: int) -> None:
    assert SkipDecode(speedup=speedup).limits(depth) == (low, high)


@pytest.mark.parametrize("depth", [6, 12, 28, 40, 80])
@pytest.mark.parametrize("speedup", [1.5, 2, 3, 4])
def test_skipdecode_other_depths_keep_the_mean(depth: int, speedup: float) -> None:
    low, high = SkipDecode(speedup=speedup).limits(depth)
    assert 1 <= low <= high <= depth
    assert (low + high) / 2 == pytest.approx(depth / speedup, abs=0.5)


def test_skipdecode_decays_linearly_to_the_horizon_and_stays() -> None:
    method = SkipDecode(min_layers=8, max_layers=16, horizon=9)
    assert budgets(method, 24, 12, 99) == [16, 15, 14, 13, 12, 11, 10, 9, 8, 8, 8, 8]
    assert budgets(SkipDecode(speedup=2), 24, 9, 9) == budgets(method, 24, 9, 99)


def test_skipdecode_runs_the_bottom_and_the_top() -> None:
    plan = SkipDecode(min_layers=4, max_layers=4, warmup=1).layers(Step(1, 10), 5, 24)
    assert plan.blocks == (0, 21, 22, 23)
    assert SkipDecode(min_layers=4, max_layers=4, warmup=0).layers(Step(1, 10), 5, 24).blocks == (20, 21, 22, 23)


def state(step: int, expected: int = 10) -> GateState:
    return GateState(lambda hidden: hidden, {}, step, expected)


def test_calm_softmax_is_the_gap_of_the_two_largest_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    gap = float(logits.softmax(-1)[0, 0] - logits.softmax(-1)[0, 1])
    for threshold, leaves in ((gap - 1e-4, True), (gap + 1e-4, False)):
        assert bool(CALM(threshold=threshold, decay="none").should_exit(0, logits, state(1))) is leaves


@pytest.mark.parametrize(
    ("decay", "step", "want"),
    [("none", 5, 0.5), ("paper", 5, 0.45 + 0.1 * 0.1353353), ("t5x", 5, 0.45 + 0.05 * 0.1353353), ("paper", 0, 0.55)],
)
def test_calm_threshold_decays_as_the_variant_says(decay: str, step: int, want: float) -> None:
    """Equation 5 at tau = 4, N = 10, worked by hand: exp(-4 * 5 / 10) = 0.1353353."""
    method = CALM(threshold=0.5, decay=decay)
    # Of two tokens whose logits are 2 atanh(gap) apart the probabilities are `gap` apart: one row just below, one just above.
    gaps = torch.tensor([want - 1e-6, want + 1e-6], dtype=torch.float64)
    logits = torch.stack((2 * gaps.atanh(), torch.zeros(2)), dim=1)
    many = GateState(lambda hidden: hidden, {}, torch.tensor([step, step]), 10)
    for asked in (state(step), many):
        assert method.should_exit(0, logits, asked).tolist() == [False, True]


def test_calm_threshold_one_never_tests() -> None:
    assert not any(CALM(threshold=1.0).tests(layer, 6) for layer in range(6))


def test_calm_state_starts_at_the_second_block() -> None:
    assert [CALM(confidence="state").tests(layer, 4) for layer in range(4)] == [False, True, True, False]


def test_classifier_without_a_probe_is_refused() -> None:
    with pytest.raises(BadInput, match="probe"):
        CALM(confidence="classifier").resolve(6, {})


BAD = [
    ("calmm", "did you mean 'calm'"),
    ("nothing_like_it", "known: full"),
    ("calm(threshold=1.2)", "threshold=1.2 is out of range"),
    ("calm(confidence=entropy)", "confidence=entropy is out of range; one of softmax"),
    ("calm(thresold=0.5)", "did you mean 'threshold'"),
    ("calm(threshold=high)", "wrong type; give float"),
    ("calm(threshold=True)", "wrong type"),
    ("calm(0.5)", "cannot be read"),
    ("calm(threshold=0.5", "cannot be read"),
    ("calm(threshold=__import__('os'))", "not a plain value"),
    ("skipdecode(speedup=0)", "speedup=0.0 is out of range"),
    ("skipdecode(min_layers=9,max_layers=4)", "at most max_layers=4"),
    ("skipdecode(min_layers=4)", "give max_layers with it"),
    ("skipdecode(min_layers=2,max_layers=4,warmup=3)", "warmup=3 is out of range; at most min_layers=2"),
    ("skipdecode(speedup=2,min_layers=2,max_layers=4)", "give it or min_layers and max_layers"),
    ("skipdecode(horizon=0)", "horizon=0"),
    ("fixed_exit(budget=0)", "budget=0"),
    ("fixed_exit(budget=1.5)", "wrong type; give int"),
    ("fixed_exit(side=left)", "bottom or top"),
    ("full(layers=3)", "it takes no parameters"),
]


@pytest.mark.parametrize(("spec", "message"), BAD)
def test_bad_specs_are_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        methods.create(spec)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        "skipdecode(min_layers=2,max_layers=9)",
        "skipdecode(speedup=8)",
        "fixed_exit(budget=7)",
        "random_skip(budget=7)",
        "calm(first_exit=7)",
    ],
)
def test_what_does_not_fit_the_model_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="at most the model's 6 blocks"):
        methods.create(spec).resolve(6, {})


def test_plan_refuses_blocks_outside_the_model() -> None:
    with pytest.raises(BadInput, match="do not fit"):
        LayerPlan.of([3, 6], 6)
    with pytest.raises(BadInput, match="attention flags"):
        LayerPlan((True,), (True, False))


def test_random_skip_is_fixed_by_its_seed() -> None:
    first = methods.create("random_skip(budget=5,seed=1)")
    assert isinstance(first, Schedule)
    plans = {first.layers(Step(k, 10), 3, 24).blocks for k in range(1, 9)}
    assert len(plans) == 1 and len(plans.pop()) == 5
    other = methods.create("random_skip(budget=5,seed=2)")
    assert isinstance(other, Schedule)
    assert other.layers(Step(1, 10), 3, 24) != first.layers(Step(1, 10), 3, 24)
