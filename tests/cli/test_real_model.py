"""A real pretrained model through every command that takes one, as a newcomer types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.models.load import load_model
from harness.run import executors
from tests.cli.test_main import call
from tests.fakes import InProcess

NAME = "smollm2-135m"
RECIPE = """
method: full
start: smollm2-135m
lora: {rank: 4, alpha: 8}
data: [{task: restaurants, limit: 8, references: 1}]
stages: {weights: {steps: 20, learning_rate: 0.0005}}
prompts_per_step: 2
references_per_prompt: 1
bf16: false
log_every: 5
"""
SUITE = """
model: smollm2-135m
methods: [full, fixed_exit(budget=20)]
batch_sizes: [1]
tasks: [{name: restaurants, limit: 1}]
new_tokens: 4
max_new_tokens: 4
processes: 1
repeats: 1
energy: false
"""
PARIS = r"<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
def test_smollm2_goes_through_everything(
    tmp_path: Path,
    tiny_tasks: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        load_model(NAME)
    except BadInput as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "create", lambda name: InProcess())
    tasks, data = tiny_tasks
    Path("lora.yaml").write_text(RECIPE)
    Path("suite.yaml").write_text(SUITE)

    def printed(*arguments: str, status: tuple[int, ...] = (0,)) -> str:
        capsys.readouterr()
        assert call(monkeypatch, *arguments) in status, arguments
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return said.out

    model = ("--model", NAME)
    assert "Paris" in printed("generate", PARIS, *model, "--max-new-tokens", "12")
    assert "greedy: yes" in printed("score", "The capital of France is", " Paris", *model)
    evaluated = printed(
        *("lm-eval", *model, "--tasks", "tiny_choice,tiny_last,tiny_write", "--limit", "2", "--data", str(data)),
        *("--include_path", str(tasks), "--method", "fixed_exit(budget=20)", "--with-full"),
    )
    assert "p, Holm" in evaluated and "bootstrapping" not in evaluated
    small = ("--batch", "1", "--repeats", "1", "--new-tokens", "4")
    assert "transformers" in printed("baseline", *model, *small, "--engines", "depthbench,transformers")
    tuned = printed(
        *("tune", "fixed_exit", *model, "--try", "budget=30,20", "--max-loss", "100", "--task", "restaurants"),
        *("--limit", "2", "--repeats", "2", "--new-tokens", "4", "--out", "tuned.json"),
    )
    assert "chosen fixed_exit" in tuned and json.loads(Path("tuned.json").read_text())["checkpoint"] == NAME
    few = ("--task", "restaurants", "--limit", "2", "--try", "threshold=1,0.98", "--out", "calm.json")
    printed("calibrate", "calm(confidence=state)", *model, *few)
    printed("train", "lora.yaml", "--out", "trained")
    assert "layers per token" in printed("generate", "name[Zizzi]", "--model", "trained", "--max-new-tokens", "4")
    printed("run", "suite.yaml", "--out", "run", status=(0, 1))  # of four steps few can be told apart
    cells = [json.loads(path.read_text()) for path in Path("run", "cells").iterdir()]
    assert {cell["status"] for cell in cells} == {"ok"} and len(cells) == 6
