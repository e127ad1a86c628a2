"""Profiles: what is found equals what the transformers model itself says, block by block; an artefact carries it into a suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import methods
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.models.decoder import Decoder
from harness.models.tiny import VOCABULARY, ragged_prompts, tiny
from harness.plan import LayerPlan
from harness.profiling import Statistics
from harness.suites import artefact
from harness.tune.measured import DataProfile
from harness.tune.profile import Source, profile

DEPTH = 8


def windows(count: int = 3, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (9 + 4 * i,), generator=generator).tolist() for i in range(count)]


@pytest.fixture(scope="module")
def llama() -> Decoder:
    return tiny("llama", depth=DEPTH)


def reference_loss(model: Any, gone: set[int]) -> float:
    """Mean loss of the transformers model with blocks taken out of its list."""
    every = model.model.layers
    model.model.layers = nn.ModuleList(layer for i, layer in enumerate(every) if i not in gone)
    try:
        total = torch.zeros(())
        for row in windows():
            ids = torch.tensor([row])
            logits = model(ids, use_cache=False).logits
            total = total + F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
        return float(total.detach()) / sum(len(row) - 1 for row in windows())
    finally:
        model.model.layers = every


def brute_sleb(cost: Callable[[set[int]], float], count: int) -> set[int]:
    gone: set[int] = set()
    for _ in range(count):
        gone |= {min((cost(gone | {i}), i) for i in range(1, DEPTH - 1) if i not in gone)[1]}
    return gone


def found_blocks(method: Any) -> set[int]:
    plan = method.layers(None, 0, DEPTH)
    return set(range(DEPTH)) - set(plan.blocks)


@torch.no_grad()
def test_sleb_finds_what_a_search_over_the_transformers_model_finds(llama: Decoder) -> None:
    measured = DataProfile(llama, windows(), batch_size=2)
    method = methods.create("static_prune(order=sleb,count=3)").profile(measured)
    assert found_blocks(method) == brute_sleb(lambda gone: reference_loss(llama.source, gone), 3)
    # 6 + 5 + 4 candidates, each one pass over all windows.
    assert measured.cost["forward_passes"] == 15
    assert measured.loss(LayerPlan.full(DEPTH)) == pytest.approx(reference_loss(llama.source, set()), abs=1e-5)


@torch.no_grad()
def test_shortened_orders_by_the_loss_without_each_block(llama: Decoder) -> None:
    losses = {i: reference_loss(llama.source, {i}) for i in range(DEPTH)}
    for plus, free in ((False, range(DEPTH)), (True, range(4, DEPTH - 2))):
        spec = f"static_prune(order=shortened,count=2,plus={plus})"
        method = methods.create(spec).profile(DataProfile(llama, windows()))
        assert found_blocks(method) == set(sorted(free, key=losses.__getitem__)[:2])


def test_taylor_orders_by_weight_times_gradient(llama: Decoder) -> None:
    model = llama.source
    total = torch.zeros(())
    with torch.enable_grad():
        model.requires_grad_(True)
        for row in windows():
            ids = torch.tensor([row])
            total = total + F.cross_entropy(model(ids, use_cache=False).logits[0, :-1], ids[0, 1:], reduction="sum")
        (total / sum(len(row) - 1 for row in windows())).backward()
    want = torch.stack(
        [
            sum(((p * p.grad).abs().sum() for p in layer.parameters() if p.dim() == 2), torch.zeros(()))
            for layer in model.model.layers
        ]
    )
    model.zero_grad()
    model.requires_grad_(False)
    got = DataProfile(llama, windows(), batch_size=2).sensitivity()
    torch.testing.assert_close(got.float(), want.detach(), rtol=1e-3, atol=0)
    assert not any(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_statistics_are_those_of_the_transformers_model(llama: Decoder) -> None:
    """Cosines and norms of the stream around every sublayer, by hooks."""
    seen: dict[str, list[torch.Tensor]] = {"x": [], "attention": [], "z": []}
    handles = []
    for layer in llama.source.model.layers:
        handles.append(layer.register_forward_pre_hook(lambda _, args: seen["x"].append(args[0])))
        handles.append(layer.self_attn.register_forward_hook(lambda _, args, out: seen["attention"].append(out[0])))
        handles.append(layer.register_forward_hook(lambda _, args, out: seen["z"].append(out)))
    cosine, ratio, tokens = torch.zeros(2 * DEPTH), torch.zeros(2 * DEPTH), 0
    for row in windows():
        for part in seen.values():
            part.clear()
        llama.source(torch.tensor([row]), use_cache=False)
        tokens += len(row)
        for i, (x, a, z) in enumerate(zip(*seen.values(), strict=True)):
            z = z[0] if isinstance(z, tuple) else z
            for place, (before, after) in enumerate(((x, x + a), (x + a, z))):
                cosine[2 * i + place] += F.cosine_similarity(before, after, dim=-1).sum()
                ratio[2 * i + place] += after.norm() / before.norm()
    for handle in handles:
        handle.remove()
    got = DataProfile(llama, windows(), batch_size=2).statistics()
    torch.testing.assert_close(got.cosine.float(), cosine / tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.ratio.float(), ratio / 3, atol=1e-5, rtol=1e-5)
    method: Any = methods.create("adaskip(count=3)").profile(DataProfile(llama, windows()))
    plan = method.layers(None, 0, DEPTH)
    skipped = [i for i in range(2 * DEPTH) if not (plan.attention, plan.feed)[i % 2][i // 2]]
    assert skipped == sorted(cosine.topk(3).indices.tolist())
    assert [plan.scale[i] for i in skipped] == pytest.approx([float(ratio[i] / 3) for i in skipped], abs=1e-4)


def test_adainfer_is_fitted_where_the_penalised_likelihood_is_flat(llama: Decoder) -> None:
    """Logistic regression by torch's own optimiser on the same features ends at the same weights."""
    from methods.adainfer import _features

    measured = DataProfile(llama, windows(), batch_size=2)
    method: Any = methods.create("adainfer(first=2)").profile(measured)
    pairs = [
        (_features(logits), logits.argmax(-1) == last) for logits, last in measured.predictions(range(1, DEPTH - 1))
    ]
    x, y = (torch.cat(part).double() for part in zip(*pairs, strict=True))
    w = torch.tensor([method.top, method.gap, method.bias], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        score = x @ w[:2] + w[2]
        loss = F.binary_cross_entropy_with_logits(score, y) + 0.5e-4 * w.pow(2).sum()
        (slope,) = torch.autograd.grad(loss, w)
    assert float(slope.abs().max()) < 1e-4
    with pytest.raises(BadInput, match="was not fitted"):
        methods.create("adainfer").resolve(6, {})


def test_draft_verify_finds_sublayers_that_are_not_missed() -> None:
    """Four blocks add nothing: the set found leaves out most of them and still drafts as the full model does."""
    opt = tiny("opt", depth=DEPTH)
    for layer in (opt.source.model.decoder.layers[i] for i in (1, 3, 4, 6)):
        for module in (layer.self_attn.out_proj, layer.fc2):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    opt.refresh()
    measured = DataProfile(opt, windows())
    method: Any = methods.create("draft_verify(tries=150)").profile(measured)
    plan = method.draft_plan(DEPTH, None)
    idle = [runs for flags in (plan.attention, plan.feed) for i, runs in enumerate(flags) if i in (1, 3, 4, 6)]
    assert idle.count(False) >= 5
    assert measured.agreement(plan) > 0.5 and measured.agreement(LayerPlan.full(DEPTH)) == 1


class Scored:
    """A profile whose loss and score are a table: the sum of what each block is worth."""

    depth = 4
    worth = (0.5, 0.02, 0.3, 0.04)

    def score(self, plan: LayerPlan) -> float:
        return 1.0 - sum(w for w, runs in zip(self.worth, plan.attention, strict=True) if not runs)

    def statistics(self) -> Statistics:
        return Statistics(torch.zeros(8), torch.ones(8), torch.tensor([0.2, 0.9, 0.4, 0.8]))


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("static_prune(order=tale,count=3,epsilon=0.1)", "b1_b3"),
        ("static_prune(order=tale,count=1,epsilon=1)", "b1"),
        ("static_prune(order=tale,count=3,epsilon=0.01)", ""),
        ("static_prune(order=shortgpt,count=2)", "b1_b3"),
    ],
)
def test_greedy_stops_where_the_rule_says(spec: str, found: str) -> None:
    method: Any = methods.create(spec).profile(Scored())  # type: ignore[arg-type]
    assert method.skip == found


