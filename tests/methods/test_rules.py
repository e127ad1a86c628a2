"""The rules of the training-free methods, worked by hand or against a plain reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import methods
from harness.decode.engine import Decoding, generate
from harness.decode.forced_memory import ForcedMemory
from harness.decode.gated_blocks import CalledBlocks
from harness.decode.gated_step import run_gated
from harness.errors import BadInput
from harness.method import Start
from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Step
from harness.state import GateState
from harness.sublayers import read, without, written
from methods.del_exit import best_round
from tests.conftest import MODELS, ragged_prompts


@pytest.mark.parametrize("text", ["", "b3", "a3_f5", "a0x10123_f0x9000_b2", "f1x10000"])
def test_sets_of_sublayers_read_back(text: str) -> None:
    assert read(written(read(text))) == read(text)
    plan = without(read(text), 6)
    assert sum(plan.attention) + sum(plan.feed) == 12 - len(read(text))


@pytest.mark.parametrize(
    ("text", "message"), [("c3", "is no sublayer"), ("b3_a3", "named before"), ("b3,b4", "is no sublayer")]
)
def test_sets_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        methods.create("static_prune", skip=text)


def test_a_block_the_model_has_not_is_refused() -> None:
    for spec in ("static_prune(skip=b6)", "adaskip(skip=a7)", "swift(skip=b9)", "draft_verify(skip=f6)"):
        with pytest.raises(BadInput, match="there is no block"):
            methods.create(spec).resolve(6, {})


def looked_up(text: list[int], draft: int, ngram: int, last: bool, part: bool) -> list[int]:
    """Prompt lookup by looking everywhere."""
    for n in range(min(ngram, len(text) - 1), 0, -1):
        wanted = 1 if part else draft
        places = [i for i in range(n, len(text) - wanted + 1) if text[i - n : i] == text[-n:]]
        if places:
            place = places[-1 if last else 0]
            return text[place : place + draft]
    return []


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("part", [False, True])
def test_prompt_lookup_finds_what_a_search_finds(last: bool, part: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    prompts = torch.randint(0, 4, (3, 12), generator=generator)
    lengths = torch.tensor([12, 7, 2])
    tokens = torch.randint(0, 4, (3, 40), generator=generator)
    method: Any = methods.create(
        "prompt_lookup", draft_tokens=4, tie="last" if last else "first", window="part" if part else "full"
    )
    memory = method.begin(Start(6, prompts, lengths, 40, {}))
    counts, known = torch.ones(3, dtype=torch.long), [0, 0, 0]
    found = 0
    while int(counts.max()) < 36:
        proposed = method.propose([tokens[b, known[b] : counts[b]].tolist() for b in range(3)], memory)
        known = counts.tolist()
        for row in range(3):
            text = prompts[row, 12 - int(lengths[row]) :].tolist() + tokens[row, : counts[row]].tolist()
            want = looked_up(text, 4, 3, last, part)
            assert proposed[row] == want
            found += len(want)
        counts = counts + torch.randint(1, 4, (3,), generator=generator)
    assert found > 50


def test_prompt_lookup_is_taken_where_the_text_repeats(opt: Decoder) -> None:
    """A model that is stuck in a loop is drafted right: several tokens a step, the full model's."""
    ids, _ = ragged_prompts(rows=1)
    full = generate(opt, methods.create("full"), ids, max_new_tokens=50, stop_at_eos=False)
    prompt = torch.cat((ids, full.tokens[:, :4]), dim=1)
    method = methods.create("prompt_lookup(draft_tokens=3,max_ngram=2)")
    want = generate(opt, methods.create("full"), prompt, max_new_tokens=50, stop_at_eos=False)
    out = generate(opt, method, prompt, max_new_tokens=50, stop_at_eos=False)
    assert torch.equal(out.tokens, want.tokens)
    assert all(not part.draft for step in out.trace.steps for part in step.passes)
    if len(set(want.tokens[0, -20:].tolist())) < 10:
        assert len(out.trace.steps) < 45


def test_d3_drops_the_middle_and_only_shrinks() -> None:
    method: Any = methods.create("d3(alpha=0.9,start=0.25,low=2,high=1)")
    plans = [method.layers(Step(k, 20), 5, 12) for k in range(1, 30)]
    # 12 * 0.9^i: 12 at the start (5 tokens), then floor(10.8), floor(9.72), floor(8.748), ...
    assert [plan.budget for plan in plans[:9]] == [12, 12, 12, 12, 12, 10, 9, 8, 7]
    assert plans[5].blocks == (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)
    assert plans[-1].blocks == (0, 1, 11)
    assert all(set(b.blocks) <= set(a.blocks) for a, b in zip(plans, plans[1:], strict=False))


