"""Exits with heads of their own (EE-Tuning): trained alone, and their tokens are what decoding yields."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

import methods
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.models.decoder import Decoder
from harness.run import contract
from harness.train.batches import Pair, collate
from harness.train.stage_model import ForcedModel
from tests.conftest import tiny

OWN = "ee_exit(exits=b1_b3,heads=own,threshold=0)"
PAIRS = [Pair([5, 6, 7, 8], [[9, 10, 1], [11, 12, 13, 14, 1]]), Pair([15, 16], [[17, 1]])]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """A model with heads that are not copies of its own."""
    made = tiny("opt", depth=4)
    draw = torch.Generator().manual_seed(3)
    shape = made.output_matrix.shape
    heads = {f"ee_exit_b{place}.weight": torch.randn(shape, generator=draw) for place in (1, 3)}
    yield dataclasses.replace(made, extras=heads)
    made.source.requires_grad_(True)


def test_a_row_that_leaves_speaks_through_its_exits_head(decoder: Decoder) -> None:
    """At threshold 0 all leave at the first exit: tokens after the first are its head's, not the model's own head's."""
    ids = torch.tensor([[5, 6, 7]])
    out = generate(decoder, methods.create(OWN), ids, max_new_tokens=4, stop_at_eos=False)
    shared = generate(
        decoder, methods.create("ee_exit(exits=b1_b3,threshold=0)"), ids, max_new_tokens=4, stop_at_eos=False
    )
    assert out.trace.layers[0, 1:].sum(1).tolist() == [1, 1, 1] and out.tokens[0, 0] == shared.tokens[0, 0]
    assert out.tokens.tolist() != shared.tokens.tolist()
    swapped = dataclasses.replace(decoder, extras={name: decoder.output_matrix.detach() for name in decoder.extras})
    same = generate(swapped, methods.create(OWN), ids, max_new_tokens=4, stop_at_eos=False)
    assert same.tokens.tolist() == shared.tokens.tolist(), "a copy of the model's head is the model's head"
    charged, plain = (flops.count(o.trace, decoder.geometry, 1, 1).decode for o in (out, shared))
    assert charged == plain, "an own head costs what the model's does"


def test_rows_and_no_skip_keep_the_contract(decoder: Decoder) -> None:
    method = methods.create("ee_exit(exits=b1_b3,heads=own,threshold=0.05)")
    contract.batch_equals_alone(decoder, method)
    contract.no_skip_equals_full(decoder, method)
    with pytest.raises(BadInput, match="cannot be scored: tokens that leave early come from heads of their own"):
        contract.step_equals_score(decoder, method)


def test_heads_are_needed(decoder: Decoder) -> None:
    with pytest.raises(BadInput, match=r"heads=own needs .* ee_exit_b2\.weight is missing"):
        methods.create("ee_exit(exits=b1_b2,heads=own)").resolve(4, decoder.extras)


def test_training_moves_heads_alone() -> None:
    """They begin as copies of the model's, so the first loss is that of its own head; everything else is frozen."""
    decoder = tiny("llama", depth=4)
    plan = methods.create("ee_exit(exits=b1_b3,heads=own)").training_plan()
    model = ForcedModel(decoder, plan, plan.stages[0], 5, 0)
    try:
        batch = collate(PAIRS, pad=0)
        shared = dataclasses.replace(plan.stages[0], loss=lambda f: (f.loss_at(0) + f.loss_at(2)) / 2, begin=None)
        want = ForcedModel(decoder, plan, shared, 5, 0)(**batch)["loss"]
        loss = model(**batch)["loss"]
        torch.testing.assert_close(loss.detach(), want.detach())
        decoder.source.requires_grad_(False)
        loss.backward()
        assert {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().any()} == {
            "extras.ee_exit_b1__weight",
            "extras.ee_exit_b3__weight",
        }
        assert model.named_extras()["ee_exit_b1.weight"].data_ptr() != decoder.output_matrix.data_ptr()
    finally:
        decoder.source.requires_grad_(True)


def test_an_exit_the_model_does_not_have_is_refused_before_training() -> None:
    plan = methods.create("ee_exit(exits=b4,heads=own)").training_plan()
    with pytest.raises(BadInput, match="below the model's 4 blocks"):
        ForcedModel(tiny("opt", depth=4), plan, plan.stages[0], 5, 0)
