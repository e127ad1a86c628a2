"""Trained gates: each computes its rule, trains what it says and nothing else, and its training pass is what decodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.decode.forced_memory import ForcedMemory
from harness.errors import BadInput
from harness.method import Gate, Method
from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.run.contract import with_extras
from harness.train.batches import Pair, collate
from harness.train.stage_model import ForcedModel
from harness.train.train import train
from harness.training import Moment
from methods.mod import largest
from tests.conftest import ragged_prompts, tiny, tiny_recipe

PAIRS = [Pair([5, 6, 7, 8], [[9, 10, 1], [11, 12, 13, 14, 1]]), Pair([15, 16], [[17, 1]])]
SPECS = (
    "router_tuning(unit=attention)",
    "router_tuning(unit=block,granularity=sequence,prompt=False)",
    "skipgpt",
    "gateskip",
    "flexidepth",
    "dllm",
    "mod",
)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Decoder:
    """A model of one's own, since trainings change it."""
    return tiny("opt")


def forced_model(decoder: Decoder, method: Method, stage: int = 0) -> ForcedModel:
    plan = method.training_plan()
    torch.manual_seed(0)
    return ForcedModel(decoder, plan, plan.stages[stage], expected_tokens=5, seed=0)


def scored_loss(decoder: Decoder, method: Method) -> float:
    """The mean negative log-likelihood of the pairs' references under a method, by `score`."""
    total, count = 0.0, 0
    for pair in PAIRS:
        for target in pair.targets:
            logits = score(decoder, method, torch.tensor([pair.prompt + target]), [len(pair.prompt)], expected_tokens=5)
            logp = logits[0, len(pair.prompt) - 1 : -1].log_softmax(-1)
            total -= float(logp.gather(1, torch.tensor(target).unsqueeze(1)).sum())
            count += len(target)
    return total / count


@pytest.mark.parametrize("spec", SPECS)
def test_the_training_pass_is_what_scores_and_decodes(model: Decoder, spec: str) -> None:
    """Without noise; `score` equals the engine's steps by the contract suite."""
    method = methods.create(spec)
    trained = forced_model(with_extras(model, method), method)
    for name, value in trained.named_extras().items():
        value.data.copy_(model.extras[name])
    trained.stage = replace(trained.stage, loss=lambda forced: forced.final_loss())
    with torch.no_grad():
        hard = float(trained(**collate(PAIRS, pad=0))["loss"])
    assert hard == pytest.approx(scored_loss(model, method), abs=1e-4)
    if spec.startswith(("router_tuning", "flexidepth")):  # others draw noise, or choose among a whole batch
        assert float(trained(**collate(PAIRS, pad=0))["loss"].detach()) == pytest.approx(hard, abs=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_training_changes_what_it_says(model: Decoder, spec: str) -> None:
    """The loss of one batch falls, every extra tensor moves, and a frozen model does not."""
    method = methods.create(spec)
    trained = forced_model(model, method)
    batch = collate(PAIRS, pad=0)
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    rate = 0.003 if trained.stage.frozen else 0.001
    optimiser = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=rate)
    # What rises with the steps stays where it is, and so does the noise; GateSkip's quantile is too coarse for so few tokens.
    trained.moment = Moment(0 if spec == "gateskip" else 20, 25)
    losses = []
    for _ in range(20):
        loss = trained(**batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5])
    moved = {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])}
    extras = {name for name in before if name.startswith("extras.")}
    assert extras and extras <= moved, extras - moved
    assert trained.stage.frozen == (moved == extras), moved - extras


def test_a_gate_that_is_open_to_the_last_bit_has_a_slope(model: Decoder) -> None:
    """Rounded to 1 its entropy had none that is finite: in bfloat16 GateSkip's weights were lost after 60 steps."""
    trained, batch = forced_model(model, methods.create("gateskip")), collate(PAIRS, pad=0)
    for name, p in trained.named_parameters():
        if name.startswith("extras.") and name.endswith("bias"):
            p.data.fill_(50.0)
    trained(**batch)["loss"].backward()
    slopes = [p.grad for p in trained.parameters() if p.grad is not None]
    assert slopes and all(slope.isfinite().all() for slope in slopes)


