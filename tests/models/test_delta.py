"""Delta checkpoints: the start plus the stored difference, in every way in; one clear line for whatever does not fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import methods
from harness.decode.forced import score
from harness.errors import BadInput
from harness.models import bundled, delta, load
from harness.models.decoder import Decoder
from harness.models.identity import beside_weights, sampled_weights
from harness.models.load import load_model
from harness.models.skeleton import config_of, tokenizer_of
from harness.tasks.lm_eval.bridge import MethodLM
from harness.train.checkpoint import as_delta, save
from harness.train.train import train
from tests.conftest import tiny_recipe

CHANGED = "model.decoder.layers.1.fc1.weight"


@pytest.fixture(scope="module")
def place(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `start`, `changed` (two tensors moved) and `frozen` (another extra tensor, nothing else)."""
    root = tmp_path_factory.mktemp("delta")
    shutil.copytree(checkpoint, root / "start")
    trained = load_model(root / "start")
    extras = {"gate.weight": torch.linspace(-1, 1, 8)}
    save(trained, root / "frozen", extras, {"trained_for": "calm"}, str(root / "start"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in (CHANGED, "model.decoder.embed_tokens.weight"):
            parameter = trained.source.get_parameter(name)
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    save(trained, root / "changed", trained.extras, trained.card, str(root / "start"))
    trained.source.save_pretrained(root / "exact")
    trained.tokenizer.save_pretrained(root / "exact")
    return root


def logits(decoder: Decoder) -> torch.Tensor:
    ids = torch.arange(2, 22).view(2, 10)
    return score(decoder, methods.create("full"), ids, [4, 4])


@pytest.mark.parametrize("shape", [(3, 32), (5, 7), (1,), (2, 3, 40)])
def test_a_code_is_within_half_a_step_of_the_difference(shape: tuple[int, ...]) -> None:
    difference = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    difference.view(-1)[0] = 0
    codes, scales = delta.coded(difference)
    again = delta.decoded(codes, scales)
    assert codes.dtype == torch.int8 and codes.shape == again.shape == difference.shape
    # Half a step; at the end of the range a little more, where bfloat16 rounded the scale down.
    steps = scales.float().repeat_interleave(delta.GROUP)[: difference.numel()].view(shape)
    assert ((again - difference).abs() <= 1.01 * steps).all()
    inside = codes.abs() < 127
    assert ((again - difference).abs()[inside] <= 0.5001 * steps[inside]).all()
    assert not delta.decoded(*delta.coded(torch.zeros(shape))).any()


def test_what_is_loaded_is_the_start_plus_what_is_stored(place: Path) -> None:
    """Exactly: tensors and logits; and as near to the trained weights as the code says."""
    start, loaded, exact = (load_model(place / name) for name in ("start", "changed", "exact"))
    stored = load_file(place / "changed" / delta.WEIGHTS)
    assert {key.partition(".")[2] for key in stored} == {CHANGED, "model.decoder.embed_tokens.weight"}
    with torch.no_grad():
        for name in {key.partition(".")[2] for key in stored}:
            sum_ = start.source.get_parameter(name)
            sum_ += delta.decoded(stored[f"codes.{name}"], stored[f"scales.{name}"])
            assert (loaded.source.get_parameter(name) - exact.source.get_parameter(name)).abs().max() < 3e-4
    start.refresh()
    assert torch.equal(logits(loaded), logits(start)) and not torch.equal(
        logits(loaded), logits(load_model(place / "start"))
    )
    said = json.loads((place / "changed" / bundled.DELTA).read_text())
    assert said["start"] == "../start" and said["weights"] == sampled_weights(loaded) and said["tensors"] == 2
    assert beside_weights(loaded) == beside_weights(start)
    assert loaded.card == start.card and loaded.extras.keys() == start.extras.keys()
    assert loaded.folder == place / "changed"


def test_factors_are_multiplied_exactly(place: Path, tmp_path: Path) -> None:
    """The difference is the product of the stored factors, rounded once, in whatever order its terms are added."""
    trained, generator = load_model(place / "start"), torch.Generator().manual_seed(3)
    rows, columns = trained.source.get_parameter(CHANGED).shape
    left, right = (torch.randn(shape, generator=generator) for shape in ((rows, 4), (4, columns)))
    save(trained, tmp_path / "out", {}, {}, str(place / "start"), factors={CHANGED: (0.1 * left, 0.01 * right)})
    loaded, stored = load_model(tmp_path / "out"), load_file(tmp_path / "out" / delta.WEIGHTS)
    parts = [
        delta.decoded(stored[f"{side}.{CHANGED}"], stored[f"{side}_scales.{CHANGED}"]) for side in ("left", "right")
    ]
    terms = [parts[0][:, k : k + 1].double() * parts[1][k : k + 1].double() for k in range(4)]
    before, after = (load_model(place / "start").source.get_parameter(CHANGED), loaded.source.get_parameter(CHANGED))
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        assert torch.equal(after, before + sum(terms[k] for k in order).float())  # type: ignore[union-attr]
    assert (after - before - 0.001 * left @ right).abs().max() < 1e-4
    assert json.loads((tmp_path / "out" / bundled.DELTA).read_text())["tensors"] == 1
    for change, message in (
        (lambda t: t.pop(f"right.{CHANGED}"), "left and scales of .*fc1.weight have not the shapes"),
        (lambda t: t.update({f"codes.{CHANGED}": t[f"left.{CHANGED}"].clone()}), "fc1.weight has codes and factors"),
        (lambda t: t.update({f"right.{CHANGED}": t[f"right.{CHANGED}"][:, 1:].clone()}), "right and scales of"),
    ):
        shutil.copytree(tmp_path / "out", tmp_path / "bad")
        edit("start", str(place / "start"))(tmp_path / "bad")
        tensors(change)(tmp_path / "bad")
        with pytest.raises(BadInput, match=message):
            load_model(tmp_path / "bad")
        shutil.rmtree(tmp_path / "bad")


def test_a_frozen_training_is_its_extras_alone(place: Path) -> None:
    files = {path.name for path in (place / "frozen").rglob("*") if path.is_file()}
    assert files == {"delta.json", "depthbench.json", "extras.safetensors"}
    frozen, start = load_model(place / "frozen"), load_model(place / "start")
    assert torch.equal(logits(frozen), logits(start)) and set(frozen.extras) == {"gate.weight"}
    assert frozen.card == {"trained_for": "calm"} and sampled_weights(frozen) != sampled_weights(start)


def test_another_type_is_that_of_the_sum(place: Path) -> None:
    short, plain, stored = (load_model(place / "changed", dtype=dtype) for dtype in ("bfloat16", "float32", "auto"))
    assert short.dtype == torch.bfloat16 and plain.dtype == stored.dtype == torch.float32
    for (name, a), b in zip(plain.source.named_parameters(), short.source.parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b), name


def test_every_way_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bundled name, as a difference to a difference, in lm-eval and in a plan's look at sizes and tokenizer."""
    want = logits(load_model(place / "changed"))
    assets = place / "assets"
    shutil.copytree(place / "start", assets / "tiny" / "full", dirs_exist_ok=True)
    shutil.copytree(place / "changed", assets / "tiny" / "layerskip", dirs_exist_ok=True)
    edit("start", "tiny")(assets / "tiny" / "layerskip")
    for module in (bundled, load):
        monkeypatch.setattr(module, "ASSETS", assets)
    assert bundled.bundled() == ["tiny/full", "tiny/layerskip"]
    assert torch.equal(logits(load_model("tiny/layerskip")), want)
    second = load_model("tiny/layerskip")
    save(second, place / "second", {}, {}, "tiny/layerskip")
    assert json.loads((place / "second" / bundled.DELTA).read_text())["start"] == "tiny/layerskip"
    for name in ("tiny/layerskip", str(place / "second")):
        assert torch.equal(logits(load_model(name)), want)
        assert config_of(name)[0].num_hidden_layers == 4 and tokenizer_of(name) is not None
        assert load.base(name) == "tiny" and load.local_folder(name) == assets / "tiny" / "full"
    monkeypatch.chdir(place)
    edit("start", "start")(assets / "tiny" / "layerskip")  # a folder where the process runs
    assert torch.equal(logits(MethodLM("tiny/layerskip").decoder), want)


def edit(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / bundled.DELTA
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        found = load_file(folder / delta.WEIGHTS)
        change(found)
        save_file(found, folder / delta.WEIGHTS)

    return changed


def cut(folder: Path) -> None:
    os.truncate(folder / delta.WEIGHTS, 600)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no such start": (edit("start", "../nothing"), "starts from ../nothing: .*neither bundled"),
    "no start": (edit("start", None), "delta.json: start is missing"),
    "a start of other weights": (edit("start", "../frozen"), "difference to ../frozen with weights"),
    "a start that is itself": (edit("start", "."), "leads back to itself"),
    "damaged json": (lambda f: (f / "delta.json").write_text("{") and None, "delta.json is not valid JSON"),
    "a damaged card": (
        lambda f: (f / "depthbench.json").write_text("[]") and None,
        "depthbench.json is not a JSON object",
    ),
    "a damaged file": (cut, "delta.safetensors is damaged or truncated"),
    "a lost file": (lambda f: (f / delta.WEIGHTS).unlink(), "delta.safetensors or extras are missing"),
    "lost extras": (lambda f: shutil.rmtree(f / "extras"), "delta.safetensors or extras are missing"),
    "another shape": (
        tensors(lambda t: t.update({f"codes.{CHANGED}": t[f"codes.{CHANGED}"][:-1].clone()})),
        "codes and scales of model.decoder.layers.1.fc1.weight have not the shapes",
    ),
    "lost scales": (tensors(lambda t: t.pop(f"scales.{CHANGED}")), "codes and scales of .*fc1.weight have not"),
    "another type": (tensors(lambda t: t.update({f"codes.{CHANGED}": t[f"codes.{CHANGED}"].float()})), "is not int8"),
    "a tensor of no model": (
        tensors(lambda t: t.update({"codes.model.wide": torch.zeros(2, dtype=torch.int8)})),
        "model.wide is no tensor of the start",
    ),
    "something else": (tensors(lambda t: t.update({"model.wide": torch.zeros(2)})), "neither codes nor scales"),
    "whole too": (lambda f: shutil.copy(f.parent / "start" / "config.json", f) and None, "not both"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_each_fault_is_one_clear_line(what: str, place: Path, tmp_path: Path) -> None:
    for name in ("start", "frozen", "changed"):
        shutil.copytree(place / name, tmp_path / name)
    change, message = FAULTS[what]
    change(tmp_path / "changed")
    with pytest.raises(BadInput, match=message) as caught:
        load_model(tmp_path / "changed")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model: ")


def test_a_training_keeps_a_delta_and_a_whole_one_becomes_one(place: Path, tmp_path: Path) -> None:
    """One way to write them: what a recipe with `keep: delta` leaves loads, and is named by its card; a finished one is as near."""
    recipe = tiny_recipe(steps=2, architecture=None, start=str(place / "start"))
    whole = train(recipe, tmp_path / "whole")
    # Another `keep` is no other training: it goes on from what is saved there.
    out = train(recipe.model_copy(update={"keep": "delta"}), tmp_path / "out", work=tmp_path / "whole.work")
    made = as_delta(whole, tmp_path / "made")
    want = dict(load_model(whole).source.named_parameters())
    for folder in (out, made):
        assert {p.name for p in folder.iterdir()} == {
            *("delta.json", "delta.safetensors", "depthbench.json", "extras", "loss.csv", "loss.svg")
        }
        assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {folder.stat().st_mode & 0o666}
        decoder = load_model(folder)
        assert decoder.card["started_from"]["weights"] == sampled_weights(load_model(place / "start"))
        for name, parameter in decoder.source.named_parameters():
            torch.testing.assert_close(parameter, want[name], atol=1e-3, rtol=0, msg=name)  # norms of 1 in float16
    assert json.loads((made / "delta.json").read_text())["start"] == os.path.relpath(place / "start", made)
    with pytest.raises(BadInput, match="holds a checkpoint already"):
        train(recipe, out)
    with pytest.raises(BadInput, match="start: .*has weights .*began with"):
        as_delta(whole, tmp_path / "other", str(place / "frozen"))
    with pytest.raises(BadInput, match="names none"):
        as_delta(place / "start", tmp_path / "other")
    with pytest.raises(ValueError, match="keep: a delta is the difference"):
        tiny_recipe(keep="delta")
