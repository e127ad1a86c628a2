"""Checkpoints people bring: used as they are or refused by name, whatever way they come in; nothing is dropped in silence."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.errors import BadInput, CellFailed
from harness.models.checks import said
from harness.models.decoder import Decoder
from harness.models.identity import beside_weights
from harness.models.load import load_model
from harness.tasks.lm_eval.bridge import MethodLM
from harness.tasks.prompts import beginning, speed_batch
from tests.conftest import ragged_prompts, tiny

FULL = methods.create("full")
Change = Callable[[Path], None]


def saved(source: Any, folder: Path, tokenizer: Any) -> Path:
    source.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A tiny Llama whose output matrix is its own, with a tokenizer."""
    return saved(
        tiny("llama", depth=2, vocab_size=400).source,
        tmp_path_factory.mktemp("llama"),
        load_model(checkpoint).tokenizer,
    )


def as_hub(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder as a repository of the local hub cache, with no network."""
    import huggingface_hub.constants as constants

    place = root / "hub" / "models--somebody--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "somebody/tiny"


def edit(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))

    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).parent.mkdir(exist_ok=True) or (folder / name).write_text(content) and None


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


FOLDERS: dict[str, tuple[Change, str]] = {
    "a LoRA adapter beside the weights": (edit("adapter_config.json", peft_type="LORA"), "adapter.*merge"),
    "an output matrix that is missing and not tied": (
        tensors(lambda t: t.pop("lm_head.weight")),
        "lacks 1 .*lm_head.weight",
    ),
    "a block more than the configuration": (
        tensors(
            lambda t: t.update({k.replace("layers.1", "layers.2"): v.clone() for k, v in t.items() if "layers.1" in k})
        ),
        "holds 9 tensors that its configuration does not know, model.layers.2",
    ),
    "a bias the configuration does not know": (
        tensors(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})),
        "holds 1 tensors.*q_proj.bias",
    ),
    "another width": (edit("config.json", intermediate_size=48), "another shape"),
    "a list for a configuration": (text("config.json", "[]"), "config.json is not a JSON object"),
    "no heads": (edit("config.json", num_attention_heads=0), "num_attention_heads=0"),
    "an end token that is a word": (
        edit("generation_config.json", eos_token_id="two"),
        "eos_token_id='two'.*generation_config",
    ),
    "an end token outside the vocabulary": (edit("generation_config.json", eos_token_id=[1, 4000]), "4000"),
    "damaged generation settings": (text("generation_config.json", "{"), "generation_config.json is not valid JSON"),
    "a damaged tokenizer": (text("tokenizer.json", "{"), "tokenizer.json is not valid JSON"),
    "damaged extras": (text("extras/extras.safetensors", "cut"), "extras.safetensors is damaged"),
    "a card that is a list": (text("depthbench.json", "[]"), "depthbench.json is not a JSON object"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_is_right_or_refused_by_name(
    what: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder, as a hub repository, and in lm-eval."""
    change, message = FOLDERS[what]
    folder = Path(shutil.copytree(llama, tmp_path / "changed"))
    change(folder)
    ways: list[Callable[[], object]] = [lambda: load_model(folder), lambda: MethodLM(str(folder))]
    if what not in ("damaged extras",):  # those of this project's own training; a hub repository has none
        name = as_hub(folder, tmp_path, monkeypatch)
        ways.append(lambda: load_model(name))
    for way in ways:
        with pytest.raises(BadInput, match=message) as caught:
            way()
        assert "\n" not in str(caught.value)


def test_a_hub_repository_is_the_folder(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, _ = ragged_prompts()
    folder, hub = load_model(llama), load_model(as_hub(llama, tmp_path, monkeypatch))
    tokens = [generate(model, FULL, ids, max_new_tokens=4).tokens for model in (folder, hub)]
    assert torch.equal(tokens[0], tokens[1]) and beside_weights(folder) == beside_weights(hub)


def test_only_what_is_tied_may_be_absent_and_old_tables_may_be_there(tmp_path: Path, checkpoint: Path) -> None:
    source = tiny("llama", depth=1, vocab_size=400, tie_word_embeddings=True).source
    folder = saved(source, tmp_path / "tied", load_model(checkpoint).tokenizer)
    tensors(lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))(folder)
    assert torch.equal(load_model(folder).source.lm_head.weight, source.lm_head.weight)


def lora(source: Any) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(source, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


class Doubled(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def replaced(source: Any) -> None:
    mlp = source.model.layers[0].mlp
    mlp.up_proj = Doubled(mlp.up_proj.in_features, mlp.up_proj.out_features, bias=False)


def offloaded(source: Any) -> None:
    source.model.layers[1].to("meta")


def hooked(source: Any) -> None:
    source.model.layers[0].register_forward_hook(lambda *_: None)


def own_forward(source: Any) -> None:
    source.model.norm.forward = lambda x: x


def other_epsilon(source: Any) -> None:
    source.config.rms_norm_eps = 0.5


OBJECTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a PeftModel": (lora, "PeftModel; merge its adapters first"),
    "the model inside it": (lambda source: lora(source).base_model.model, "q_proj is a .*merge_and_unload"),
    "a replaced module": (replaced, "up_proj is a .*Doubled, which stands for a Linear"),
    "a hook": (hooked, "layers.0 has a forward hook"),
    "a forward of its own": (own_forward, "model.norm has a forward of its own"),
    "offloaded weights": (offloaded, "offloaded"),
    "a changed configuration": (other_epsilon, "variance_epsilon is 1e-06, by its configuration 0.5"),
    "a subclass": (
        lambda source: setattr(source, "__class__", type("Mine", (type(source),), {})),
        "is a Mine, not a Llama",
    ),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_a_model_object_is_plain_or_refused_by_name(what: str) -> None:
    change, message = OBJECTS[what]
    source = copy.deepcopy(tiny("llama", depth=2).source)
    changed = change(source) or source
    with pytest.raises(BadInput, match=message) as caught:
        load_model(changed)
    assert "\n" not in str(caught.value)


def test_merged_adapters_load_and_those_added_later_are_refused() -> None:
    ids, _ = ragged_prompts()
    merged = lora(tiny("llama", depth=2).source)
    for name, parameter in merged.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    merged = merged.merge_and_unload()
    decoder = load_model(merged)
    logits = score(decoder, FULL, ids[:1], [ids.shape[1]])
    torch.testing.assert_close(logits, merged(ids[:1]).logits, rtol=1e-4, atol=1e-4)
    lora(merged)
    with pytest.raises(BadInput, match="added or replaced after loading"):
        generate(decoder, FULL, ids, max_new_tokens=2)


def test_weights_changed_in_place_are_read_again() -> None:
    ids, mask = ragged_prompts()
    decoder = tiny("llama", depth=2)
    before = score(decoder, FULL, ids, [ids.shape[1]] * 3)
    with torch.no_grad():
        for parameter in decoder.source.parameters():
            parameter.mul_(1.5)
        decoder.source.model.norm.weight = torch.nn.Parameter(decoder.source.model.norm.weight * 2)
    after = score(decoder, FULL, ids, [ids.shape[1]] * 3)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after[:1], decoder.source(ids[:1]).logits, rtol=1e-4, atol=1e-4)
    fresh = generate(load_model(decoder.source), FULL, ids, mask, max_new_tokens=5).tokens
    assert torch.equal(generate(decoder, FULL, ids, mask, max_new_tokens=5).tokens, fresh)


def test_threads_may_share_a_fresh_decoder() -> None:
    ids, mask = ragged_prompts()

    def tokens(decoder: Decoder) -> torch.Tensor:
        return generate(decoder, FULL, ids, mask, max_new_tokens=12).tokens

    right = tokens(tiny("llama"))
    for _ in range(3):
        decoder = tiny("llama")
        with ThreadPoolExecutor(4) as threads:
            assert all(torch.equal(found, right) for found in threads.map(tokens, [decoder] * 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_fail(value: float) -> None:
    ids, _ = ragged_prompts()
    source = tiny("llama", depth=2).source
    with torch.no_grad():
        source.model.layers[1].mlp.down_proj.weight[3, 5] = value
    decoder = load_model(source)
    with pytest.raises(CellFailed, match="not finite"):
        generate(decoder, FULL, ids, max_new_tokens=4)
    with pytest.raises(CellFailed, match="not finite"):
        score(decoder, FULL, ids, [4] * 3)


def test_what_changes_a_generation_beside_the_weights_is_known(llama: Path, tmp_path: Path) -> None:
    known = beside_weights(load_model(llama))
    changes: dict[str, Change] = {
        "end_tokens": edit("generation_config.json", eos_token_id=[1, 7]),
        "pad_token": edit("config.json", pad_token_id=5),
        "tokenizer": edit("tokenizer_config.json", chat_template="{{ messages }}"),
        "configuration": edit("config.json", rms_norm_eps=0.01),
    }
    for key, change in changes.items():
        folder = Path(shutil.copytree(llama, tmp_path / key))
        change(folder)
        found = beside_weights(load_model(folder))
        assert [name for name in known if found[name] != known[name]] == [key]


def test_settings_that_are_not_applied_are_named(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "asks"))
    edit("generation_config.json", repetition_penalty=1.3, num_beams=4, do_sample=True, top_p=0.9)(folder)
    line = said("it", load_model(folder).ignored)
    assert line.startswith("it asks for do_sample=True, num_beams=4, repetition_penalty=1.3, ") and "top_p=0.9" in line
    assert said("it", load_model(llama).ignored) == ""


def test_every_row_of_fixed_length_begins_as_the_tokenizer_begins_a_text(checkpoint: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    from harness.tasks.base import Example

    tokenizer = load_model(checkpoint).tokenizer
    examples = [Example(str(i), f"name[Zizzi {i}], food[English]\n", ("x",)) for i in range(3)]

    def rows() -> list[list[int]]:
        return speed_batch(tokenizer, examples, 4, 0, 6, 0, 0).ids.tolist()

    plain = rows()
    assert beginning(tokenizer) == []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="</s> $A </s>", special_tokens=[("</s>", 1)])
    assert beginning(tokenizer) == [1]
    assert [row[0] for row in rows()] == [1] * 4
    assert [t for row in rows() for t in row[1:]] == [t for row in plain for t in row][:20]
