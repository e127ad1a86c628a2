"""What a gate may say of itself, by gates of no method: keys and values, prompts whose positions choose, weights and bypasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from harness.decode.engine import Decoding, Output, generate
from harness.decode.forced import force, score
from harness.errors import BadInput
from harness.method import Exit, Gate, Method, Schedule, Start
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Step
from harness.run import contract
from harness.run.contract import NEW, TOLERANCE, decode_with_logits
from harness.state import GateState
from tests.conftest import layout, ragged_prompts


@dataclass(frozen=True)
class Choosing(Gate):
    """Rows choose both sublayers by the sign of one number of the normed state; some of them nobody is asked about."""

    keys: str = "own"
    at_prompt: bool = False

    @property
    def kv(self) -> str:
        return self.keys

    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return layer % 3 != (0 if sublayer == "attention" else 1)

    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.at_prompt and self.gated(layer, sublayer, depth)

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        assert state.previous is not None and state.previous.shape == x.shape
        assert state.positions.shape == state.rows.shape == x.shape[:1]
        # Tokens at the first two places always run, as D-LLM has it.
        return (state.normed(layer, sublayer, x)[:, layer] > 0) | (state.positions < 2)


@dataclass(frozen=True)
class Never(Choosing):
    """Nothing of what is asked about runs, but for the first two places."""

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        return state.positions < 2


@dataclass(frozen=True)
class Adapted(Choosing):
    """A small map stands for what is skipped."""

    def bypass(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        assert state.rows.shape == x.shape[:1]
        return x * 0.9 + 0.1 * state.linear("calm_probe", x)


@dataclass(frozen=True)
class Weighed(Choosing):
    """What runs is multiplied by how open the gate is, one factor for each element of the state."""

    weighs: ClassVar[bool] = True

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        state.openness = torch.sigmoid(x)
        return state.openness.mean(-1) > 0.5


@dataclass(frozen=True)
class Once(Choosing):
    """A row chooses once, from the mean of its prompt, and remembers."""

    at_prompt: bool = True

    def begin(self, start: Start) -> Any:
        assert start.prompts.shape[0] == start.lengths.shape[0]
        return {}

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if state.at_prompt:
            chosen = state.mean(x)[:, layer] > 0
            rows = state.rows
            state.memory[layer, sublayer] = torch.zeros(int(rows.max()) + 1, dtype=torch.bool).index_put(
                (rows,), chosen
            )
        return state.memory[layer, sublayer][state.rows]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Leaving(Exit):
    """Exits by one number of the state, with or without a prediction of the model's own head."""

    keys: str = "recompute"
    predicts: bool = True
    most: int = 100
    at_prompt: bool = False

    @property
    def kv(self) -> str:
        return self.keys

    @property
    def most_pending(self) -> int:
        return self.most

    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.at_prompt and self.gated(layer, sublayer, depth)

    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        if self.predicts:
            return state.logits(hidden).argmax(-1) % 3 > 0
        return hidden[:, layer] > 0.5


GATES: list[Method] = [
    Choosing("hidden"),
    Choosing("own", True),
    Choosing("hidden", True),
    Never("hidden", True),
    Never("own", True),
    Adapted("own"),
    Adapted("hidden", True),
    Weighed("own", True),
    Once(),
    Once("hidden"),
    Leaving(),
    Leaving(most=1, predicts=False),
    Leaving("hidden", predicts=False),
    Leaving("own", at_prompt=True),
    Leaving("hidden", at_prompt=True, predicts=False),
]
NAMES = ("opt", "llama", "gpt_neox")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gate", GATES, ids=repr)
def test_contract(name: str, gate: Method) -> None:
    """Step by step = scoring, a row in a left-padded batch = the row alone, trace = hooks, counted FLOPs = torch's."""
    decoder = layout(name)
    for check in (
        contract.step_equals_score,
        contract.batch_equals_alone,
        contract.trace_equals_hooks,
        contract.flops_equal_counter,
    ):
        check(decoder, gate)


