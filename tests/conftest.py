"""Tiny models built in code: no hub, no files, seconds on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.models import load_model
from harness.models.decoder import Decoder
from harness.recipes import Recipe
from harness.train import train

VOCABULARY = 97
EOS = 1


def tiny_opt(seed: int = 0, depth: int = 6, **changes: object) -> Decoder:
    """A random OPT whose predictions depend on every block, with a probe that fires for about half of all states."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 64,
        "dropout": 0.0,
        "init_std": 0.2,
        "pad_token_id": 0,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    }
    source = OPTForCausalLM(OPTConfig(**{**settings, **changes})).eval()
    for name, parameter in source.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    decoder = load_model(source)
    width = decoder.geometry.width
    decoder.extras = {"calm_probe.weight": torch.randn(1, width) * 0.3, "calm_probe.bias": torch.zeros(1)}
    return decoder


MODELS = {
    "opt": lambda: tiny_opt(),
    "opt-350m": lambda: tiny_opt(do_layer_norm_before=False, word_embed_proj_dim=16),
}


@pytest.fixture(scope="session", params=list(MODELS))
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Each supported layout once."""
    return MODELS[request.param]()  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def opt() -> Decoder:
    """The plain layout only."""
    return tiny_opt()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def ragged_prompts(rows: int = 3, width: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded prompts of unequal length: ids and mask [rows, width]; row 0 fills the width."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (rows, width), generator=generator)
    lengths = torch.tensor([width, *(2 + 3 * i for i in range(rows - 1))]).clamp_max(width)
    mask = (torch.arange(width) >= (width - lengths).unsqueeze(1)).long()
    return ids * mask, mask


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
