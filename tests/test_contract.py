"""Invariants every registered method must keep, over the table in method_cases.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.engine import Decoding, Output, generate
from harness.method import Draft, Exit, Method, Schedule
from harness.models import kernels
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Step
from harness.probes import flops
from harness.scoring import score
from tests.conftest import MODELS, ragged_prompts
from tests.method_cases import CASES, SPECS

NEW = 8


def decode_with_logits(
    decoder: Decoder, method: Method, ids: torch.Tensor, mask: torch.Tensor | None = None, new: int = NEW
) -> tuple[Output, torch.Tensor]:
    """A generation of fixed length and the logits [B, N, V] its tokens came from."""
    decoding = Decoding(decoder, method, ids, mask, max_new_tokens=new, stop_at_eos=False)
    decoding.prefill()
    assert decoding.logits is not None
    logits = [[row] for row in decoding.logits]
    while not decoding.done:
        decoding.step()
        got = decoding.trace.steps[-1].yielded
        for b, row in enumerate(decoding.logits):
            logits[b] += [row] if got is None else list(row[: got[b]])
    return decoding.output(), torch.stack([torch.stack(row) for row in logits])


def test_every_registered_method_has_cases() -> None:
    assert set(CASES) == set(methods.names())
    for name, specs in CASES.items():
        assert specs and all(methods.create(spec).name == name for spec in specs)


@pytest.mark.parametrize("spec", SPECS)
def test_stepwise_decoding_equals_score(decoder: Decoder, spec: str) -> None:
    """Invariant 2, in a left-padded batch: each emitted token's logits equal the parallel pass."""
    method = methods.create(spec)
    ids, mask = ragged_prompts()
    out, logits = decode_with_logits(decoder, method, ids, mask)
    for row in range(ids.shape[0]):
        prompt = ids[row][mask[row].bool()]
        sequence = torch.cat((prompt, out.tokens[row])).unsqueeze(0)
        scored = score(decoder, method, sequence, [len(prompt)], expected_tokens=NEW)[0]
        torch.testing.assert_close(scored[len(prompt) - 1 : -1], logits[row], atol=1e-4, rtol=0)


def test_score_takes_rows_of_different_prompt_lengths(decoder: Decoder) -> None:
    ids = torch.randint(2, 90, (3, 12), generator=torch.Generator().manual_seed(1))
    method = methods.create("skipdecode(min_layers=2,max_layers=5)")
    together = score(decoder, method, ids, [3, 12, 7], expected_tokens=6)
    for row, length in enumerate((3, 12, 7)):
        alone = score(decoder, method, ids[row : row + 1], [length], expected_tokens=6)[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
def test_row_in_padded_batch_equals_row_alone(decoder: Decoder, spec: str) -> None:
    """Invariant 3."""
    method = methods.create(spec)
    ids, mask = ragged_prompts(rows=4)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    for row in range(ids.shape[0]):
        alone = generate(
            decoder, method, ids[row][mask[row].bool()].unsqueeze(0), max_new_tokens=NEW, stop_at_eos=False
        )
        assert torch.equal(alone.tokens[0], out.tokens[row])
        assert torch.equal(alone.trace.layers[0], out.trace.layers[row])


@pytest.mark.parametrize("name", methods.names())
def test_no_skip_setting_equals_full(decoder: Decoder, name: str) -> None:
    """Invariant 4: bit for bit, because the same blocks run in the same order; verified drafts run several columns at once."""
    ids, mask = ragged_prompts()
    full = methods.create("full")
    expected, expected_logits = decode_with_logits(decoder, full, ids, mask)
    for spec in CASES[name]:
        same = methods.create(spec).no_skip(decoder.depth)
        assert same is not None
        out, logits = decode_with_logits(decoder, same, ids, mask)
        assert torch.equal(out.tokens, expected.tokens)
        if isinstance(same, Draft):
            torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=0)
        else:
            assert torch.equal(logits, expected_logits)
        assert out.trace.layers.all()


@pytest.mark.parametrize("spec", [s for s in SPECS if methods.create(s).exact])
def test_exact_methods_equal_full(decoder: Decoder, spec: str) -> None:
    ids, mask = ragged_prompts(rows=8)
    want = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=NEW)
    assert torch.equal(generate(decoder, methods.create(spec), ids, mask, max_new_tokens=NEW).tokens, want.tokens)


@pytest.mark.parametrize("spec", SPECS)
def test_trace_equals_independent_count(decoder: Decoder, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 5: sublayers counted where they run, not where the engine records them."""
    calls: Counter[tuple[str, int]] = Counter()

    def counting(block: object, kind: str) -> None:
        inner = getattr(block, kind)

        def wrapper(*args: object) -> object:
            calls[kind, block.index] += args[0].shape[1]  # type: ignore[attr-defined]
            return inner(*args)

        monkeypatch.setattr(block, kind, wrapper)

    for block in decoder.blocks:
        for kind in ("attend", "feed", "fill"):
            counting(block, kind)
    ids, mask = ragged_prompts()
    decoding = Decoding(decoder, methods.create(spec), ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    decoding.prefill()
    assert calls == {(kind, layer): ids.shape[1] for kind in ("attend", "feed") for layer in range(decoder.depth)}
    calls.clear()
    while not decoding.done:
        decoding.step()
    steps = decoding.trace.steps
    for layer in range(decoder.depth):
        for kind, sublayer in (("attend", "attention"), ("feed", "feed")):
            assert calls[kind, layer] == sum(step.runs(sublayer)[layer] for step in steps)
        assert calls["fill", layer] == sum(layer in step.filled for step in steps)
    if not decoding.trace.drafts:
        # A column is computed exactly as deep as its deepest row.
        assert torch.equal(decoding.trace.layers.any(0), decoding.trace.computed)


@pytest.mark.parametrize("spec", SPECS)
def test_flops_equal_torch_counter(decoder: Decoder, spec: str) -> None:
    """Invariant 6, on the math backend (the default CPU kernel is not counted by torch)."""
    method = methods.create(spec)
    ids, _ = ragged_prompts(rows=2)
    ids[ids == 0] = 5
    with sdpa_kernel(SDPBackend.MATH), kernels.only("row"), FlopCounterMode(display=False) as counter:
        decoding = Decoding(decoder, method, ids, max_new_tokens=NEW, stop_at_eos=False)
        decoding.prefill()
        prefill = counter.get_total_flops()
        while not decoding.done:
            decoding.step()
    counted = flops.count(decoding.trace, decoder.geometry, 4)
    assert counted.prefill == pytest.approx(prefill, rel=0.01)
    assert counted.decode == pytest.approx(counter.get_total_flops() - prefill, rel=0.01)


def test_flop_check_would_notice_an_uncounted_backend(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=2)
    ids[ids == 0] = 5
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), kernels.only("row"), FlopCounterMode(display=False) as counter:
        out = generate(opt, methods.create("full"), ids, max_new_tokens=NEW, stop_at_eos=False)
    counted = flops.count(out.trace, opt.geometry, 4)
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