@pytest.mark.parametrize("gate", GATES, ids=repr)
def test_left_out_rows_and_static_buffers_change_nothing(gate: Method) -> None:
    decoder = layout("llama")
    ids, mask = ragged_prompts(rows=6)
    want = generate(decoder, gate, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    assert len({tuple(map(tuple, row)) for row in want.trace.attention.tolist()}) > 1 or isinstance(gate, Never)
    for setting in ({"compact_exits": True}, {"static": True}):
        out = generate(decoder, gate, ids, mask, max_new_tokens=NEW, stop_at_eos=False, **setting)  # type: ignore[arg-type]
        assert torch.equal(out.tokens, want.tokens) and torch.equal(out.trace.layers, want.trace.layers)
        assert out.kv_written_bytes == want.kv_written_bytes


@dataclass(frozen=True)
class Replayed(Schedule):
    """The plans that one row ran, step by step: blocks hold what ran there, or what was filled."""

    plans: tuple[LayerPlan, ...]

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return self.plans[step.index - 1]


@pytest.mark.parametrize("keys", ["own", "hidden"])
def test_a_row_alone_is_the_schedule_of_what_it_ran(decoder: Decoder, keys: str) -> None:
    ids = ragged_prompts(rows=1)[0]
    out, logits = decode_with_logits(decoder, Choosing(keys), ids)
    plans = []
    for attention, feed in zip(out.trace.attention[0, 1:].tolist(), out.trace.feed[0, 1:].tolist(), strict=True):
        fill = tuple(not a for a in attention) if keys == "own" else ()
        plans.append(LayerPlan(tuple(attention), tuple(feed), fill))
    want, expected = decode_with_logits(decoder, Replayed(tuple(plans)), ids)
    assert torch.equal(out.tokens, want.tokens) and len(set(plans)) > 1
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    # Where nobody attends a hidden position is not even stored.
    assert out.kv_written_bytes == want.kv_written_bytes


@pytest.mark.parametrize(
    "gate", [Choosing("own", True), Choosing("hidden", True), Leaving("hidden", at_prompt=True)], ids=repr
)
def test_positions_of_a_prompt_choose_as_steps_do(decoder: Decoder, gate: Method) -> None:
    sequence = ragged_prompts(rows=2, width=12)[0]
    as_prompt = score(decoder, gate, sequence, [10, 10])
    as_steps = score(decoder, gate, sequence, [1, 1])
    torch.testing.assert_close(as_prompt, as_steps, atol=TOLERANCE, rtol=0)
    full = score(decoder, Leaving(most=0), sequence, [10, 10])
    assert not torch.allclose(as_prompt, full, atol=TOLERANCE)


def steps_of(decoder: Decoder, gate: Method, rows: int = 1) -> Output:
    ids, mask = ragged_prompts(rows=rows)
    return generate(decoder, gate, ids, mask, max_new_tokens=12, stop_at_eos=False)


def test_tokens_that_left_are_computed_again_until_one_reaches_the_top(decoder: Decoder) -> None:
    free, capped = (steps_of(decoder, Leaving(most=most)) for most in (100, 2))
    for out, most in ((free, 100), (capped, 2)):
        waiting = 0
        for step, ran in zip(out.trace.steps, out.trace.layers[0, 1:], strict=True):
            assert step.passes[0].columns == waiting + 1 and waiting <= most
            assert not step.filled
            waiting = 0 if bool(ran.all()) else waiting + 1
    assert max(step.passes[0].columns for step in free.trace.steps) > 3
    none = steps_of(decoder, Leaving(most=0))
    assert bool(none.trace.layers.all()) and all(step.test_heads == 0 for step in none.trace.steps)


def test_what_waits_looks_at_the_full_models_keys(decoder: Decoder) -> None:
    """Whatever left before, a state is the full model's: forced tokens give its states at the exits."""
    ids = ragged_prompts(rows=1)[0]
    out = generate(decoder, Leaving(), ids, max_new_tokens=NEW, stop_at_eos=False)
    sequence = torch.cat((ids, out.tokens), dim=1)
    width = ids.shape[1]
    with torch.inference_mode():
        forced = force(
            decoder, Leaving(most=0), ids, None, sequence[:, width:-1], expected_tokens=NEW, keep_blocks=False
        )
        full = force(decoder, _full(), ids, None, sequence[:, width:-1], expected_tokens=NEW, keep_blocks=True)
        torch.testing.assert_close(forced.target_hidden, full.target_hidden, atol=TOLERANCE, rtol=0)
        for n, ran in enumerate(out.trace.layers[0, 1:]):
            state = full.target_blocks[int(ran.sum()) - 1][0, n]
            assert int(decoder.head(state).argmax()) == int(out.tokens[0, n + 1])


def _full() -> Method:
    import methods

    return methods.create("full")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (Choosing("shared"), "kv='shared' is not known"),
        (Choosing("recompute"), "kv='recompute' is for exits"),
        (Leaving(at_prompt=True), "whose prompt runs at full depth"),
    ],
)
def test_what_does_not_fit_together_is_refused(opt: Decoder, gate: Method, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Decoding(opt, gate, ragged_prompts(rows=1)[0], max_new_tokens=NEW)


@pytest.mark.parametrize("keys", ["own", "hidden"])
def test_a_training_pass_gives_the_same_states_and_gradients_to_what_decided(decoder: Decoder, keys: str) -> None:
    """Straight through: forward as it decodes, backward as if the openness had multiplied."""

    @dataclass(frozen=True)
    class Routed(Choosing):
        def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
            state.openness = state.probe("calm_probe", x)
            return state.openness > 0.5

    ids, mask = ragged_prompts(rows=3)
    prompts = torch.stack([row.roll(-int(9 - m.sum())) for row, m in zip(ids, mask, strict=True)])
    lengths, targets = mask.sum(1), ragged_prompts(rows=3, width=5, seed=2)[0] + 2
    gate = Routed(keys, True)
    decoder.refresh()  # the weights again, so that gradients reach them
    wanted = decoder.extras
    with torch.no_grad():
        plain = force(decoder, gate, prompts, lengths, targets, expected_tokens=NEW)
    trained = {name: tensor.clone().requires_grad_(True) for name, tensor in wanted.items()}
    try:
        decoder.extras = trained
        forced = force(
            decoder, gate, prompts, lengths, targets, expected_tokens=NEW, training=True,
            target_lengths=torch.tensor([5, 5, 5]),
        )  # fmt: skip
    finally:
        decoder.extras = wanted
    torch.testing.assert_close(forced.target_hidden, plain.target_hidden, atol=TOLERANCE, rtol=0)
    asked = sum(
        gate.gated(layer, kind, decoder.depth) for layer in range(decoder.depth) for kind in ("attention", "feed")
    )
    assert len(forced.gates) == asked
    for one in forced.gates:
        assert one.openness is not None and one.runs.shape == one.openness.shape == (int(lengths.sum()) + 15,)
    forced.target_hidden.sum().backward()
    gradient = trained["calm_probe.weight"].grad
    assert gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 0
