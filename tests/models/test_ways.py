"""What is wrong with a checkpoint is said whatever way it comes in: folder, hub repository, GGUF file; command by command."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cache
from harness.errors import BadInput
from harness.models.load import load_model
from harness.run import executors
from harness.tasks.lm_eval.bridge import MethodLM
from tests.cli.test_main import call
from tests.fakes import InProcess
from tests.gguf_file import tiny_gguf
from tests.models.test_checks import FOLDERS, as_hub, edit, llama, tensors  # noqa: F401

SUITE = """
model: {model}
methods: [full, skipdecode(speedup=2)]
batch_sizes: [2]
tasks: [{{name: restaurants, limit: 2}}]
new_tokens: 3
max_new_tokens: 3
processes: 1
repeats: 1
energy: false
threads: 1
"""
Way = Callable[[str, str], int]


@pytest.fixture
def way(
    tiny_tasks: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Way:
    """Give a model to a command, in this process; its exit status."""
    tasks, data = tiny_tasks
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(executors, "create", lambda name: InProcess())

    def given(verb: str, model: str) -> int:
        out = tmp_path / "out" / verb
        if verb == "run":
            (tmp_path / "ways.yaml").write_text(SUITE.format(model=json.dumps(model)))
            return call(monkeypatch, "run", str(tmp_path / "ways.yaml"), "--out", str(out))
        if verb == "lm-eval":
            more = ("--include_path", str(tasks), "--data", str(data), "--output_path", str(out), "--limit", "2")
            return call(monkeypatch, "lm-eval", "--model", model, "--tasks", "tiny_choice", *more)
        more = ("B",) if verb == "score" else ("--max-new-tokens", "3")
        return call(monkeypatch, verb, "AB", *more, "--model", model)

    return given


def refused(way: Way, capsys: pytest.CaptureFixture[str], verb: str, model: str) -> str:
    """The one line, with exit status 2, and nothing printed."""
    capsys.readouterr()
    assert way(verb, model) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("depthbench: ")]
    assert len(lines) == 1 and "Traceback" not in said.err and not said.out
    return lines[0]


@pytest.mark.parametrize("what", FOLDERS)
def test_commands_refuse_a_folder_and_a_hub_repository(
    what: str,
    llama: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The folder and, where it can hold that, the repository in turns over the commands."""
    change, message = FOLDERS[what]
    folder = Path(shutil.copytree(llama, tmp_path / "changed"))
    change(folder)
    hub = str(folder) if what == "damaged extras" else as_hub(folder, tmp_path, monkeypatch)
    for verb, model in (
        ("run", str(folder)),
        ("run", hub),
        ("lm-eval", hub),
        ("generate", hub),
        ("score", str(folder)),
    ):
        assert re.search(message, refused(way, capsys, verb, model)), (verb, model)


def test_a_hub_repository_of_an_adapter_alone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    edit("adapter_config.json", peft_type="LORA", base_model_name_or_path="somebody/base")(folder)
    hub = as_hub(folder, tmp_path, monkeypatch)
    for verb, model in (("generate", hub), ("run", hub), ("lm-eval", str(folder))):
        assert "says that this is a LoRA adapter; merge it" in refused(way, capsys, verb, model)


GGUFS: dict[str, tuple[dict[str, Any], str]] = {
    "an adapter": ({"says": {"general.type": "adapter"}}, "is a GGUF file of type 'adapter'.*merge"),
    "one part of several": ({"says": {"split.count": 3}}, "one of 3 parts.*join"),
    "a tensor that is missing": ({"without": ("blk.1.ffn_up",)}, "lacks 1 of its weights, .*up_proj"),
    "a block more than the header": ({"block_count": 1}, "does not take all tensors"),
    "a bias the architecture does not know": ({"more": {"blk.0.attn_q_norm": (64,)}}, "does not take all tensors"),
    "another width": ({"feed_forward_length": 48}, "another shape"),
    "no heads": ({"head_count": 0}, r"llama.attention.head_count=0 in its header"),
    "an end token outside the vocabulary": ({"end": 4000}, "eos_token_id=4000 in its header is no token"),
}


