"""The engine against transformers, its stopping rules, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import methods
from harness.decode.engine import Decoding, generate
from harness.decode.forced import score
from harness.errors import BadInput
from harness.models.cache import KVCache
from harness.models.decoder import Decoder
from tests.conftest import EOS, VOCABULARY, ragged_prompts, tiny_opt

FULL = methods.create("full")


def transformers_tokens(decoder: Decoder, ids: torch.Tensor, mask: torch.Tensor, new: int) -> torch.Tensor:
    """Greedy continuation by transformers' own `generate` [B, new], padded."""
    out = decoder.source.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0
    )
    tokens = out[:, ids.shape[1] :]
    return torch.nn.functional.pad(tokens, (0, new - tokens.shape[1]))  # type: ignore[no-any-return]


def test_full_equals_transformers_generate(decoder: Decoder) -> None:
    """Invariant 1, alone and in a left-padded batch of unequal prompts, end tokens included."""
    for seed in range(4):
        ids, mask = ragged_prompts(rows=4, seed=seed)
        out = generate(decoder, FULL, ids, mask, max_new_tokens=20)
        want = transformers_tokens(decoder, ids, mask, 20)
        assert torch.equal(out.tokens, want[:, : out.tokens.shape[1]])
        alone = ids[:1]
        out = generate(decoder, FULL, alone, max_new_tokens=20)
        assert torch.equal(
            out.tokens, transformers_tokens(decoder, alone, torch.ones_like(alone), 20)[:, : out.tokens.shape[1]]
        )


def test_full_logits_equal_transformers(decoder: Decoder) -> None:
    ids = torch.randint(2, VOCABULARY, (2, 15), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        want = decoder.source(ids).logits
    torch.testing.assert_close(score(decoder, FULL, ids, [4, 9]), want, atol=1e-4, rtol=0)


def test_rows_that_end_are_padded_and_do_not_disturb_the_others(opt: Decoder) -> None:
    ids, mask = ragged_prompts(rows=6)
    free = generate(opt, FULL, ids, mask, max_new_tokens=12, stop_at_eos=False)
    # Make a token some row really generates the end token, so that rows end at different steps.
    opt.source.generation_config.eos_token_id = int(free.tokens[0, 4])
    try:
        out = generate(opt, FULL, ids, mask, max_new_tokens=12)
    finally:
        opt.source.generation_config.eos_token_id = EOS
    assert len(set(out.lengths.tolist())) > 1
    for row, length in enumerate(out.lengths.tolist()):
        assert torch.equal(out.tokens[row, :length], free.tokens[row, :length])
        assert (out.tokens[row, length:] == opt.pad_token_id).all()


def test_stops_early_when_every_row_ended(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=1)
    free = generate(opt, FULL, ids, max_new_tokens=12, stop_at_eos=False)
    opt.source.generation_config.eos_token_id = [EOS, int(free.tokens[0, 3])]
    try:
        out = generate(opt, FULL, ids, max_new_tokens=12)
    finally:
        opt.source.generation_config.eos_token_id = EOS
    assert out.tokens.shape[1] == int(out.lengths[0]) <= 4


def test_one_new_token_needs_no_step(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=1)
    out = generate(opt, FULL, ids, max_new_tokens=1)
    assert out.tokens.shape == (1, 1) and not out.trace.steps


def test_skipped_blocks_write_no_keys(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=2)
    ids[ids == 0] = 5
    full = generate(opt, FULL, ids, max_new_tokens=10, stop_at_eos=False)
    half = generate(opt, methods.create("fixed_exit(budget=3)"), ids, max_new_tokens=10, stop_at_eos=False)
    assert full.kv_written_bytes == full.kv_cache_bytes
    per_position = 2 * 2 * 32 * 4  # K and V, two rows, width 32, four bytes
    assert full.kv_written_bytes - half.kv_written_bytes == 3 * 9 * per_position


def test_exits_fill_every_block_of_the_cache(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=1)
    out = generate(opt, methods.create("calm(threshold=0,decay=none)"), ids, max_new_tokens=10, stop_at_eos=False)
    assert out.kv_written_bytes == out.kv_cache_bytes
    assert out.trace.layers[:, 1:].sum(2).unique().tolist() == [1]


def test_classifier_exits_compute_the_head_once(opt: Decoder) -> None:
    ids, mask = ragged_prompts()
    out = generate(opt, methods.create("calm(confidence=classifier,threshold=0.5)"), ids, mask, max_new_tokens=8)
    assert all(step.head_rows == 3 and step.test_heads == 0 and step.test_flops > 0 for step in out.trace.steps)


def test_cache_appends_per_block() -> None:
    cache = KVCache([4, 0, 1], 1, 1, 2, torch.float32, torch.device("cpu"), keep_positions=True)
    k, v = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[2.0, 3.0]]]])
    cache.extend(0, k, v, torch.tensor([[3]]))
    keys, values = cache.extend(0, k + 10, v + 10, torch.tensor([[7]]))
    assert cache.lengths == [2, 0, 0]
    assert torch.equal(keys[0, 0], torch.tensor([[0.0, 1.0], [10.0, 11.0]]))
    assert torch.equal(values[0, 0], torch.tensor([[2.0, 3.0], [12.0, 13.0]]))
    assert cache.key_positions(0).tolist() == [[3, 7]]
    assert cache.allocated_bytes == 5 * 2 * 2 * 4 and cache.written_bytes == 2 * 2 * 2 * 4


