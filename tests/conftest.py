"""Tiny models built in code: no hub, no files, seconds on a CPU."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from functools import cache
from pathlib import Path

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before torch is there: as many threads each as there are cores would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import methods
from harness.models.decoder import Decoder
from harness.models.tiny import (
    CONTRACT,
    EOS,
    FAMILY_SETTINGS,
    GATED,
    MODELS,
    TINY,
    VOCABULARY,
    ragged_prompts,
    tiny,
    tiny_opt,
)
from harness.run.contract import with_extras
from harness.train.recipes import Recipe
from harness.train.train import train
from tests.method_cases import SPECS
from tests.tasks.lm_eval import own_tasks

_LOCKS = tempfile.TemporaryDirectory(prefix="depthbench-locks-")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell starts what runs in its background with this signal ignored, and processes that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["DEPTHBENCH_LOCKS"] = _LOCKS.name  # tests wait for no run, and keep none waiting

__all__ = [
    "CONTRACT", "EOS", "FAMILY_SETTINGS", "GATED", "MODELS", "TINY", "VOCABULARY", "ragged_prompts", "tiny", "tiny_opt",
]  # fmt: skip


@cache
def layout(name: str) -> Decoder:
    """A model of one of the layouts of `CONTRACT`, with the trained tensors that the methods' cases ask for."""
    return equipped(MODELS[name]())


def equipped(decoder: Decoder) -> Decoder:
    """The model with all of them."""
    for spec in SPECS:
        with_extras(decoder, methods.create(spec))
    return decoder


@pytest.fixture(scope="session", params=CONTRACT)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """The layouts the contract suite runs over, once each."""
    return layout(request.param)


@pytest.fixture(scope="session")
def opt() -> Decoder:
    """The plain layout only."""
    return equipped(tiny_opt())


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


ARCHITECTURE = {
    "model_type": "opt",
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": 160,
    "dropout": 0.0,
    "init_std": 0.1,
}


def tiny_recipe(method: str = "full", steps: int = 4, **changes: object) -> Recipe:
    """A recipe for a 4-block model on a handful of restaurants."""
    settings: dict[str, object] = {
        "name": "tiny",
        "method": method,
        "architecture": ARCHITECTURE,
        "vocabulary": 400,
        "data": [{"task": "restaurants", "limit": 12, "references": 2}],
        "stages": {"weights": {"steps": steps, "learning_rate": 0.003}},
        "prompts_per_step": 4,
        "references_per_prompt": 2,
        "bf16": False,
        "log_every": 1,
    }
    return Recipe.model_validate({**settings, **changes})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with tokenizer and CALM probe, made by the project's own training."""
    out = tmp_path_factory.mktemp("checkpoint") / "tiny"
    stages = {"weights": {"steps": 2, "learning_rate": 0.003}, "probe": {"steps": 2, "learning_rate": 0.01}}
    return train(tiny_recipe("calm", stages=stages), out)


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of three lm-eval task files and of their data."""
    return own_tasks.write(tmp_path_factory.mktemp("tasks"))
