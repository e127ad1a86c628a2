"""Rows that have exited may be left out of the blocks above: same tokens, less work, all of it counted."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.decode.engine import Decoding, generate
from harness.measure.probes import flops
from harness.models.decoder import Decoder
from harness.models.kernels import linear
from tests.conftest import ragged_prompts
from tests.method_cases import CASES

NEW = 10


@pytest.mark.parametrize("spec", CASES["calm"])
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


@pytest.mark.parametrize("spec", CASES["calm"])
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
        counted = flops.count(decoding.trace, opt.geometry, 4)
        assert counted.decode == pytest.approx(counter.get_total_flops() - prefill, rel=0.01)
        totals.append(counted.decode)
    assert totals[1] <= totals[0]
