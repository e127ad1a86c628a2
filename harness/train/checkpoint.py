"""What a training leaves: a checkpoint with its card, written so that it is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import BadInput
from harness.files import check_writable, write_atomically
from harness.machine.environment import bfloat16, cpu_model
from harness.models import delta
from harness.models.bundled import DELTA, WHOLE, is_checkpoint
from harness.models.decoder import Decoder
from harness.models.identity import sampled_weights
from harness.models.load import load_model
from harness.train.batches import Pairs
from harness.train.meter import PICTURE, TABLE
from harness.train.recipes import Recipe


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


def check_free(out: Path) -> None:
    """BadInput where a folder holds a checkpoint already."""
    if is_checkpoint(out):
        raise BadInput(f"out: {out} holds a checkpoint already; choose another folder or remove it")


def save(
    decoder: Decoder,
    out: Path,
    extras: Mapping[str, torch.Tensor],
    card: Mapping[str, Any],
    start: str | None = None,
    place: Path | None = None,
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> None:
    """Write a checkpoint: weights, extra tensors in float16, and `depthbench.json` with its card.

    Args:
        decoder: that was trained.
        out: folder to write.
        extras: its trained tensors beside the model.
        card: see `card`.
        start: None: all weights in float16, with the tokenizer; else their difference to this checkpoint (harness/models/delta.py).
        place: where the folder will stand in the end, if not at `out`.
        factors: low-rank adapters that stood on the weights (lora.py), for a difference.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    kept = {key: value.detach().to(torch.float16).contiguous() for key, value in extras.items()}
    if start is None:
        decoder.source.to(torch.float16).save_pretrained(out)
        decoder.tokenizer.save_pretrained(out)
    else:
        delta.write(decoder, kept, load_model(start), start, out, place or out, factors)
    if kept:
        (out / "extras").mkdir(exist_ok=True)
        save_file(kept, out / "extras" / "extras.safetensors")
    write_atomically(out / "depthbench.json", [json.dumps(card, indent=2) + "\n"])


def as_delta(whole: str | Path, out: str | Path, start: str | None = None) -> Path:
    """Make a delta checkpoint of a finished whole one, with its card and loss curve.

    Args:
        whole: the checkpoint's folder.
        out: new folder.
        start: the checkpoint it was trained from; None: the one its card names.

    Returns:
        `out`.

    Raises:
        BadInput: no start is known, it is not what the card says, or does not fit; `out` holds a checkpoint.
    """
    whole, out = Path(whole), Path(out)
    check_free(out)
    check_writable(out, "out", folder=True)
    decoder = load_model(whole)
    begun = decoder.card.get("started_from") or {}
    start = start or begun.get("name")
    if start is None:
        raise BadInput(f"start: the card of {whole} names none; give the checkpoint it was trained from")
    if decoder.card.get("recipe", {}).get("dtype", "float32") == "float32" and "weights" in begun:
        found = sampled_weights(load_model(start))
        if found != begun["weights"]:
            raise BadInput(
                f"start: {start} has weights {found}, {whole} began with {begun['weights']}; give what it was trained from"
            )
    made = out.with_name(f".{out.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    try:
        save(decoder, made, decoder.extras, decoder.card, start, out)
        for name in (TABLE, PICTURE):
            if (whole / name).is_file():
                shutil.copy(whole / name, made / name)
        publish(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return out


def publish(made: Path, out: Path) -> None:
    """Move the files of a folder to their place, that which makes a checkpoint of it last; a repeated call ends what one began."""
    files = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    for file in sorted(files, key=lambda path: str(path) in (WHOLE, DELTA)):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        beside = (out / file).with_name(f".{file.name}.part")
        shutil.move(made / file, beside)  # another file system may hold it
        beside.chmod(beside.parent.stat().st_mode & 0o666)  # safetensors makes files for one user alone
        os.replace(beside, out / file)
    shutil.rmtree(made)