def test_a_schedule_gets_the_cache_it_fills_and_no_more(opt: Decoder) -> None:
    ids, mask = ragged_prompts()
    for spec in ("skipdecode(min_layers=2,max_layers=5)", "fixed_exit(budget=2)"):
        out = generate(opt, methods.create(spec), ids, mask, max_new_tokens=8, stop_at_eos=False)
        full = generate(opt, methods.create("full"), ids, mask, max_new_tokens=8, stop_at_eos=False)
        assert out.kv_cache_bytes == out.kv_written_bytes < full.kv_cache_bytes == full.kv_written_bytes


GOOD = torch.tensor([[5, 6, 7]])
REFUSED = [
    ({"input_ids": torch.tensor([5, 6])}, "input_ids"),
    ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, "input_ids"),
    ({"input_ids": torch.tensor([[5, VOCABULARY]])}, "vocabulary"),
    ({"input_ids": torch.tensor([[5, -1]])}, "vocabulary"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": 63}, "give at most 62"),
    ({"input_ids": torch.full((1, 65), 5)}, "longer than the model's 64 positions"),
    ({"expected_tokens": 0}, "expected_tokens"),
    ({"attention_mask": torch.tensor([[1, 1]])}, "attention_mask"),
    ({"attention_mask": torch.tensor([[1, 1, 0]])}, "pad on the left"),
    ({"attention_mask": torch.tensor([[1, 0, 1]])}, "between its tokens"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_input_is_refused_before_compute(opt: Decoder, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"input_ids": GOOD, "max_new_tokens": 4, **change}
    with pytest.raises(BadInput, match=message) as caught:
        Decoding(opt, FULL, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        (GOOD, [4], "prompt_lengths"),
        (GOOD, [0], "prompt_lengths"),
        (GOOD, [1, 1], "prompt_lengths"),
        (GOOD[0], [1], "input_ids"),
    ],
)
def test_score_refuses(opt: Decoder, ids: torch.Tensor, lengths: list[int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        score(opt, FULL, ids, lengths)


def test_score_of_a_prompt_alone(opt: Decoder) -> None:
    with torch.no_grad():
        want = opt.source(GOOD).logits
    torch.testing.assert_close(score(opt, methods.create("skipdecode"), GOOD, [3]), want, atol=1e-4, rtol=0)


def test_score_fills_every_position_the_model_has(opt: Decoder) -> None:
    ids = torch.randint(2, VOCABULARY, (2, opt.geometry.max_positions), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        want = opt.source(ids).logits
    torch.testing.assert_close(score(opt, FULL, ids, [3, 60]), want, atol=1e-4, rtol=0)


def test_generation_does_not_change_the_model(opt: Decoder) -> None:
    fresh = tiny_opt()
    ids, mask = ragged_prompts()
    for spec in ("calm(threshold=0.3)", "skipdecode"):
        generate(fresh, methods.create(spec), ids, mask, max_new_tokens=5)
    for (name, a), (_, b) in zip(fresh.source.named_parameters(), opt.source.named_parameters(), strict=True):
        assert torch.equal(a, b), name
