"""bfloat16 weights on a CPU: what the same rounded weights give in float32, from half the bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.measure.conditions import types
from harness.measure.probes import flops
from harness.models.decoder import Decoder
from harness.models.kernels import linear as kernels
from harness.models.kernels import native
from harness.models.load import load_model
from tests.conftest import MODELS, ragged_prompts, tiny
from tests.methods.test_contract import decode_with_logits
from tests.models.test_native import EVERY, IN_CALLS, SPECS, WIDTHS

NEW = 12


def pair(model: Decoder) -> tuple[Decoder, Decoder]:
    """A model with bfloat16 weights, and with the same rounded weights in float32."""
    half = copy.deepcopy(model.source).to(torch.bfloat16)
    rounded = copy.deepcopy(half).float()
    return load_model(half), load_model(rounded)


@pytest.fixture(params=[kernels.NATIVE, kernels.TORCH])
def how(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.only(request.param):
        yield request.param


@pytest.mark.parametrize("name", EVERY)
def test_the_tokens_of_the_rounded_weights_in_float32(name: str, isa: str, runs: list[str]) -> None:
    """Widening rounds nothing, so not a bit differs: in the kernels for every width, and in torch's calls."""
    if isa != native.isas()[0] and name not in WIDTHS:
        pytest.skip("sizes that meet every branch are enough for the narrower widths")
    half, rounded = pair(EVERY[name]())
    ids, mask = ragged_prompts(rows=3, width=20)
    for spec in SPECS[:2] if name in IN_CALLS else SPECS:
        method = methods.create(spec)
        for how in (kernels.NATIVE, kernels.TORCH):
            with kernels.only(how):
                want, want_logits = decode_with_logits(rounded, method, ids, mask, NEW)
                before = len(runs)
                got, logits = decode_with_logits(half, method, ids, mask, NEW)
            assert (len(runs) > before) == (how == kernels.NATIVE and (name not in IN_CALLS)), (
                "the kernels ran the blocks"
            )
            assert torch.equal(logits, want_logits) and logits.dtype == torch.float32
            assert torch.equal(got.tokens, want.tokens)
            assert torch.equal(got.trace.layers, want.trace.layers)
            assert got.kv_cache_bytes == want.kv_cache_bytes, "keys and values are float32"


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_batch_and_score_agree_with_the_row_alone(family: str, how: str) -> None:
    half, rounded = pair(tiny(family))
    full = methods.create("full")
    ids, mask = ragged_prompts(rows=4)
    together = generate(half, full, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    for row in range(4):
        own = ids[row][mask[row].bool()].unsqueeze(0)
        alone, logits = decode_with_logits(half, full, own, torch.ones_like(own), NEW)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        whole = torch.cat((own, alone.tokens), 1)
        forced = score(half, full, whole, [own.shape[1]])
        torch.testing.assert_close(forced[:, own.shape[1] - 1 : -1], logits, atol=1e-5, rtol=0)
        assert torch.equal(forced, score(rounded, full, whole, [own.shape[1]]))


def test_two_bytes_a_weight_and_four_a_key() -> None:
    half, rounded = pair(tiny("llama"))
    full = methods.create("full")
    ids, mask = ragged_prompts(rows=2)
    out = generate(half, full, ids, mask, max_new_tokens=4, stop_at_eos=False)
    assert 2 * half.weight_bytes == rounded.weight_bytes
    assert half.kind == f"{rounded.kind}, bfloat16", "a contest between kernels and torch is one for each type"
    fields = [
        flops.fields([out.trace], half.geometry, d.dtype.itemsize, d.state_dtype.itemsize) for d in (half, rounded)
    ]
    assert 2 * fields[0]["weight_bytes_per_token"] == fields[1]["weight_bytes_per_token"]
    assert fields[0]["kv_bytes_per_token"] == fields[1]["kv_bytes_per_token"]
    assert types(half) == "bfloat16 weights, float32 states"
    assert types(rounded) == "float32"


@pytest.mark.skipif(native.library() is None, reason=f"compiled kernels are {native.status()}")
def test_panels_take_two_bytes_a_weight() -> None:
    library = native.library()
    assert library is not None
    weight = torch.randn(3 * library.panel_columns - 1, 20)
    floats, halves = library.panels(weight), library.panels(weight.bfloat16())
    assert floats.shape == halves.shape and floats.nbytes == 2 * halves.nbytes
    assert library.map(halves, *weight.shape).size == 2 and library.map(floats, *weight.shape).size == 4


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_gradients_reach_bfloat16_weights(family: str) -> None:
    """Without and under autocast, which computes in a type of its own."""
    half, rounded = pair(tiny(family))
    ids = torch.tensor([[5, 6, 7, 8]])
    losses = []
    for decoder in (half, rounded):
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                decoder.refresh()
                loss = score_with_gradients(decoder, ids)
            loss.backward()
            losses.append(float(loss.detach()))
            grads = [p.grad for p in decoder.source.parameters() if p.requires_grad]
            assert any(g is not None and bool(g.abs().sum() > 0) for g in grads)
            decoder.source.zero_grad()
    assert losses[0] == losses[2]
    torch.testing.assert_close(losses[1], losses[3], atol=0.05, rtol=0.01)


def score_with_gradients(decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    from harness.decode.forced import force

    passed = force(decoder, methods.create("full"), ids[:, :2], None, ids[:, 2:], expected_tokens=2)
    return decoder.head(passed.target_hidden).float().square().mean()


def test_float16_is_left_to_torch() -> None:
    """On a CPU the kernels read float32 and bfloat16 alone."""
    source = copy.deepcopy(MODELS["llama"]().source).to(torch.float16)
    decoder = load_model(source)
    assert decoder.state_dtype == torch.float16
    ids, mask = ragged_prompts(rows=2)
    with kernels.only(kernels.NATIVE):
        generate(decoder, methods.create("full"), ids, mask, max_new_tokens=3)
    assert all(m._panels is None for block in decoder.blocks for m in block.maps())
