"""What training runs in place of torch's own ways: the same values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from harness.models.attention import PLAIN, Rule, attention
from harness.models.block import Context
from harness.models.kernels.linear import Joined, Linear, Tail
from harness.models.kernels.low_rank import Adapted, mixed

ROWS, COLUMNS, HEADS, KV_HEADS, SIZE, PAST = 3, 5, 4, 2, 8, 4


def _gradients(out: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, of, torch.randn(out.shape))]


@pytest.mark.parametrize("case", ["causal", "padded", "alibi"])
def test_attention_with_gradients_is_that_of_torch(case: str) -> None:
    torch.manual_seed(0)
    keys = COLUMNS if case == "causal" else PAST + COLUMNS
    q = torch.randn(ROWS, COLUMNS, HEADS, SIZE, requires_grad=True)
    k, v = (torch.randn(ROWS, KV_HEADS, keys, SIZE, requires_grad=True) for _ in range(2))
    positions = torch.arange(COLUMNS).expand(ROWS, -1) + (keys - COLUMNS)
    mask, at, rule = None, torch.arange(keys).expand(ROWS, -1), PLAIN
    if case != "causal":
        seen = torch.arange(PAST) < torch.tensor([4, 1, 2])[:, None]
        own = torch.ones(COLUMNS, COLUMNS, dtype=torch.bool).tril()
        mask = torch.cat((seen[:, None].expand(-1, COLUMNS, -1), own.expand(ROWS, -1, -1)), 2)[:, None]
    added = mask
    if case == "alibi":
        rule = Rule(slopes=torch.tensor([0.5, 0.25, 0.125, 0.0625]))
        distance = (at[:, None] - positions[:, :, None])[:, None]
        added = torch.where(mask, rule.slopes.view(1, -1, 1, 1) * distance, float("-inf"))
    plain = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, added, is_causal=case == "causal", enable_gqa=True)
    wanted = _gradients(plain.transpose(1, 2).flatten(2), q, k, v)
    context = Context(positions, mask, causal=case == "causal")
    for _ in range(2):  # made, then kept
        found = _gradients(attention(q, k, v, context, rule, at), q, k, v)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tail", [False, True])
def test_adapters_get_the_gradients_that_the_whole_weight_would_hand_on(tail: bool) -> None:
    torch.manual_seed(0)
    parts = [
        Adapted(torch.randn(n, 16), torch.randn(2, 16, requires_grad=True), torch.randn(n, 2, requires_grad=True), 0.5)
        for n in (6, 8)
    ]
    x, bias = torch.randn(3, 4, 16, requires_grad=True), torch.randn(14)
    linear = Linear(Joined(parts), bias)
    whole = torch.cat([part.whole() for part in parts])
    factors = [f for p in parts for f in (p.down, p.up)]
    first = 4 if tail else 0  # inside the first part
    found = (Tail(linear, first) if tail else linear)(x)
    wanted = F.linear(x, whole[first:], bias[first:])
    torch.testing.assert_close(_gradients(found, x, *factors), _gradients(wanted, x, *factors), atol=1e-4, rtol=1e-4)


def test_a_frozen_weight_is_cast_again_once_it_changed() -> None:
    weight = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = mixed(weight)
        assert mixed(weight) is first
        weight.add_(1)
        assert torch.equal(mixed(weight), weight.bfloat16())