def ffn_skip_reference(opt: Decoder, token: torch.Tensor, skips: int, least: float, low: int, high: int) -> list[int]:
    """Blocks whose feed-forward sublayer is skipped for one token without context, in the order of the authors' loop."""
    positions = torch.zeros(1, 1, dtype=torch.long)
    x, memory = opt.embed(token.view(1, 1), positions), ForcedMemory(opt.depth)
    context, skipped, j, budget = Context(positions, causal=True), [], 0, skips
    middle = torch.empty(0)
    while j < opt.depth:
        inside = low <= j < opt.depth - high
        if inside and budget and float(torch.cosine_similarity(middle[0], x[0], dim=-1)) > least:
            for layer in range(j, min(j + budget, opt.depth - high)):
                x = opt.blocks[layer].attend(x, memory, context)
                skipped.append(layer)
                j = layer + 1
            budget = 0
            continue
        block = opt.blocks[j]
        middle = block.attend(x, memory, context)
        x = block.feed(middle, x)
        j += 1
    return skipped


@torch.no_grad()
def test_ffn_skip_follows_the_authors_loop() -> None:
    """Token by token, each without context."""
    opt = MODELS["opt"]()
    seen = set()
    for least in (0.6, 0.75, 0.85):
        method = methods.create("ffn_skip", skips=2, similarity=least, low=2, high=1, warmup=0.0)
        for token in range(2, 40):
            state = GateState(opt.head, {}, 1, 10)
            x = opt.embed(torch.tensor([[token]]), torch.zeros(1, 1, dtype=torch.long))
            skipped = walk(opt, method, x, state)
            assert skipped == ffn_skip_reference(opt, torch.tensor(token), 2, least, 2, 1)
            seen.add(tuple(skipped))
    assert len(seen) > 2


def walk(opt: Decoder, method: Any, x: torch.Tensor, state: GateState) -> list[int]:
    """The blocks whose feed-forward sublayer a gate skips for one column."""
    cache = opt.new_cache(1, [2] * opt.depth)
    context = Context(torch.zeros(1, 1, dtype=torch.long))
    asks = {(layer, "feed") for layer in range(opt.depth) if method.gated(layer, "feed", opt.depth)}
    _, record = run_gated(opt, method, x, state, CalledBlocks(opt, cache, context), compact=False, asks=asks)
    return [layer for layer, runs in enumerate(record.plan.feed) if not runs]


def test_ffn_skip_has_a_budget_by_position() -> None:
    method: Any = methods.create("ffn_skip(warmup=0.1,every=2)")
    x, skips = torch.ones(1, 4), []
    for k in range(1, 11):
        state = GateState(lambda x: x, {}, k, 30)
        state.advance(x)
        assert method.runs(method.low - 1, "feed", x, state).all(), (
            "the block before the middle is asked what its state was"
        )
        skips.append(not method.runs(method.low, "feed", x, state))  # the state stayed as it was: the run may begin
    assert skips == [False, False, False, True, True, False, True, True, False, True]


def test_draft_verify_moves_its_threshold_as_the_code_does() -> None:
    method: Any = methods.create("draft_verify(skip=b1,draft_tokens=4,threshold=0.6)")
    memory = method.begin(Start(6, torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 3]), 9, {}))

    class Seen:
        drafted = torch.tensor([4, 2])
        agreed = torch.tensor([1, 2])

    method.verified(Seen(), memory)
    # m = (0 + 1/4) / 2 and (0 + 1) / 2, both below 0.9: up by a tenth of 0.01.
    assert memory.threshold.tolist() == pytest.approx([0.601, 0.601])
    for _ in range(6):
        method.verified(Seen(), memory)
    # The second row has m > 0.9 by the fourth time and its drafts are not full: down from then on.
    assert memory.threshold.tolist() == pytest.approx([0.607, 0.603 - 0.004])


def test_clasp_and_knapspec_leave_out_blocks_that_do_nothing() -> None:
    """On a model two of whose blocks add nothing the programme finds just these, and everything drafted is accepted."""
    opt = MODELS["opt"]()
    for layer in (opt.source.model.decoder.layers[i] for i in (2, 4)):
        for module in (layer.self_attn.out_proj, layer.fc2):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    opt.refresh()
    ids, mask = ragged_prompts(rows=2)
    for spec in ("clasp(skips=2,draft_tokens=3,threshold=0)", "knapspec(draft_tokens=3,threshold=0,every=1)"):
        out = generate(opt, methods.create(spec), ids, mask, max_new_tokens=20, stop_at_eos=False)
        plans = [
            part.plan
            for step in out.trace.steps[1:]
            for part in step.passes
            if part.draft and not part.probe and part.head_rows
        ]
        assert {plan.blocks for plan in plans} == {(0, 1, 3, 5)}, spec
        assert all(int(s.yielded.min()) == 4 for s in out.trace.steps[1:-2])  # type: ignore[union-attr]