def test_a_pruned_block_is_nowhere(llama: Decoder) -> None:
    """Prompt, FLOPs and cache shrink by the blocks that are left out; in the prompt alone nothing of the cache does."""
    ids, mask = ragged_prompts()
    full, pruned, prompt = (
        generate(llama, methods.create(spec), ids, mask, max_new_tokens=6, stop_at_eos=False)
        for spec in ("full", "static_prune(skip=b2_b5)", "static_prune(skip=b2_b5,where=prompt)")
    )
    assert pruned.kv_cache_bytes * DEPTH == full.kv_cache_bytes * (DEPTH - 2)
    assert prompt.kv_cache_bytes == full.kv_cache_bytes
    costs = [flops.count(out.trace, llama.geometry, 4, 4) for out in (full, pruned, prompt)]
    assert costs[1].prefill < costs[2].prefill < costs[0].prefill
    assert costs[1].decode < costs[2].decode == costs[0].decode
    with pytest.raises(BadInput, match="nothing was profiled; run `depthbench profile"):
        generate(llama, methods.create("static_prune(count=2)"), ids, mask, max_new_tokens=6)


def test_an_artefact_stands_for_a_method_in_a_suite(tmp_path: Path, llama: Decoder) -> None:
    class Letters:
        def __call__(self, texts: list[str], **_: Any) -> Any:
            class Found:
                input_ids = [[2 + ord(c) % 80 for c in text] for text in texts]

            return Found

    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 4)
    llama.tokenizer = Letters()
    try:
        asked = methods.create("adaskip(count=2)")
        source = Source(text=text, windows=2, tokens=16)
        found, record = profile(asked, llama, source)
        with pytest.raises(BadInput, match="give --task instead of --text"):
            profile(methods.create("static_prune(order=tale)"), llama, source)
        with pytest.raises(BadInput, match="learns nothing from data"):
            profile(methods.create("full"), llama, source)
        with pytest.raises(BadInput, match="selection on test data"):
            profile(asked, llama, Source(split="test"))
    finally:
        llama.tokenizer = None
    path = artefact.write(tmp_path / "a.json", json.loads(json.dumps(record)))
    entry = artefact.entry(path)
    assert methods.create(entry["name"], **entry["parameters"]) == found
    assert entry["tuned"]["cost"]["forward_passes"] == 1 and entry["tuned"]["data"]["windows"] == 2
