"""The recipes for hub models, run on tiny models: every method, all weights and adapters, OPT and Llama."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

import methods
from harness import tasks
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.train import recipes
from harness.train.batches import Pair, collate
from harness.train.meter import Meter
from harness.train.recipes import LoraSettings
from harness.train.stage_model import ForcedModel
from harness.train.train import train
from harness.training import Moment
from tests.conftest import FAMILY_SETTINGS, tiny

PAIRS = [Pair([5, 6, 7, 8], [[9, 10, 1], [11, 12, 13, 14, 1]]), Pair([15, 16], [[17, 1]])]
METHODS = ("plain", "skipdecode", "calm", "layerskip")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small OPT as the hub has them."""
    return save_start("opt", tmp_path_factory.mktemp("opt"))


def save_start(family: str, folder: Path) -> str:
    """A folder as the hub has them: weights in transformers' names, and a tokenizer that puts a start token before a text."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    texts = [text for e in tasks.create("restaurants").examples("train", 12) for text in (e.prompt, *e.references)]
    bpe.train_from_iterator(texts, 400, special_tokens=["<pad>", "</s>"], show_progress=False)
    bpe._tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "num_hidden_layers": 3, "max_position_embeddings": 512}
    config = AutoConfig.for_model(family, **{**FAMILY_SETTINGS[family], **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def small(name: str, model: str, *more: str, steps: int = 2) -> recipes.Recipe:
    stages = [f"stages.{stage}.steps={steps}" for stage in recipes.load_recipe(name).stages]
    overrides = (
        "data.0.limit=4",
        "data.0.references=2",
        "validation.data.0.limit=2",
        "prompts_per_step=4",
        "accumulate=2",
        "log_every=1",
    )
    return recipes.load_recipe(name, [*stages, *overrides, *more], model=model, task="restaurants")


@pytest.mark.parametrize(
    ("family", "kind", "method"),
    [*itertools.product(["opt"], ["finetune", "lora"], METHODS), ("llama", "lora", "layerskip")],
)
def test_hub_recipes_run(start: str, family: str, kind: str, method: str, tmp_path: Path) -> None:
    """Each recipe trains, validates, and leaves a checkpoint of plain weights that decodes under its method."""
    start = start if family == "opt" else save_start(family, tmp_path)
    if kind == "lora":
        pytest.importorskip("peft")
    out = train(small(f"{kind}-{method}", start), tmp_path / "out")
    decoder, before = load_model(out), load_model(start)
    assert decoder.card["trained_for"] == recipes.load_recipe(f"{kind}-{method}").method
    assert len(decoder.card["data_hash"]) == 16 and math.isfinite(decoder.card["validation_loss"]["weights"])
    assert (out / "adapter" / "adapter_model.safetensors").is_file() == (kind == "lora")
    # Base weights stay what they are in their type in memory; a checkpoint holds float16.
    dtype = torch.bfloat16 if kind == "lora" else torch.float32
    old = {name: value.to(dtype).half() for name, value in before.source.state_dict().items()}
    new = {name: value.half() for name, value in decoder.source.state_dict().items()}
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    if kind == "lora":
        assert changed and all("layers" in name and "norm" not in name for name in changed)
    spec = "full" if method == "plain" else method if method != "calm" else "calm(confidence=classifier)"
    made = generate(decoder, methods.create(spec), torch.tensor([[5, 6, 7]]), max_new_tokens=4)
    assert made.tokens.shape[0] == 1
    assert set(decoder.extras) == ({"calm_probe.weight", "calm_probe.bias"} if method == "calm" else set())


def test_references_carry_no_start_token(start: str) -> None:
    """A tokenizer's start token is often the end token too: before a reference it would teach the model to stop at once."""
    from harness.train.batches import Pairs
    from harness.train.recipes import DataSource

    pairs = Pairs([DataSource(task="restaurants", limit=2)], load_model(start), None, 2)
    for pair in pairs.pairs:
        assert pair.prompt[0] == 1, "the prompt keeps it"
        assert all(ids[-1] == 1 and 1 not in ids[:-1] for ids in pair.targets)


def forced(decoder: Decoder, spec: str, recompute: bool = False, **options: object) -> ForcedModel:
    plan = methods.create(spec).training_plan()
    if options:
        assert plan.configure is not None
        plan = plan.configure(options)
    return ForcedModel(decoder, plan, plan.stages[0], 5, 0, recompute)


