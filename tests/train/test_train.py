"""Training: the loss is that of the scoring pass, it falls, an interrupted run resumes, what is saved loads."""

from __future__ import annotations

import csv
import functools
import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

import methods
from harness.decode.forced import score
from harness.errors import BadInput
from harness.machine import environment
from harness.models.decoder import Decoder
from harness.models.identity import sampled_weights
from harness.models.load import load_model
from harness.train import progress, recipes
from harness.train.batches import Pair, Pairs, collate
from harness.train.checkpoint import mixed
from harness.train.recipes import DataSource
from harness.train.stage_model import ForcedModel
from harness.train.train import train
from harness.training import Moment
from tests.conftest import tiny_recipe

PAIRS = [Pair([5, 6, 7, 8], [[9, 10, 1], [11, 12, 13, 14, 1]]), Pair([15, 16], [[17, 1]])]


def forced_model(decoder: Decoder, spec: str, stage: int = 0) -> ForcedModel:
    plan = methods.create(spec).training_plan()
    return ForcedModel(decoder, plan, plan.stages[stage], expected_tokens=5, seed=0)


def test_collate_pads_and_names_owners() -> None:
    batch = collate(PAIRS, pad=0)
    assert batch["prompts"].tolist() == [[5, 6, 7, 8], [15, 16, 0, 0]]
    assert batch["prompt_lengths"].tolist() == [4, 2]
    assert batch["owners"].tolist() == [0, 0, 1]
    assert batch["labels"].tolist() == [[9, 10, 1, 0, 0], [11, 12, 13, 14, 1], [17, 1, 0, 0, 0]]
    assert batch["real"].sum(1).tolist() == [3, 5, 2]


@pytest.mark.parametrize("spec", ["full", "skipdecode(min_layers=2,max_layers=4)"])
def test_training_loss_is_the_score_of_the_references(opt: Decoder, spec: str) -> None:
    """The trainer and `score` are one computation: the loss is the mean of the scored log-likelihoods."""
    loss = forced_model(opt, spec)(**collate(PAIRS, pad=0))["loss"]
    total, count = 0.0, 0
    for pair in PAIRS:
        for target in pair.targets:
            ids = torch.tensor([pair.prompt + target])
            logits = score(opt, methods.create(spec), ids, [len(pair.prompt)], expected_tokens=5)[0]
            logp = logits[len(pair.prompt) - 1 : -1].log_softmax(-1)
            total -= float(logp.gather(1, torch.tensor(target).unsqueeze(1)).sum())
            count += len(target)
    assert float(loss.detach()) == pytest.approx(total / count, abs=1e-4)


def test_every_weight_gets_a_gradient(opt: Decoder) -> None:
    for spec in ("full", "calm", "skipdecode"):
        model = forced_model(opt, spec)
        model.zero_grad()
        model(**collate(PAIRS, pad=0))["loss"].backward()
        silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
        assert not silent, f"{spec}: {silent}"
        model.zero_grad()


def test_probe_stage_freezes_the_model(opt: Decoder) -> None:
    model = forced_model(opt, "calm", stage=1)
    try:
        model(**collate(PAIRS, pad=0))["loss"].backward()
        assert {n for n, p in model.named_parameters() if p.grad is not None} == {
            "extras.calm_probe__weight",
            "extras.calm_probe__bias",
        }
    finally:
        opt.source.requires_grad_(True)


def test_skipdecode_draws_every_target_or_keeps_the_one_given() -> None:
    draw = methods.create("skipdecode").training_plan().draw
    assert draw is not None
    rng = random.Random(0)
    assert {draw(rng, Moment(0, 1)).params["speedup"] for _ in range(100)} == {1.0, 2.0, 3.0, 4.0, 5.0}
    fixed = methods.create("skipdecode(speedup=3)")
    draw = fixed.training_plan().draw
    assert draw is not None and draw(rng, Moment(0, 1)) == fixed


