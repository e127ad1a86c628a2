"""What workers record for the gates is true: margins, divergences, digests."""

from __future__ import annotations

import json

import pytest
import torch

import methods
from harness.decode.engine import Decoding, generate
from harness.decode.forced import score
from harness.decode.static import StaticSteps
from harness.measure import conditions
from harness.models import identity
from harness.models.decoder import Decoder
from harness.models.tiny import ragged_prompts, tiny_opt
from harness.tasks.metrics import first_difference

NEW = 6


def decoding(decoder: Decoder, spec: str) -> Decoding:
    ids, mask = ragged_prompts()
    return Decoding(decoder, methods.create(spec), ids, mask, max_new_tokens=NEW, stop_at_eos=False)


@pytest.mark.parametrize("spec", ["full", "calm(threshold=0.3)", "layerskip(exit_layer=2,draft_tokens=3)"])
def test_observed_margins_are_those_of_the_logits(opt: Decoder, spec: str) -> None:
    """Against an independent pass: best minus second best of the scored logits, for every token of every row."""
    seen, finite = conditions.observe(decoding(opt, spec))
    ids, mask = ragged_prompts()
    out = generate(opt, methods.create(spec), ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    assert finite and seen["tokens"] == out.tokens.tolist()
    for row in range(len(ids)):
        prompt = ids[row][mask[row].bool()]
        sequence = torch.cat((prompt, out.tokens[row])).unsqueeze(0)
        logits = score(opt, methods.create(spec), sequence, [len(prompt)], expected_tokens=NEW)[0, len(prompt) - 1 : -1]
        best = logits.topk(2).values
        assert seen["margins"][row] == pytest.approx((best[:, 0] - best[:, 1]).tolist(), abs=2e-3)
        assert seen["scales"][row] == pytest.approx(float(logits.abs().max()), rel=1e-2)
    json.dumps(seen, allow_nan=False)


@pytest.mark.parametrize(
    "spec, compact, want",
    [
        ("full", True, "replayed as graphs"),
        ("calm(threshold=0.5)", False, "replayed as graphs"),
        ("calm(threshold=0.5)", True, "called"),
        ("layerskip(exit_layer=2,draft_tokens=3)", False, "called"),
    ],
)
def test_steps_are_recorded_as_they_ran(
    opt: Decoder, monkeypatch: pytest.MonkeyPatch, spec: str, compact: bool, want: str
) -> None:
    """Every arm on a GPU was said to replay graphs; drafts and compacted exits have none."""
    monkeypatch.setattr(StaticSteps, "captures", True)  # as where a GPU captures them; what is called is the same
    ids, _ = ragged_prompts()
    out = generate(opt, methods.create(spec), ids, max_new_tokens=NEW, compact_exits=compact, static=True)
    assert conditions.steps([out]) == want
    called = generate(opt, methods.create(spec), ids, max_new_tokens=NEW, compact_exits=compact, static=False)
    assert conditions.steps([called]) == "called"


def test_logits_that_are_not_finite_are_noticed() -> None:
    broken = tiny_opt(seed=3)
    with torch.no_grad():
        next(p for n, p in broken.source.named_parameters() if n.endswith("fc2.bias"))[0] = float("nan")
    seen, finite = conditions.observe(decoding(broken, "full"))
    assert not finite and seen["margins"] is None
    json.dumps(seen, allow_nan=False)


def test_divergences_are_listed_with_the_margin_there(opt: Decoder) -> None:
    """The margin is the full model's at the first token that differs, timed and scored alike."""
    full, _ = conditions.observe(decoding(opt, "full"))
    other = {**full, "tokens": [list(row) for row in full["tokens"]]}
    other["tokens"][1][3] = (other["tokens"][1][3] + 1) % 90
    found = conditions.timed_divergences([full], [other])
    assert found["count"] == 1 and found["first"][0]["row"] == 1 and found["first"][0]["position"] == 3
    ids, mask = ragged_prompts()
    names = [f"e{i}" for i in range(len(ids))]
    prompts = {name: ids[i][mask[i].bool()].tolist() for i, name in enumerate(names)}
    ours, theirs = (dict(zip(names, record["tokens"], strict=True)) for record in (other, full))
    scored = conditions.scored_divergences(opt, prompts, theirs, ours)
    assert scored["count"] == 1 and scored["first"][0]["example"] == "e1" and scored["first"][0]["position"] == 3
    assert scored["first"][0]["margin"] == pytest.approx(found["first"][0]["margin"], abs=1e-3)
    assert conditions.timed_divergences([full], [full]) == {"count": 0, "first": []}


def test_an_early_end_is_a_difference() -> None:
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 4], [1, 2]) == 1


def test_the_digest_of_weights_changes_with_them_and_only_with_them() -> None:
    """Defect 13: results are bound to the weights, not to a name or path."""
    one, same, other = tiny_opt(seed=1), tiny_opt(seed=1), tiny_opt(seed=2)
    same.extras = {key: value.clone() for key, value in one.extras.items()}
    assert identity.sampled_weights(one) == identity.sampled_weights(same) != identity.sampled_weights(other)
    with torch.no_grad():
        for parameter in same.source.parameters():
            parameter += 1e-3  # what a step of training does: every tensor, everywhere
    assert identity.sampled_weights(one) != identity.sampled_weights(same)


def test_token_lists_with_the_same_tokens_split_otherwise_have_other_hashes() -> None:
    assert conditions.token_hash([[1, 2], [3]]) != conditions.token_hash([[1], [2, 3]])
