"""The controls of the suite `fixed-answers` do the same work by two ways: a schedule, and a gate or exit that is asked."""

from __future__ import annotations

import pytest
import torch

import methods
from harness.decode.engine import generate
from tests.conftest import tiny

PLACE = "harness.suites.fixed_answers"


@pytest.mark.parametrize(
    ("schedule", "asked", "same_tokens"),
    [
        (f"{PLACE}:LeftOut(first=1,count=2)", f"{PLACE}:AskedGate(first=1,count=2)", True),
        (f"{PLACE}:LeftOut(first=1,count=2)", f"{PLACE}:AskedGate(asked=all,first=1,count=2)", True),
        # The gate stores keys and values of what passes a skipped block; a schedule's block has none there.
        (f"{PLACE}:LeftOut(what=blocks,first=1,count=2)", f"{PLACE}:AskedGate(asked=all,what=blocks,first=1,count=2)", False),
        ("fixed_exit(budget=2)", f"{PLACE}:AskedExit(blocks=2)", False),
        ("full", f"{PLACE}:AskedExit(blocks=4)", True),
        ("full", f"{PLACE}:AskedGate(asked=all,count=0)", True),
        ("full", f"{PLACE}:Refused(draft_tokens=3)", True),
    ],
)  # fmt: skip
def test_an_asked_method_does_what_its_schedule_does(schedule: str, asked: str, same_tokens: bool) -> None:
    decoder, prompts = tiny("opt", depth=4), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    a, b = (
        generate(decoder, methods.create(spec), prompts, max_new_tokens=6, stop_at_eos=False)
        for spec in (schedule, asked)
    )
    assert torch.equal(a.tokens, b.tokens) or not same_tokens
    assert torch.equal(a.trace.attention[:, 1:], b.trace.attention[:, 1:])
    assert torch.equal(a.trace.feed[:, 1:], b.trace.feed[:, 1:])
