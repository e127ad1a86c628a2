"""Drafts of the last blocks are trained on what they compute when decoding: SEED's second loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.decode.forced import force
from harness.decode.forced_draft import drafted
from harness.decode.prompt_pass import run_prompt
from harness.errors import BadInput
from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.plan import LayerPlan
from harness.train.batches import Pair, collate
from harness.train.stage_model import ForcedModel
from tests.conftest import tiny

PAIRS = [Pair([5, 6, 7, 8], [[9, 10, 11, 12, 1], [11, 12, 13, 1]]), Pair([15, 16], [[17, 18, 19, 20, 21, 1]])]
BLOCKS, WINDOW = 2, 2


def as_decoded(decoder: Decoder, prompt: list[int], target: list[int], column: int) -> torch.Tensor:
    """State [D] of the draft at a column: the full model over the windows before, then the window through the last blocks."""
    depth = decoder.depth
    begins = column // WINDOW * WINDOW
    known = torch.tensor([prompt + target[:begins]])
    cache = decoder.new_cache(1, [32] * depth)
    run_prompt(decoder, cache, known, None, LayerPlan.full(depth))
    last = tuple((layer, True, True) for layer in range(depth - BLOCKS, depth))
    for at in range(begins, column + 1):
        position = torch.tensor([[len(prompt) + at]])
        x = decoder.run_plan(last, decoder.embed(torch.tensor([[target[at]]]), position), cache, Context(position))
    return x[0, 0]


@pytest.mark.parametrize("family", ["opt", "llama", "bloom"])
def test_a_draft_is_what_decoding_drafts(family: str) -> None:
    decoder, batch = tiny(family, depth=4), collate(PAIRS, pad=0)
    targets, owners = batch["labels"][:, :-1], batch["owners"]
    with torch.inference_mode():
        forced = force(
            decoder, methods.create("full"), batch["prompts"], batch["prompt_lengths"], targets, owners,
            expected_tokens=5, keep_blocks=True,
        )  # fmt: skip
        states = drafted(decoder, forced, targets, owners, BLOCKS, WINDOW)
        each = [(pair.prompt, ids[:-1]) for pair in PAIRS for ids in pair.targets]
        for row, (prompt, target) in enumerate(each):
            want = torch.stack([as_decoded(decoder, prompt, target, column) for column in range(len(target))])
            torch.testing.assert_close(states[row, : len(target)], want, atol=2e-5, rtol=1e-4)


def seed_model(decoder: Decoder, recompute: bool = False) -> ForcedModel:
    configure = methods.create(f"seed(blocks={BLOCKS})").training_plan().configure
    assert configure is not None
    plan = configure({"window": WINDOW})
    return ForcedModel(decoder, plan, plan.stages[0], 5, 0, recompute)


def test_the_loss_is_the_mean_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels after the first are drafted; with gradient checkpointing the gradients are the same."""
    decoder, batch = tiny("opt", depth=4), collate(PAIRS, pad=0)
    plain = methods.create("full").training_plan()
    full = ForcedModel(decoder, plain, plain.stages[0], 5, 0)(**batch)["loss"]
    losses, gradients = [], []
    for recompute in (False, True):
        model = seed_model(decoder, recompute)
        model.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)
    drafts = []
    for pair in PAIRS:
        for ids in pair.targets:
            for column in range(len(ids) - 1):
                with torch.inference_mode():
                    logits = decoder.head(as_decoded(decoder, pair.prompt, ids, column))
                drafts.append(F.cross_entropy(logits.clone(), torch.tensor(ids[column + 1])))
    torch.testing.assert_close(losses[0], (full.detach() + torch.stack(drafts).mean()) / 2, atol=1e-5, rtol=1e-5)


def test_continuations_of_one_token_have_no_drafts() -> None:
    decoder, batch = tiny("opt", depth=4), collate([Pair([5, 6], [[1]])], pad=0)
    assert torch.isfinite(seed_model(decoder)(**batch)["loss"])


def test_options_out_of_range_are_refused() -> None:
    configure = methods.create("seed").training_plan().configure
    assert configure is not None
    for options, said in (
        ({"windw": 3}, "did you mean 'window'"),
        ({"window": 0}, "give a number of tokens, 1 or more"),
    ):
        with pytest.raises(BadInput, match=said):
            configure(options)
