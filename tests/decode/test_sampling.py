"""Choosing tokens: the distribution, the filters, what repeats and what ends a row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

import methods
from harness.decode.engine import generate
from harness.decode.sampling import Sampling, StopStrings, streams
from harness.errors import BadInput
from harness.models.decoder import Decoder
from tests.conftest import ragged_prompts, tiny_opt


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    n = 40_000
    tokens = Sampling(temperature=0.7, seed=3).pick(logits.expand(n, -1), torch.zeros(n), torch.arange(n))
    want = (logits / 0.7).softmax(-1).double()
    got = torch.bincount(tokens, minlength=5).double() / n
    assert float(((got - want) ** 2 / want).sum() * n) < 18.5  # chi-squared with 4 degrees of freedom, p = 0.001


def test_noise_depends_on_seed_row_and_place_alone() -> None:
    logits = torch.zeros(1, 1000)

    def pick(seed: int, row: int, place: int) -> int:
        return int(Sampling(temperature=1, seed=seed).pick(logits, torch.tensor([row]), torch.tensor([place])))

    assert pick(0, 1, 2) == pick(0, 1, 2)
    assert len({pick(s, r, p) for s in range(3) for r in range(3) for p in range(3)}) > 20


@pytest.mark.parametrize("k", [1, 3, 50, 97, 200])
def test_top_k_equals_transformers(k: int) -> None:
    logits = torch.randn(4, 97)
    assert torch.equal(Sampling(1, top_k=k).keep(logits), TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 1.0])
def test_top_p_equals_transformers(p: float) -> None:
    logits = torch.randn(4, 97) * 3
    want = TopPLogitsWarper(p)(None, logits) if p < 1 else logits
    assert torch.equal(Sampling(1, top_p=p).keep(logits), want)


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.2}])
def test_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]


def test_sampled_generation_repeats_with_its_seed(opt: Decoder) -> None:
    ids, mask = ragged_prompts()
    full = methods.create("full")

    def run(seed: int) -> torch.Tensor:
        sampling = Sampling(temperature=1.5, top_k=40, top_p=0.95, seed=seed)
        return generate(opt, full, ids, mask, max_new_tokens=12, stop_at_eos=False, sampling=sampling).tokens

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


class Letters:
    """A tokenizer of single characters: token 2 is `a`, 3 is `b`, ..."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(95 + t) for t in tokens if t > 1)


def test_stop_text_is_found_across_tokens_and_only_in_new_ones() -> None:
    stops = StopStrings(["cab"], Letters())
    assert stops.first_end([2, 4, 2, 3], 1) == 4
    assert stops.first_end([4, 2, 3, 2, 2], 1) == 5  # within reach of the newest token still
    assert stops.first_end([2, 4, 2, 3, 9], 3) == 4
    assert stops.first_end([4, 2], 2) is None
    assert not StopStrings([], None)
    for strings, tokenizer in ((["a", ""], Letters()), (["a"], None)):
        with pytest.raises(BadInput, match="stop_strings"):
            StopStrings(strings, tokenizer)


@pytest.mark.parametrize("spec", ["full", "skipdecode(min_layers=2,max_layers=5)", "layerskip(exit_layer=3)"])
def test_rows_end_with_the_token_that_completes_a_stop_text(spec: str) -> None:
    decoder = tiny_opt()
    decoder.tokenizer = Letters()
    ids, mask = ragged_prompts(rows=4)
    method = methods.create(spec)
    free = generate(decoder, method, ids, mask, max_new_tokens=12, stop_at_eos=False)
    stop = Letters().decode(free.tokens[1, 3:5].tolist())
    out = generate(decoder, method, ids, mask, max_new_tokens=12, stop_at_eos=False, stop_strings=[stop])
    for row in range(4):
        text = Letters().decode(free.tokens[row].tolist())
        length = int(out.lengths[row])
        assert torch.equal(out.tokens[row, :length], free.tokens[row, :length])
        ended = Letters().decode(out.tokens[row, :length].tolist())
        if stop in text:
            assert ended.endswith(stop) and stop not in ended[:-1]
            assert not out.tokens[row, length:].any()
        else:
            assert length == 12
    assert int(out.lengths[1]) <= 5


@pytest.mark.parametrize("spec", ["full", "layerskip(exit_layer=3)"])
def test_any_of_several_end_tokens_ends_a_row(spec: str) -> None:
    decoder = tiny_opt()
    ids, mask = ragged_prompts(rows=4)
    method = methods.create(spec)
    free = generate(decoder, method, ids, mask, max_new_tokens=12, stop_at_eos=False).tokens
    ends = [int(free[0, 4]), int(free[2, 6])]
    decoder.source.generation_config = SimpleNamespace(eos_token_id=ends)
    out = generate(decoder, method, ids, mask, max_new_tokens=12)
    for row in range(4):
        at = [n for n in range(12) if int(free[row, n]) in ends]
        want = at[0] + 1 if at else 12
        assert int(out.lengths[row]) == want
        assert torch.equal(out.tokens[row, :want], free[row, :want])
        assert not out.tokens[row, want:].any()


@pytest.mark.parametrize("spec", ["full", "layerskip(exit_layer=1)"])
def test_a_row_draws_what_it_draws_alone_and_equal_prompts_draw_their_own(opt: Decoder, spec: str) -> None:
    """Noise came from the row's number: a prompt's sample changed with its place in the batch."""
    ids, mask = ragged_prompts()
    ids, mask = torch.cat((ids, ids)), torch.cat((mask, mask))
    method, sampling = methods.create(spec), Sampling(temperature=2.0, seed=3)
    options: dict[str, Any] = {"max_new_tokens": 10, "stop_at_eos": False, "sampling": sampling}
    together = generate(opt, method, ids, mask, **options).tokens
    half = len(ids) // 2
    assert not any(torch.equal(together[i], together[i + half]) for i in range(half))
    row = half - 1
    kept = ids[row][mask[row].bool()]
    assert torch.equal(generate(opt, method, kept.unsqueeze(0), **options).tokens[0], together[row])
    prompts = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    again = streams(prompts)[row + half]
    alone = generate(opt, method, kept.unsqueeze(0), noise=[again], **options).tokens[0]
    assert torch.equal(alone, together[row + half])
    with pytest.raises(BadInput, match="noise: 2 streams; give one for each of the 1 rows"):
        generate(opt, method, kept.unsqueeze(0), noise=[1, 2], **options)