@pytest.mark.parametrize("spec", ["full", "skipdecode(min_layers=2,max_layers=4)", "calm", "layerskip"])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_recomputing_changes_no_gradient(family: str, spec: str) -> None:
    """Gradient checkpointing: the same loss and gradients, under every kind of plan, dropout included."""
    decoder = tiny(family, depth=4)
    found = []
    for recompute in (False, True):
        model = forced(decoder, spec, recompute)
        model.zero_grad()
        loss = model(**collate(PAIRS, pad=0))["loss"]
        loss.backward()
        found.append(
            (float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_layer_dropout_leaves_whole_blocks_out() -> None:
    """With probability 1 at the last block, the loss is that of the model without it; evaluation drops nothing."""
    decoder = tiny("opt", depth=3)
    model = forced(decoder, "layerskip", dropout=0.5, early_exit_scale=0.0)
    want = forced(decoder, "full")(**collate(PAIRS, pad=0))["loss"]
    torch.testing.assert_close(model.eval()(**collate(PAIRS, pad=0))["loss"], want)
    model.train()
    object.__setattr__(model.stage, "dropout", lambda moment, depth: [0.0, 0.0, 1.0])
    got = model(**collate(PAIRS, pad=0))["loss"]
    shorter = forced(decoder, "calm")
    exits = shorter.stage
    object.__setattr__(exits, "loss", lambda passed: passed.loss_at(1))
    torch.testing.assert_close(got, shorter(**collate(PAIRS, pad=0))["loss"])


def test_dropout_is_drawn_by_batch_and_step() -> None:
    """A prompt's blocks are left out at the stated rates, anew at every step, the same when the step is repeated."""
    model = forced(tiny("opt", depth=6), "layerskip", dropout=0.9)
    batch = collate(PAIRS, pad=0)
    drawn = []
    for step in range(400):
        model.moment = Moment(step, 400)
        generators = [torch.Generator().manual_seed(step) for _ in range(2)]
        first, again = (model.dropped(batch["prompts"], g) for g in generators)
        assert first is not None and again is not None and torch.equal(first, again)
        drawn.append(first.float())
    rates = torch.cat(drawn).mean(0)
    want = torch.tensor([0.9 * (math.exp(layer * math.log(2) / 5) - 1) for layer in range(6)])
    assert float(rates[0]) == 0 and torch.allclose(rates, want, atol=0.06)
    losses = {float(model(**batch)["loss"].detach()) for model.moment in (Moment(s, 9) for s in (0, 1, 2, 0))}
    assert len(losses) == 3


def test_layerskip_weights_are_the_papers() -> None:
    """Equation 6 at depth 4, scale 1: e = 0, 1, 3, 3 + 3; the curricula turn exits on as the paper says."""
    from methods.layerskip import _Training

    all_on = _Training(curriculum="gradual").weights(Moment(99, 100), 4)
    assert all_on == pytest.approx([0, 1 / 10, 3 / 10, 6 / 10])
    gradual = [[w > 0 for w in _Training().weights(Moment(step, 8), 4)] for step in (0, 1, 2, 3)]
    assert gradual == [[False, False, False, True], [False, False, True, True], [False, True, True, True]] + [
        [False, True, True, True]
    ]
    turning = _Training(curriculum="rotational", rotation=3)
    on = [[layer for layer, w in enumerate(turning.weights(Moment(step, 9), 7)) if w] for step in range(3)]
    assert on == [[3, 6], [1, 4, 6], [2, 5, 6]]  # block 0 weighs nothing; the last is always on
    assert all(sum(turning.weights(Moment(step, 9), 7)) == pytest.approx(1) for step in range(9))
    assert _Training(from_scratch=True).rates(Moment(0, 10), 4) == [0, 0, 0, 0]
    assert _Training(from_scratch=True).rates(Moment(9, 10), 4)[-1] == pytest.approx(0.2)


def test_adapters_are_in_the_weights_and_merge_exactly() -> None:
    """The blocks see W + s B A; merged, the plain model computes the same."""
    pytest.importorskip("peft")
    from harness.decode.forced import score
    from harness.train import lora

    decoder = tiny("llama", depth=3)
    plain = score(decoder, methods.create("full"), torch.tensor([[5, 6, 7, 8, 9]]), [2])
    adapted = lora.attach(decoder.source, LoraSettings(rank=2, alpha=4))
    with torch.no_grad():
        for name, parameter in decoder.source.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
        decoder.refresh()
    seen = score(decoder, methods.create("full"), torch.tensor([[5, 6, 7, 8, 9]]), [2])
    assert not torch.allclose(plain, seen, atol=1e-2)
    model = forced(decoder, "full")
    model(**collate(PAIRS, pad=0))["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    assert all("lora_" in name for name in model.state_dict())
    lora.merge(adapted)
    decoder.refresh()
    merged = score(decoder, methods.create("full"), torch.tensor([[5, 6, 7, 8, 9]]), [2])
    torch.testing.assert_close(merged, seen, atol=1e-4, rtol=1e-4)


def test_interrupted_adapters_resume_to_the_same_weights(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    recipe = small("lora-layerskip", start, "validation.every=2", "bf16=false", "dtype=float32", steps=4)
    want = load_model(train(recipe, tmp_path / "straight"))

    def stop(self: object, args: object, state: object, control: object, logs: object = None, **rest: object) -> None:
        if state.global_step == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "on_log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "broken")
    with pytest.raises(BadInput, match="another seed"):
        train(recipe.model_copy(update={"seed": 7}), tmp_path / "broken")
    got = load_model(train(recipe, tmp_path / "broken"))
    for (name, a), (_, b) in zip(want.source.named_parameters(), got.source.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_are_kept_as_factors(family: str, tmp_path: Path) -> None:
    """`keep: delta` leaves the adapters' two factors, and what is loaded is what the same training leaves whole."""
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    start = save_start(family, tmp_path / "start")
    recipe = small("lora-plain", start, "dtype=float32", "lora.rank=2", "bf16=false", "stages.weights.warmup_steps=0")
    whole = load_model(train(recipe, tmp_path / "whole"))
    # Another `keep` is no other training: it goes on from what is saved there.
    out = train(recipe.model_copy(update={"keep": "delta"}), tmp_path / "out", work=tmp_path / "whole.work")
    assert not (out / "adapter").exists()
    stored, loaded = load_file(out / "delta.safetensors"), load_model(out)
    assert {key.partition(".")[0] for key in stored} == {"left", "right", "left_scales", "right_scales"}
    assert all(stored[key].shape[1] == 2 for key in stored if key.startswith("left."))
    before = dict(load_model(start).source.named_parameters())
    moved = 0
    for name, parameter in loaded.source.named_parameters():
        if f"left.{name}" not in stored:
            assert torch.equal(parameter, before[name]), name
            continue
        kept = whole.source.get_parameter(name)
        moved += not torch.equal(parameter, before[name])
        off = (parameter - kept).abs().max()
        assert off <= 0.03 * (kept - before[name]).abs().max() + 1e-3 * kept.abs().max(), name
    assert moved > 3


def test_drawn_exits_are_all_of_them_on_average() -> None:
    """CALM's loss from a few exits a step: drawn by step, and its mean over steps is the loss of all exits."""
    decoder, batch = tiny("opt", depth=4), collate(PAIRS, pad=0)
    few, every = forced(decoder, "calm", exits_per_step=2), forced(decoder, "calm")
    with torch.no_grad():
        want = float(every(**batch)["loss"])
        found = []
        for step in range(100):
            few.moment = Moment(step, 100)
            found.append(float(few(**batch)["loss"]))
    spread = torch.tensor(found).std() / len(found) ** 0.5
    assert abs(sum(found) / len(found) - want) < 3 * float(spread) and len(set(found)) > 3
    few.moment = Moment(0, 100)
    assert float(few(**batch)["loss"].detach()) == pytest.approx(found[0])


def test_bad_settings_are_refused(start: str, tmp_path: Path) -> None:
    for overrides, wrong in (
        (["options.dropout=2"], "options.dropout=2"),
        (["options.drop=0.1"], "options: no parameter named 'drop'"),
        (["options.curriculum=3"], "options: curriculum=3 is of the wrong type"),
        (["prompts_per_step=3", "accumulate=2"], "prompts_per_step 3 does not divide"),
        (["max_tokens=4"], "no pair of prompt and reference fits into 4 tokens"),
    ):
        with pytest.raises(BadInput, match=wrong):
            train(small("finetune-layerskip", start, *overrides), tmp_path / "out")
    with pytest.raises(BadInput, match="full takes none"):
        train(small("finetune-plain", start, "options.dropout=0.1"), tmp_path / "out")
    for override, wrong in (
        ("dtype=bfloat16", "bfloat16 weights lose small updates"),
        ("steps", "write key=value"),
        ("data.3.limit=1", "data.3: no such entry"),
        ("stages.weights.steps=0", r"with --set: stages\.weights\.steps"),
    ):
        with pytest.raises(BadInput, match=wrong):
            recipes.load_recipe("finetune-plain", [override])


def test_every_recipe_names_a_plan_that_takes_it() -> None:
    assert {f"{kind}-{method}" for kind in ("finetune", "lora") for method in METHODS} <= set(recipes.names())
    for name in recipes.names():
        assert recipes.load_recipe(name).plan.stages