def test_swift_keeps_the_set_with_the_best_score(opt: Decoder) -> None:
    ids, _ = ragged_prompts(rows=1)
    method: Any = methods.create("swift(draft_tokens=3,threshold=0,window=4,enough=1)")
    out = generate(opt, method, ids, max_new_tokens=40, stop_at_eos=False)
    probes = [part for step in out.trace.steps for part in step.passes if part.probe]
    assert probes and all(part.columns == 4 for part in probes)
    first = [part.plan for part in out.trace.steps[0].passes if part.draft]
    assert first[0] == without([2, 3, 6, 7], 6)
    assert {sum(part.plan.attention) + sum(part.plan.feed) for part in probes} == {12 - int(8 * 0.45)}
    assert all(part.plan.blocks[0] == 0 and part.plan.blocks[-1] == 5 for part in probes)


def test_trial_plans_predict_what_drafting_would(opt: Decoder) -> None:
    """A trial of all sublayers over known tokens agrees with all of them, and leaves the cache as it was."""

    class Trying(methods.get("swift")):  # type: ignore[misc]
        name = "trying"

        def verified(self, seen: Any, memory: Any) -> None:
            for columns in (1, seen.known):
                assert bool(seen.try_plan(LayerPlan.full(6), columns).all())
            with pytest.raises(BadInput, match="give at most those"):
                seen.try_plan(LayerPlan.full(6), seen.known + 1)

    ids, mask = ragged_prompts(rows=3)
    want = generate(opt, methods.create("full"), ids, mask, max_new_tokens=16, stop_at_eos=False)
    out = generate(opt, Trying(draft_tokens=3), ids, mask, max_new_tokens=16, stop_at_eos=False)
    assert torch.equal(out.tokens, want.tokens)


def test_del_chooses_the_pair_with_the_most_tokens_per_block() -> None:
    # (1 + a + ... + a^d) / (d E + L), L = 4, by hand: exit 2 at a = 0.9 with 3 tokens gives 3.439 / 10.
    assert best_round([0.1, 0.9, 0.9], 4, 3) == (2, 3)
    assert best_round([1.0, 1.0, 1.0], 4, 5) == (1, 5)
    assert best_round([0.0, 0.0, 0.0], 4, 5) == (1, 1)


def test_adaskip_extras_are_what_the_first_tokens_hardly_needed(opt: Decoder) -> None:
    """Found by the method, and by what the full model's feed-forward sublayers did in the first two steps."""
    kept: list[Any] = []

    @dataclass(frozen=True)
    class Kept(methods.get("adaskip_extra")):  # type: ignore[misc]
        def begin(self, start: Start) -> Any:
            kept.append(super().begin(start))
            return kept[-1]

    ids, mask = ragged_prompts()
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    decoding = Decoding(opt, methods.create("full"), ids, mask, max_new_tokens=4, stop_at_eos=False)
    decoding.prefill()
    with pytest.MonkeyPatch.context() as patch:
        for block in opt.blocks:
            seen.append([])

            def feed(x: torch.Tensor, entry: torch.Tensor, layer: int = block.index, was: Any = block.feed) -> Any:
                y = was(x, entry)
                seen[layer].append((x[:, 0].clone(), y[:, 0].clone()))
                return y

            patch.setattr(block, "feed", feed, raising=False)
        decoding.step()
        decoding.step()
    cosines, ratios = [], []
    for pairs in seen:
        before, after = (torch.stack(part) for part in zip(*pairs, strict=True))  # [steps, B, D]
        cosines.append(torch.nn.functional.cosine_similarity(before, after, dim=-1).mean(0))
        ratios.append(after.square().sum((0, 2)).sqrt() / before.square().sum((0, 2)).sqrt())
    cosine, ratio = torch.stack(cosines, 1), torch.stack(ratios, 1)
    least = float(cosine[:, :-1].median())
    method = Kept(count=0, similarity=least + 1e-6, window=2)
    out = generate(opt, method, ids, mask, max_new_tokens=4, stop_at_eos=False)
    skipped = cosine > least
    skipped[:, -1] = False
    assert bool(out.trace.feed[:, 1:3].all()) and torch.equal(~out.trace.feed[:, 3], skipped)
    assert 0 < int(skipped.sum()) < skipped.numel()
    torch.testing.assert_close(kept[-1].scale, torch.where(skipped, ratio, 0.0), atol=1e-4, rtol=0)