@pytest.mark.parametrize("what", GGUFS)
def test_commands_refuse_a_gguf_file(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    changes, message = GGUFS[what]
    file = tiny_gguf(tmp_path / "odd.gguf", **changes)
    for verb in ("run", "lm-eval", "generate"):
        line = refused(way, capsys, verb, str(file))
        assert re.search(message, line) and str(file) in line, (verb, line)
    for load in (load_model, MethodLM):
        with pytest.raises(BadInput, match=message):
            load(str(file))


def test_a_gguf_file_without_an_output_matrix_shares_its_embedding(tmp_path: Path, way: Way) -> None:
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    source = load_model(tiny_gguf(tmp_path / "tied.gguf", without=("output",))).source
    assert torch.equal(source.lm_head.weight, source.model.embed_tokens.weight)


def test_what_lies_beside_a_gguf_file_does_not_count(tmp_path: Path, way: Way, llama: Path) -> None:  # noqa: F811
    """The cache knows the file by its content, so nothing else may have a say."""
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    alone = load_model(tiny_gguf(tmp_path / "alone.gguf"))
    shutil.rmtree(tmp_path / "cache")
    folder = tmp_path / "more"
    shutil.copytree(llama, folder)
    edit("adapter_config.json", peft_type="LORA", base_model_name_or_path=str(llama))(folder)
    edit("generation_config.json", eos_token_id=7)(folder)
    (folder / "chat_template.jinja").write_text("another")
    beside = load_model(Path(shutil.copy(tmp_path / "alone.gguf", folder)))
    assert beside.eos_token_ids == alone.eos_token_ids == (1,)
    assert beside.tokenizer.chat_template == alone.tokenizer.chat_template
    assert beside.tokenizer("AB c").input_ids == alone.tokenizer("AB c").input_ids
    for a, b in zip(alone.source.parameters(), beside.source.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["folder", "hub", "gguf"])
def test_weights_that_are_not_finite_end_with_status_1(
    kind: str,
    llama: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through every command: no text, no score, no accuracy, and of a run cells that failed, with the reason."""
    if kind == "gguf":
        pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
        file = tiny_gguf(tmp_path / "nan.gguf", not_finite="blk.1.ffn_down", context_length=512)
        model = str(file)
    else:
        folder = Path(shutil.copytree(llama, tmp_path / "changed"))
        edit("config.json", max_position_embeddings=512)(folder)
        tensors(lambda t: t["model.layers.1.mlp.down_proj.weight"].fill_(math.nan))(folder)
        model = str(folder) if kind == "folder" else as_hub(folder, tmp_path, monkeypatch)
    for verb in ("generate", "score", "lm-eval"):
        assert way(verb, model) == 1
        said = capsys.readouterr()
        assert "nan" not in said.out and "log-likelihood" not in said.out and "|" not in said.out
        last = said.err.splitlines()[-1]
        assert last.startswith("depthbench: ") and ("not finite" in last or "is nan" in last)
    assert way("run", model) == 1
    said = capsys.readouterr()
    assert "6 cells and " in said.err.splitlines()[-1]
    cells = [json.loads(path.read_text()) for path in (tmp_path / "out" / "run" / "cells").iterdir()]
    failed = [cell for cell in cells if cell["status"] == "failed"]
    assert {cell["kind"] for cell in failed} == {"quality", "speed", "memory"}
    assert all("not finite" in cell["error"] or "no outputs to compare with" in cell["error"] for cell in failed)


def test_settings_that_are_not_applied_are_named_by_every_command(
    llama: Path,  # noqa: F811
    tmp_path: Path,
    way: Way,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "asks"))
    edit("config.json", max_position_embeddings=512)(folder)
    edit("generation_config.json", repetition_penalty=1.3, eos_token_id=1)(folder)
    for verb in ("run", "lm-eval", "generate", "score"):
        assert way(verb, str(folder)) in (0, 1)
        assert capsys.readouterr().err.count(f"{folder} asks for repetition_penalty=1.3; not applied") == 1, verb


def test_answers_kept_by_lm_eval_are_of_what_changes_a_generation(
    llama: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """End tokens, tokenizer and configuration stand beside the weights, and the weights stay the same."""
    folder = Path(shutil.copytree(llama, tmp_path / "same"))
    names = [MethodLM(str(folder)).cache_name()]
    for change in (
        edit("generation_config.json", eos_token_id=[1, 7]),
        edit("tokenizer_config.json", chat_template="{{ messages }}"),
        edit("config.json", rms_norm_eps=0.01),
    ):
        change(folder)
        names.append(MethodLM(str(folder)).cache_name())
    assert len(set(names)) == 4
