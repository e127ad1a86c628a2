"""Several processes train what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.models.load import load_model
from tests.train.test_recipes import save_start

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_train_the_same_weights(tmp_path: Path) -> None:
    """Torchrun with two processes of one batch each against one process of two batches: the same steps, the same weights."""
    (tmp_path / "start").mkdir()
    start = save_start("opt", tmp_path / "start")
    settings = (
        "data.0.limit=8", "data.0.references=2", "validation.data.0.limit=2", "validation.every=2", "prompts_per_step=4",
        "stages.weights={steps: 4, learning_rate: 0.01}", "bf16=false",
    )  # fmt: skip
    made, costs = [], []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if processes == 2 else []
        out = tmp_path / f"by-{processes}"
        command = [sys.executable, *launcher, "-m", "harness.cli", "train", "finetune-layerskip", "--out", str(out)]
        command += ["--model", start, "--task", "restaurants", "--set", f"accumulate={3 - processes}"]
        for setting in settings:
            command += ["--set", setting]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count(str(out)) == 1, "only the first process speaks"
        decoder = load_model(out)
        made.append(decoder.source.state_dict())
        costs.append((decoder.card["cost"]["processes"], decoder.card["cost"]["tokens"]))
    assert [processes for processes, _ in costs] == [1, 2] and len({tokens for _, tokens in costs}) == 1
    before = load_model(start).source.state_dict()
    assert any(not torch.allclose(before[name], made[0][name], atol=1e-2) for name in before)
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name], atol=2e-3, rtol=0, msg=name)