def test_loss_falls_and_the_checkpoint_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = train(tiny_recipe(steps=12), tmp_path / "full")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    losses = [float(line.split()[3]) for line in lines]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.3
    decoder = load_model(out)
    assert decoder.card["trained_for"] == "full" and decoder.card["data"] == ["restaurants"]
    assert decoder.tokenizer.decode(decoder.tokenizer("name[Mossgrove]\n").input_ids) == "name[Mossgrove]\n"
    with pytest.raises(BadInput, match="holds a checkpoint already"):
        train(tiny_recipe(), out)


class Killed(BaseException):
    """Stands for a process that is gone: nothing that clears up after errors catches it."""


def at(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and death in place of its `count`-th call."""
    calls = itertools.count(1)

    def dying(*args: Any, **named: Any) -> Any:
        if next(calls) == count:
            raise Killed
        return function(*args, **named)

    return dying


def logged(out: Path) -> list[dict[str, str]]:
    """The table of losses without what a clock says."""
    with open(out / "loss.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two stages that nothing stopped."""
    return train(TWO_STAGES, tmp_path_factory.mktemp("straight") / "out")


TWO_STAGES = tiny_recipe(
    "calm",
    stages={name: {"steps": steps, "learning_rate": 0.003} for name, steps in (("weights", 5), ("probe", 3))},
    save_every=2,
)


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (Trainer, "training_step", 4),  # in a step, after one that was saved
        (Trainer, "_save_rng_state", 2),  # while a state is saved: its weights are there, the rest is not
        (Trainer, "training_step", 7),  # in the second stage
        (shutil, "move", 3),  # while the finished checkpoint is put in its place
    ],
)
def test_a_training_killed_anywhere_goes_on_to_the_same_end(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int
) -> None:
    """Weights, extra tensors, losses and cost are those of a training that nothing stopped, and no half checkpoint is taken."""
    out, want = tmp_path / "out", load_model(straight)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, at(call, getattr(where, name)))
        with pytest.raises(Killed):
            train(TWO_STAGES, out)
    assert not (out / "config.json").exists()
    got = load_model(train(TWO_STAGES, out))
    for (key, a), (_, b) in zip(want.source.named_parameters(), got.source.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=key)
    torch.testing.assert_close(dict(want.extras), dict(got.extras), atol=1e-6, rtol=0)
    assert logged(out) == logged(straight) and len(logged(out)) == 8 and (out / "loss.svg").is_file()
    costs = [
        {key: value for key, value in decoder.card["cost"].items() if key not in ("seconds", "stages")}
        for decoder in (want, got)
    ]
    assert costs[0] == costs[1] and costs[0]["steps"] == 8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_the_training(
    straight: Path, bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer logs a loss of 0 there and goes on; what was saved before is sound, and the training goes on from it."""
    forward, asked = ForcedModel.forward, itertools.count(1)

    @functools.wraps(forward)
    def spoilt(self: ForcedModel, *given: Any, **named: Any) -> Any:
        found = forward(self, *given, **named)
        return {**found, "loss": found["loss"] * bad} if next(asked) == 4 else found

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(ForcedModel, "forward", spoilt)
        with pytest.raises(BadInput, match=r"stage weights: the gradient of step 4 is not finite; train in float32"):
            train(TWO_STAGES, out)
    assert not out.exists()
    assert logged(train(TWO_STAGES, out)) == logged(straight)


def test_the_card_says_what_the_weights_cost(tmp_path: Path) -> None:
    """An epoch runs over every token of the data once; who goes on from a checkpoint says from which."""
    recipe = tiny_recipe(steps=3)
    first = load_model(train(recipe, tmp_path / "first"))
    pairs = Pairs(recipe.data, first, None, recipe.references_per_prompt)
    assert len(pairs) == 12, "three steps of four prompts are one epoch"
    cost = first.card["cost"]
    assert cost["tokens"] == sum(len(p.prompt) + sum(map(len, p.targets)) for p in pairs.pairs)
    assert cost["steps"] == 3 and cost["seconds"] > 0 and cost["device"] and first.card["started_from"] is None
    more = tiny_recipe(steps=1, architecture=None, start=str(tmp_path / "first"))
    second = load_model(train(more, tmp_path / "second"))
    assert second.card["started_from"]["weights"] == sampled_weights(first) != sampled_weights(second)
    assert second.card["started_from"]["cost"] == cost and second.card["cost"]["steps"] == 1
    assert second.card["data_hash"] == pairs.hash


@pytest.mark.parametrize(
    ("told", "device", "want"),
    [
        ("flags\t: fpu avx512_bf16", "cpu", True),
        ("flags\t: fpu avx2\nbugs\t: bf16", "cpu", False),
        ("", "cpu", False),
        ("", "cuda", True),
    ],
)
def test_auto_is_bfloat16_where_there_are_instructions(
    told: str, device: str, want: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "text", lambda path: told)
    assert mixed(tiny_recipe(bf16="auto"), device) is want
    assert mixed(tiny_recipe(bf16=False), device) is False


def test_a_part_of_a_split_is_left_out_and_prompts_are_shortened(tmp_path: Path) -> None:
    """`skip` keeps the first examples for a test; long prompts lose words as they do when they are scored."""
    decoder = load_model(train(tiny_recipe(steps=1), tmp_path / "out"))
    rows = [f"article {i} {'word ' * 40},highlight {i}" for i in range(5)]
    (tmp_path / "test.csv").write_text("\n".join(["article,highlights", *rows]) + "\n")
    source = DataSource(task="cnn_dm", split="test", skip=2, limit=2, max_prompt_tokens=70)
    pairs = Pairs([source], decoder, tmp_path, 1).pairs
    texts = [decoder.tokenizer.decode(pair.prompt) for pair in pairs]
    assert [f"article {i} word" in text for i, text in zip((2, 3), texts, strict=True)] == [True, True]
    assert all(len(pair.prompt) <= 70 for pair in pairs) and all(text.endswith("Summary:") for text in texts)
    with pytest.raises(BadInput, match="nothing of cnn_dm test is left after skip 9"):
        Pairs([DataSource(task="cnn_dm", split="test", skip=9)], decoder, tmp_path, 1)


def test_a_training_that_never_began_leaves_nothing_behind(tmp_path: Path) -> None:
    """Bad input found late, with the folder marked and the tokenizer made, must not bind the next attempt to that recipe."""
    out, work = tmp_path / "out", tmp_path / "out.work"
    with pytest.raises(BadInput, match="no pair of prompt and reference fits into 4 tokens"):
        train(tiny_recipe(max_tokens=4), out)
    assert not list(tmp_path.iterdir())
    # What the user keeps there is not ours to remove.
    work.mkdir()
    (work / "notes").write_text("mine")
    with pytest.raises(BadInput, match="no pair"):
        train(tiny_recipe(max_tokens=4), out)
    assert [path.name for path in work.iterdir()] == ["notes"]
    # Killed before the first saved step: another recipe begins anew, with a tokenizer of its own.
    progress.claim(work, tiny_recipe(seed=5).model_dump(mode="json"))
    (work / "tokenizer").mkdir()
    (work / "tokenizer" / "tokenizer.json").write_text("of other data")
    assert load_model(train(tiny_recipe(steps=1), out)).card["recipe"]["seed"] == 0


def test_a_state_that_was_not_saved_whole_is_passed_over(tmp_path: Path) -> None:
    """Killed while saving: the state before it is taken, and the broken one is gone."""
    for step, text in ((2, "{}"), (10, '{"global_'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert progress.last_saved(tmp_path) == tmp_path / "checkpoint-2"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert progress.last_saved(tmp_path / "none") is None


def test_saved_steps_of_another_recipe_are_refused(tmp_path: Path) -> None:
    one, other = (tiny_recipe(seed=seed).model_dump(mode="json") for seed in (0, 1))
    assert progress.claim(tmp_path, one) and progress.claim(tmp_path, other), "nothing saved yet: nothing lost"
    (tmp_path / "weights" / "checkpoint-2").mkdir(parents=True)
    assert not progress.claim(tmp_path, other)
    with pytest.raises(BadInput, match="another seed"):
        progress.claim(tmp_path, one)
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(BadInput, match="no readable recipe.json"):
        progress.claim(tmp_path, one)


def test_calm_recipe_trains_and_stores_the_probe(checkpoint: Path) -> None:
    decoder = load_model(checkpoint)
    assert set(decoder.extras) == {"calm_probe.weight", "calm_probe.bias"}
    assert decoder.extras["calm_probe.weight"].shape == (1, 32) and decoder.extras["calm_probe.weight"].any()


def test_bundled_recipes_are_valid() -> None:
    assert set(recipes.names()) >= {"opt-e2e-mini-full", "opt-e2e-mini-skipdecode-700", "smollm2-e2e-plain"}
    for name in recipes.names():
        recipe = recipes.load_recipe(name)
        plan = methods.create(recipe.method).training_plan()
        assert set(recipe.stages) <= {stage.name for stage in plan.stages}


def test_methods_of_one_base_get_equal_extra_tokens() -> None:
    """Same data, seed and batches: equal steps are equal tokens."""
    loaded = [recipes.load_recipe(name) for name in recipes.names()]
    for start in ("opt-e2e-mini/full", "smollm2-e2e/plain", "smollm2-cnn_dm-plain"):
        group = [recipe for recipe in loaded if recipe.start == start]
        assert len(group) >= 6
        alike = {
            (
                sum(stage.steps for stage in recipe.stages.values()), recipe.data, recipe.seed, recipe.max_tokens,
                recipe.prompts_per_step, recipe.references_per_prompt,
            )
            for recipe in group
        }  # fmt: skip
        assert len(alike) == 1, start


def test_bad_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'opt-e2e-mini-full'"):
        recipes.load_recipe("opt-e2e-mini-ful")
    path = tmp_path / "r.yaml"
    path.write_text("method: full\nstart: a/b\ndata: [{task: e2e}]\nstages: {weights: {steps: 0, learning_rate: 1}}\n")
    with pytest.raises(BadInput, match=r"stages\.weights\.steps"):
        recipes.load_recipe(str(path))
    stages = "stages: {weights: {steps: 1, learning_rate: 1}}\n"
    for text, said in (  # the key that is wrong, and the one that was meant, however deep it stands
        (f"methd: full\nstart: a/b\ndata: [{{task: e2e}}]\n{stages}", "methd: unknown key; did you mean 'method'?"),
        (f"start: a/b\ndata: [{{task: e2e, lmit: 1}}]\n{stages}", "data.0.lmit: unknown key; did you mean 'limit'?"),
        ("start: a/b\ndata: [{task: e2e}]\nstages: {weights: {step: 1, learning_rate: 1}}\n", "did you mean 'steps'?"),
        (
            f"start: a/b\ndata: [{{task: e2e}}]\n{stages}validation: {{every: 1, data: [{{taks: x}}]}}\n",
            "did you mean 'task'?",
        ),
        (f"start: a/b\ndata: [{{task: e2e}}]\n{stages}seed: 1\nseed: 2\n", "line 5: the key 'seed' is given twice"),
        # what the method trains, and that there is such a method: known before any model is loaded
        (f"method: ful\nstart: a/b\ndata: [{{task: e2e}}]\n{stages}", "method: "),
        (f"method: skipdecod\nstart: a/b\ndata: [{{task: e2e}}]\n{stages}", "did you mean 'skipdecode'?"),
        (f"method: skipdecode(sped=2)\nstart: a/b\ndata: [{{task: e2e}}]\n{stages}", "did you mean 'speed"),
        (f"start: a/b\ndata: [{{task: e2e}}]\noptions: {{dropout: 0.1}}\n{stages}", "options: full takes none"),
        (
            "start: a/b\ndata: [{task: e2e}]\nstages: {wieghts: {steps: 1, learning_rate: 1}}\n",
            "stages.wieghts is not a stage of full; did you mean 'weights'?",
        ),
        ("- full\n", "is not a mapping"),
        ("start: [", "not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput) as caught:
            recipes.load_recipe(str(path))
        assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)
    path.write_text(f"method: full\ndata: [{{task: e2e}}]\n{stages}")
    with pytest.raises(BadInput, match="start or architecture"):
        recipes.load_recipe(str(path))