def test_noise_is_that_of_the_batch_and_the_step(model: Decoder) -> None:
    """A resumed training draws what the uninterrupted one did."""
    trained, batch = forced_model(model, methods.create("skipgpt")), collate(PAIRS, pad=0)

    def loss(step: int, seed: int) -> float:
        torch.manual_seed(seed)
        trained.moment = Moment(step, 10)
        return float(trained(**batch)["loss"].detach())

    assert loss(3, 1) == loss(3, 2) != loss(4, 1)


def test_a_stage_runs_under_what_the_stage_before_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SkipGPT's routers, then the model under them, stopped in the second stage: it goes on to the same tensors."""
    stages = {"router": {"steps": 3, "learning_rate": 0.01}, "weights": {"steps": 3, "learning_rate": 0.003}}
    recipe = tiny_recipe("skipgpt", stages=stages, save_every=2)
    want = load_model(train(recipe, tmp_path / "straight"))
    import harness.train.stage_model as module

    passes, calls = module.force, iter(range(100))

    def stopping(*arguments: Any, **rest: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return passes(*arguments, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "force", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "broken")
    got = load_model(train(recipe, tmp_path / "broken"))
    assert set(want.extras) == set(got.extras) and len(want.extras) == 4 * 2 * 4
    for name, value in want.extras.items():
        torch.testing.assert_close(got.extras[name], value, atol=1e-6, rtol=0, msg=name)
    for (name, a), (_, b) in zip(want.source.named_parameters(), got.source.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)
    generate(got, methods.create("skipgpt"), torch.tensor([[5, 6, 7]]), max_new_tokens=3)


def reference(decoder: Decoder, spec: str, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of a sequence all of whose positions are gated, one causal pass written out from the papers' rules."""
    name, depth = spec.split("(")[0], decoder.depth
    e = decoder.extras

    def map_(key: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, e[f"{key}.weight"], e.get(f"{key}.bias"))

    t = ids.shape[1]
    positions, causal = torch.arange(t).unsqueeze(0), torch.ones(t, t, dtype=torch.bool).tril()
    x = decoder.embed(ids, positions)
    one = torch.ones(1, t, 1)
    for layer, block in enumerate(decoder.blocks):
        normed = block.normed("attention", x)
        run_a = run_f = one.bool()
        weigh_a = weigh_f = one
        skip_f: Callable[[torch.Tensor], torch.Tensor] = lambda y: y  # noqa: E731
        mask = causal
        if name == "router_tuning" and layer >= depth // 2:
            runs = torch.sigmoid(map_(f"router_tuning.{layer}", normed)) >= 0.5
            run_a = runs if "mlp" not in spec else run_a
            run_f = runs if "attention" not in spec else run_f
        elif name == "skipgpt":
            for kind in ("attention", "feed"):
                z = map_(f"skipgpt.{layer}.{kind}.out", F.relu(map_(f"skipgpt.{layer}.{kind}.in", x)))
                if kind == "attention":
                    run_a = z[..., :1] >= z[..., 1:]
                else:
                    run_f = z[..., :1] >= z[..., 1:]
        elif name == "gateskip":
            weigh_a = torch.sigmoid(map_(f"gateskip.{layer}.attention", normed))
        elif name == "flexidepth" and layer >= depth // 2:
            read = map_(f"flexidepth.{layer}.in", normed)
            read = (
                read * torch.rsqrt(read.square().mean(-1, keepdim=True) + 1e-6) * e[f"flexidepth.{layer}.norm.weight"]
            )
            weigh_f = torch.sigmoid(map_(f"flexidepth.{layer}.head", torch.tanh(read)))
            run_a = run_f = weigh_f > 0.5

            def skip_f(y: torch.Tensor, layer: int = layer, w: torch.Tensor = weigh_f) -> torch.Tensor:
                read = decoder.blocks[layer].normed("feed", y)
                inner = F.silu(map_(f"flexidepth.{layer}.gate", read)) * map_(f"flexidepth.{layer}.down", read)
                return y + (1 - w) * map_(f"flexidepth.{layer}.up", inner)

        elif name == "dllm" and layer >= 2:
            read = map_(f"dllm.{layer}.in", x)
            read = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + 1e-6) * e[f"dllm.{layer}.norm.weight"]
            z = map_(f"dllm.{layer}.out", F.silu(read))
            run_a = run_f = (z.softmax(-1)[..., 1:] >= 0.5) | (positions < 2).unsqueeze(-1)
            mask = causal & run_a[0, :, 0]
        elif name == "mod" and layer % 2:
            weigh_a = weigh_f = torch.sigmoid(map_(f"mod.{layer}.router", x))
            found = map_(f"mod.{layer}.predictor.out", F.silu(map_(f"mod.{layer}.predictor.in", x)))
            run_a = run_f = torch.sigmoid(found) > 0.5
            mask = causal & run_a[0, :, 0]
        # A column that is hidden from all looks at itself; its result is not taken.
        context = Context(positions, (mask | torch.eye(t, dtype=torch.bool))[None, None])
        y = torch.where(run_a, x + weigh_a * (block.attend(x, ForcedMemory(depth), context) - x), x)
        if name == "gateskip":
            weigh_f = torch.sigmoid(map_(f"gateskip.{layer}.feed", block.normed("feed", y)))
        x = torch.where(run_f, y + weigh_f * (block.feed(y, x) - y), skip_f(y))
    return decoder.head(x)[0]


@pytest.mark.parametrize(
    "spec",
    ["router_tuning(unit=attention)", "router_tuning(unit=mlp)", "router_tuning(unit=block)", *SPECS[2:]],
)
def test_a_gate_computes_its_rule(model: Decoder, spec: str) -> None:
    method = methods.create(spec)
    ids = torch.randint(2, 90, (1, 14), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        want = reference(with_extras(model, method), spec, ids)
        got = score(model, method, ids, [6])[0]
    torch.testing.assert_close(got, want, atol=2e-4, rtol=0)
    if spec != "gateskip":
        out = generate(model, method, ids[:, :6], max_new_tokens=9, stop_at_eos=False)
        assert not (out.trace.attention & out.trace.feed)[:, 1:].all(), "nothing was skipped: nothing was tried"


def test_a_sequence_is_decided_once(model: Decoder) -> None:
    """Every decode step of a row runs the same blocks, and rows differ."""
    method = methods.create("router_tuning(unit=block,granularity=sequence,prompt=False)")
    ids, mask = ragged_prompts(rows=6)
    out = generate(with_extras(model, method), method, ids, mask, max_new_tokens=6, stop_at_eos=False)
    later = out.trace.layers[:, 1:]
    assert out.trace.layers[:, 0].all() and torch.equal(later, later[:, :1].expand_as(later))
    assert len({tuple(row.tolist()) for row in later[:, 0]}) > 1


def test_a_profile_gives_gateskip_its_thresholds(model: Decoder) -> None:
    from harness.tune.measured import DataProfile

    asked = methods.create("gateskip(skip=0.3)")
    with pytest.raises(BadInput, match=r"run `depthbench profile 'gateskip\(skip=0.3\)'"):
        asked.resolve(model.depth, with_extras(model, asked).extras)
    windows = torch.randint(2, 90, (12, 20), generator=torch.Generator().manual_seed(1)).tolist()
    found = asked.profile(DataProfile(model, windows))
    assert found.params["thresholds"].count("_") == 2 * model.depth - 1
    ids = torch.tensor(windows)[:, :4]
    out = generate(model, found, ids, max_new_tokens=12, stop_at_eos=False)
    ran = torch.stack((out.trace.attention, out.trace.feed))[:, :, 1:].double().mean()
    assert 0.5 < float(ran) < 0.9, "about 30 % were to be skipped"


def test_the_largest_share_is_taken_within_rows() -> None:
    rows = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    values = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2, 0.3, 0.0])
    assert largest(values, rows, 0.5).tolist() == [False, True, False, True, False, True, True]
    assert largest(values, rows, 1.0).all()


@pytest.mark.parametrize("spec", SPECS)
def test_untrained_weights_are_refused(spec: str) -> None:
    method = methods.create(spec)
    assert isinstance(method, Gate)
    with pytest.raises(BadInput, match=f"^{method.name}: needs a checkpoint with "):
        method.resolve(6, {})


def test_options_are_checked() -> None:
    plan = methods.create("dllm").training_plan()
    assert plan.configure is not None
    with pytest.raises(BadInput, match="dllm: options: no parameter named 'targt'; did you mean 'target'"):
        plan.configure({"targt": 0.4})
    assert not plan.configure({"frozen": False, "target": 0.4}).stages[0].frozen
    assert plan.configure({"frozen": True}).stages[0].frozen
