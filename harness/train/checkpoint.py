"""What a training leaves: a checkpoint with its card, written so that it is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.files import write_atomically
from harness.machine.environment import bfloat16, cpu_model
from harness.models.decoder import Decoder
from harness.models.identity import sampled_weights
from harness.train.batches import Pairs
from harness.train.recipes import Recipe

LAST = "config.json"
"""The file a folder is known as a checkpoint by; it is put in its place when all others are."""


def begun_with(recipe: Recipe, decoder: Decoder) -> dict[str, Any] | None:
    """The checkpoint a recipe starts from, as its card will say; None: the weights are fresh."""
    if recipe.start is None:
        return None
    return {
        "name": recipe.start,
        "weights": sampled_weights(decoder),
        **{key: decoder.card[key] for key in ("cost",) if key in decoder.card},
    }


def mixed(recipe: Recipe, device: str) -> bool:
    """Whether a recipe computes in bfloat16 mixed precision on `cpu` or `cuda`."""
    return recipe.bf16 if isinstance(recipe.bf16, bool) else device != "cpu" or bfloat16()


def card(
    recipe: Recipe,
    pairs: Pairs,
    expected: int,
    stages: Mapping[str, Mapping[str, int | float]],
    device: str,
    processes: int,
    begun: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Args:
        recipe: that was run.
        pairs: its data.
        expected: tokens of a continuation, the horizon of schedules in training.
        stages: cost of each: `steps`, `tokens` and `seconds`.
        device: `cpu` or `cuda`.
        processes: that took part.
        begun: see `begun_with`.
    """
    total = {key: sum(stage[key] for stage in stages.values()) for key in ("steps", "tokens", "seconds")}
    name = cpu_model() if device == "cpu" else torch.cuda.get_device_name(torch.device(device))
    return {
        "trained_for": recipe.method,
        "expected_tokens": expected,
        "recipe": recipe.model_dump(exclude_none=True),
        "references": pairs.references,
        "data_hash": pairs.hash,
        "data": sorted({source.task for source in recipe.data}),
        "cost": {
            **total,
            "seconds": round(total["seconds"], 1),
            "device": name or device,
            "threads": torch.get_num_threads() if device == "cpu" else None,
            "processes": processes,
            "bf16": mixed(recipe, device),
            "stages": {name: dict(stage) for name, stage in stages.items()},
        },
        "started_from": None if begun is None else dict(begun),
    }


def save(decoder: Decoder, out: Path, extras: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write a checkpoint: fp16 safetensors, tokenizer, extra tensors, and `depthbench.json` with its card."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    decoder.source.to(torch.float16).save_pretrained(out)
    decoder.tokenizer.save_pretrained(out)
    if extras:
        (out / "extras").mkdir(exist_ok=True)
        save_file(
            {k: v.to(torch.float16).contiguous() for k, v in extras.items()}, out / "extras" / "extras.safetensors"
        )
    write_atomically(out / "depthbench.json", [json.dumps(card, indent=2) + "\n"])


def publish(made: Path, out: Path) -> None:
    """Move the files of a folder to their place, those that make a checkpoint of it last; a repeated call ends what one began."""
    files = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    for file in sorted(files, key=lambda path: path == Path(LAST)):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        beside = (out / file).with_name(f".{file.name}.part")
        shutil.move(made / file, beside)  # another file system may hold it
        os.replace(beside, out / file)
    shutil.rmtree(made)
