"""Rows that have exited may be left out of the blocks above: same tokens, less work, all of it counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.decode.engine import Decoding, generate
from harness.decode.forced import score
from harness.measure.probes import flops
from harness.method import Gate
from harness.models import fused
from harness.models.decoder import Decoder
from harness.models.kernels import linear, native
from harness.plan import LayerPlan
from harness.state import GateState
from tests.conftest import ragged_prompts
from tests.method_cases import CASES

NEW = 10


SPECS = [*CASES["calm"], *CASES["ffn_skip"], *CASES["patience"]]


@pytest.mark.parametrize("spec", SPECS)
def test_the_tokens_are_the_same(decoder: Decoder, spec: str) -> None:
    method = methods.create(spec)
    ids, mask = ragged_prompts(rows=8)
    along = generate(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False, compact_exits=True)
    assert torch.equal(out.tokens, along.tokens)
    assert torch.equal(out.trace.layers, along.trace.layers)
    assert out.kv_written_bytes == along.kv_written_bytes


def test_every_block_runs_for_the_rows_that_have_not_left(opt: Decoder) -> None:
    ids, mask = ragged_prompts(rows=8)
    method = methods.create("calm(threshold=0.05,decay=none)")
    out = generate(opt, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False, compact_exits=True)
    seen = set()
    for step in out.trace.steps:
        assert step.rows is not None
        ran = torch.ones(8, 2, opt.depth, dtype=torch.bool) if step.ran is None else step.ran
        assert list(step.rows) == [(count, count) for count in ran[:, 0].sum(0).tolist()[: len(step.rows)]]
        assert step.fill_rows == sum(8 - rows for rows, _ in step.rows)
        seen.update(step.rows)
    assert len(seen) > 2


@pytest.mark.parametrize("spec", SPECS)
def test_flops_equal_torch_counter(opt: Decoder, spec: str) -> None:
    ids, _ = ragged_prompts(rows=8)
    ids[ids == 0] = 5
    method = methods.create(spec)
    totals = []
    for compact in (False, True):
        with sdpa_kernel(SDPBackend.MATH), linear.only("torch"), FlopCounterMode(display=False) as counter:
            decoding = Decoding(opt, method, ids, max_new_tokens=NEW, stop_at_eos=False, compact_exits=compact)
            decoding.prefill()
            prefill = counter.get_total_flops()
            while not decoding.done:
                decoding.step()
        counted = flops.count(decoding.trace, opt.geometry, 4, 4)
        assert counted.decode == pytest.approx(counter.get_total_flops() - prefill, rel=0.01)
        totals.append(counted.decode)
    assert totals[1] <= totals[0]


@dataclass(frozen=True)
class ByToken(Gate):
    """Rows choose both sublayers by the sign of one number of the state; some of them nobody is asked about."""

    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return layer % 3 != (0 if sublayer == "attention" else 1)

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        assert state.previous is not None and state.previous.shape == x.shape
        return x[:, layer] > 0


@dataclass(frozen=True)
class Nothing(ByToken):
    """All rows skip what they are asked about."""

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        return x.new_zeros(x.shape[:1], dtype=torch.bool)


@dataclass(frozen=True)
class Everything(ByToken):
    """No row skips anything."""

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        return x.new_ones(x.shape[:1], dtype=torch.bool)


@pytest.mark.parametrize("compact", [False, True])
def test_rows_choose_sublayers_apart(decoder: Decoder, compact: bool) -> None:
    """A gate of no method: rows differ, each is scored as it is decoded, and with all answers alike it is a plan."""
    ids, mask = ragged_prompts(rows=4)
    out = generate(decoder, ByToken(), ids, mask, max_new_tokens=NEW, stop_at_eos=False, compact_exits=compact)
    differ = out.trace.attention[:, 1:] != out.trace.attention[:1, 1:]
    assert bool(differ.any()) and not torch.equal(out.trace.attention, out.trace.feed)
    for row in range(4):
        prompt = ids[row][mask[row].bool()]
        alone = generate(decoder, ByToken(), prompt.unsqueeze(0), max_new_tokens=NEW, stop_at_eos=False)
        assert torch.equal(alone.tokens[0], out.tokens[row])
        assert torch.equal(alone.trace.attention[0], out.trace.attention[row])
        sequence = torch.cat((prompt, out.tokens[row])).unsqueeze(0)
        scored = score(decoder, ByToken(), sequence, [len(prompt)], expected_tokens=NEW)[0, len(prompt) - 1 : -1]
        assert torch.equal(scored.argmax(-1), out.tokens[row])
    none = generate(decoder, Nothing(), ids, mask, max_new_tokens=NEW, stop_at_eos=False, compact_exits=compact)
    every = generate(decoder, Everything(), ids, mask, max_new_tokens=NEW, stop_at_eos=False, compact_exits=compact)
    full = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    assert torch.equal(every.tokens, full.tokens)
    gate, depth = Nothing(), decoder.depth
    kept = [tuple(not gate.gated(i, kind, depth) for i in range(depth)) for kind in ("attention", "feed")]
    for step in none.trace.steps:
        assert step.plan == LayerPlan(*kept) and len(step.filled) == depth - sum(kept[0])
    assert none.kv_written_bytes == full.kv_written_bytes


@dataclass(frozen=True)
class Looking(Everything):
    """Asked before the feed-forward sublayers, and before attention too unless `seldom`; keeps what it was shown there."""

    shown: list[torch.Tensor]
    seldom: bool = False

    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return sublayer == "feed" or not self.seldom

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        assert state.previous is not None
        if sublayer == "feed":
            self.shown.extend((x.clone(), state.previous.clone()))
        return super().runs(layer, sublayer, x, state)


@pytest.mark.skipif(native.library() is None, reason=f"compiled kernels are {native.status()}")
def test_what_lies_between_two_questions_is_one_call(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question sees the same states, bit for bit, whether the sublayers before it ran together or one by one."""
    calls: list[int] = []
    original = fused.Stack.run

    def counted(self: fused.Stack, codes: Any, x: torch.Tensor, *more: Any) -> torch.Tensor | None:
        out = original(self, codes, x, *more)
        calls.append(len(codes) * (out is not None))
        return out

    monkeypatch.setattr(fused.Stack, "run", counted)
    ids, _ = ragged_prompts(rows=3)
    shown: list[list[torch.Tensor]] = [[], []]
    for seldom in (False, True):
        with linear.only("native"):
            decoding = Decoding(decoder, Looking(shown[seldom], seldom), ids, max_new_tokens=4, stop_at_eos=False)
            decoding.prefill()
            calls.clear()
            decoding.step()
            if fused_whole(decoder):
                depth = decoder.depth
                assert calls == ([1, *[2] * (depth - 1), 1] if seldom else [1] * 2 * depth)
            decoding.step()
    assert len(shown[0]) == len(shown[1]) == 4 * decoder.depth
    assert all(torch.equal(one, two) for one, two in zip(*shown, strict=True))


def fused_whole(decoder: Decoder) -> bool:
    """Whether the kernels run all blocks of a model."""
    stack = getattr(decoder.blocks[0], "_stack", None)
    return stack is not None and None not in stack.sublayers()
