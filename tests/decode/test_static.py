"""Static buffers give the tokens of the plain loop; the graphs over them are tested where there is a GPU."""

from __future__ import annotations

import pytest
import torch

import methods
from harness.decode.engine import Decoding, Output, generate
from harness.method import Draft
from harness.models.decoder import Decoder
from harness.models.kernels.linear import only
from tests.conftest import MODELS, layout, ragged_prompts, tiny
from tests.method_cases import PAIRS
from tests.models.test_families import HOLES, VARIANTS

NEW = 10
STATIC_PAIRS = [(name, spec) for name, spec in PAIRS if not isinstance(methods.create(spec), Draft)]


def logits_and_output(
    decoder: Decoder, spec: str, static: bool, mask: torch.Tensor | None
) -> tuple[Output, torch.Tensor]:
    ids = ragged_prompts(rows=4)[0]
    method = HOLES if spec == "holes" else methods.create(spec)
    decoding = Decoding(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False, static=static)
    decoding.prefill()
    logits = []
    while not decoding.done:
        decoding.step()
        assert decoding.logits is not None
        logits.append(decoding.logits.clone())
    return decoding.output(), torch.stack(logits)


def same(decoder: Decoder, spec: str, padded: bool = True) -> None:
    mask = ragged_prompts(rows=4)[1] if padded else None
    want, want_logits = logits_and_output(decoder, spec, False, mask)
    for _ in range(2):  # the second generation finds the buffers of the first
        got, logits = logits_and_output(decoder, spec, True, mask)
        torch.testing.assert_close(logits, want_logits, atol=1e-4, rtol=0)
        assert torch.equal(got.tokens, want.tokens)
        assert torch.equal(got.trace.layers, want.trace.layers)
        assert got.kv_written_bytes == want.kv_written_bytes
    assert len(decoder.static_steps) >= 1


@pytest.mark.parametrize(("name", "spec"), STATIC_PAIRS)
def test_every_method_on_static_buffers(name: str, spec: str) -> None:
    same(layout(name), spec)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_on_static_buffers(name: str) -> None:
    model = VARIANTS[name]()
    for spec in ("full", "holes", "calm(threshold=0.3)"):
        same(model, spec, padded=spec != "full")


def test_buffers_are_used_again_by_generations_of_one_shape_and_by_one_at_a_time(opt: Decoder) -> None:
    opt.static_steps.clear()
    full, ids = methods.create("full"), ragged_prompts(rows=2)[0]
    first = Decoding(opt, full, ids, max_new_tokens=4, static=True)
    second = Decoding(opt, full, ids + 1, max_new_tokens=4, static=True)
    assert first._static is not second._static
    for decoding, prompt in ((first, ids), (second, ids + 1)):
        decoding.prefill()
        while not decoding.done:
            decoding.step()
        want = generate(opt, full, prompt, max_new_tokens=4, static=False)
        assert torch.equal(decoding.output().tokens, want.tokens)
    third = Decoding(opt, full, ids, max_new_tokens=4, static=True)
    assert third._static is second._static
    opt.refresh()
    assert not opt.static_steps


def test_changing_shapes_have_no_static_buffers(opt: Decoder) -> None:
    ids = ragged_prompts(rows=2)[0]
    for spec, compact in (("layerskip(exit_layer=2,draft_tokens=3)", False), ("calm(threshold=0.3)", True)):
        decoding = Decoding(opt, methods.create(spec), ids, max_new_tokens=4, compact_exits=compact, static=True)
        assert decoding._static is None
    # Under the same setting a schedule's shapes stay as they are: full must not be slowed down by what exits need.
    assert (
        Decoding(opt, methods.create("full"), ids, max_new_tokens=4, compact_exits=True, static=True)._static
        is not None
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["opt", "llama", "gpt_neox", "bloom", "gemma2"])
@pytest.mark.parametrize("spec", ["full", "holes", "skipdecode(speedup=2)", "calm(threshold=0.3)"])
def test_graphs_give_the_numbers_of_the_plain_loop(name: str, spec: str) -> None:
    model = tiny(name, depth=4) if name != "opt" else MODELS["opt"]()
    model.source.to("cuda")
    model.extras = {key: value.cuda() for key, value in model.extras.items()}
    model.build()
    model.refresh()
    same(model, spec)
    with only("row"):
        same(model, spec, padded=False)
