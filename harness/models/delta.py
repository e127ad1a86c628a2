"""Delta checkpoints: what a training changed, and the name of the checkpoint it changed.

A folder with `delta.json` instead of `config.json`:

    delta.json          start (a name that `load_model` takes, or a folder seen from this one), the digests of the start's weights
                        and of those that result (identity.py), and how many tensors differ
    delta.safetensors   for each of these `codes.NAME` (int8, of the tensor's shape) and `scales.NAME` (bfloat16, one for every
                        32 elements in a row), or, trained as a low-rank adapter, its two factors: `left.NAME` (rows, rank),
                        `right.NAME` (rank, columns), `left_scales.NAME` and `right_scales.NAME`; no file where the model
                        stayed frozen
    extras/extras.safetensors, depthbench.json, loss.csv, loss.svg   as in a whole checkpoint

A tensor is `start + codes * scale` in float32, on a CPU: the same numbers on every machine, and held to their digest. Factors are
multiplied in float64 and rounded once: a product of two stored numbers has 30 bits, and as many may be added as the 53 bits hold
that scales within a factor of 2^19 need, so the order of addition changes nothing. Configuration, tokenizer and generation
settings are the start's.

What is lost (8.5 bits an element), against the float32 weights of opt-e2e-mini-full-700 and -skipdecode-700 after 200 steps (rms
weight 0.060, rms difference 0.005 and 0.006): worst error 2.7e-4, where float16 weights have 9.5e-4; rms error 2.7e-5 and 3.4e-5
(float16: 1.3e-5). Over 732 tokens of 16 references the log-probabilities at full depth move by 0.0019 and 0.0022 rms (float16:
0.0012 and 0.0011), at most 0.026 (0.009), and the most likely token nowhere. One scale for each row has 1.3 times that rms error.
Factors lose as much: 0.5 % of the difference's rms (smollm2-135m, rank 16, 12 steps).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from harness.errors import BadInput
from harness.files import write_atomically
from harness.models.bundled import DELTA, WHOLE
from harness.models.checks import json_object
from harness.models.identity import beside_weights, sampled

WEIGHTS = "delta.safetensors"
GROUP = 32
_CODES = {"codes": "scales", "left": "left_scales", "right": "right_scales"}
_MOST = 127


def coded(difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A difference as int8 codes of its shape and one bfloat16 scale for every 32 elements, symmetric, rounded to nearest."""
    groups = _groups(difference.float())
    scales = (groups.abs().amax(1, keepdim=True) / _MOST).to(torch.bfloat16)
    steps = torch.where(scales == 0, 1, scales).float()
    codes = (groups / steps).round().clamp(-_MOST, _MOST).to(torch.int8)
    return codes.flatten()[: difference.numel()].view(difference.shape), scales.flatten()


def decoded(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The difference that codes and scales of `coded` stand for, in float32."""
    groups = _groups(codes.float()) * scales.float().unsqueeze(1)
    return groups.flatten()[: codes.numel()].view(codes.shape)


def _groups(values: torch.Tensor) -> torch.Tensor:
    flat = values.flatten()
    return F.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)


def read(folder: Path) -> dict[str, Any]:
    """What `delta.json` says, or BadInput that names what is wrong with it."""
    path = folder / DELTA
    said = json_object(path)
    for key in ("start", "start_weights", "weights"):
        if not isinstance(said.get(key), str) or not said[key]:
            raise BadInput(f"model: {path}: {key} is missing or no text; copy the checkpoint again")
    if (folder / WHOLE).is_file():
        raise BadInput(
            f"model: {folder} has {WHOLE} and {DELTA}: it is whole or a difference, not both; remove one of them"
        )
    return said


def start_of(folder: Path) -> str:
    """The start's name; a folder is looked for beside the delta first, then where the process runs."""
    named = str(read(folder)["start"])
    beside = Path(os.path.normpath(folder.resolve() / named))
    return str(beside) if beside.exists() else named


def check_start(folder: Path, source: Any, extras: Mapping[str, torch.Tensor]) -> None:
    """BadInput unless the start, in float32, has the weights that the difference was taken to."""
    said, found = read(folder), sampled(source, extras)
    if found != said["start_weights"]:
        raise BadInput(
            f"model: {folder} is a difference to {said['start']} with weights {said['start_weights']}, but those there are "
            f"{found}; give the checkpoint it was trained from"
        )


def check_result(folder: Path, source: Any, extras: Mapping[str, torch.Tensor]) -> None:
    """BadInput unless the sums, in float32, are the weights that were written."""
    said, found = read(folder), sampled(source, extras)
    if found != said["weights"]:
        raise BadInput(
            f"model: {folder} gives weights {found}, not {said['weights']} as its {DELTA} says: {WEIGHTS} or extras are missing, "
            "damaged or of another checkpoint; copy it again"
        )


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the difference; empty where nothing changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        return {}
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise BadInput(f"model: {file} is damaged or truncated ({error}); copy the checkpoint again") from None


def add(source: Any, tensors: Mapping[str, torch.Tensor], where: Path) -> None:
    """Add a difference to a start's float32 parameters in place.

    Args:
        source: the transformers model.
        tensors: of the difference, from `stored`.
        where: the folder, for what is said of a fault: a tensor the model does not have, of another shape, type or without scales.
    """
    parameters = dict(source.named_parameters())
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        kind, _, name = key.partition(".")
        if kind not in {*_CODES, *_CODES.values()}:
            raise BadInput(
                f"model: {where / WEIGHTS}: {key} is neither codes nor scales of a tensor; copy the checkpoint again"
            )
        parts.setdefault(name, {})[kind] = tensor
    for name, stored in parts.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise BadInput(f"model: {where / WEIGHTS}: {name} is no tensor of the start; copy the checkpoint again")
        with torch.no_grad():
            parameter.add_(_difference(name, stored, tuple(parameter.shape), where))


def _difference(name: str, stored: Mapping[str, torch.Tensor], shape: tuple[int, ...], where: Path) -> torch.Tensor:
    """What is added to a tensor of `shape`, in float32; BadInput where its parts do not make that."""
    low_rank = bool({"left", "right"} & stored.keys()) and len(shape) == 2
    right = stored.get("right")
    rank = right.shape[0] if right is not None and right.ndim else 0
    shapes = {"left": (shape[0], rank), "right": (rank, shape[1])} if low_rank else {"codes": shape}
    found = {}
    for kind, wanted in shapes.items():
        codes, scales = stored.get(kind), stored.get(_CODES[kind])
        of = (wanted, (-(-math.prod(wanted) // GROUP),))
        if codes is None or scales is None or (tuple(codes.shape), tuple(scales.shape)) != of:
            raise BadInput(
                f"model: {where / WEIGHTS}: {kind} and scales of {name} have not the shapes {of[0]} and {of[1]} that "
                "belong to the start's; copy the checkpoint again"
            )
        if (codes.dtype, scales.dtype) != (torch.int8, torch.bfloat16):
            raise BadInput(
                f"model: {where / WEIGHTS}: {name} is not int8 with bfloat16 scales; copy the checkpoint again"
            )
        found[kind] = decoded(codes, scales)
    if len(stored) != 2 * len(found):
        raise BadInput(f"model: {where / WEIGHTS}: {name} has codes and factors; copy the checkpoint again")
    return (found["left"].double() @ found["right"].double()).float() if low_rank else found["codes"]


def write(
    trained: Any,
    extras: Mapping[str, torch.Tensor],
    start: Any,
    name: str,
    folder: Path,
    place: Path,
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> None:
    """Write the difference of a trained model to its start, and `delta.json`. The start has the stored weights afterwards.

    A tensor that is the start's, or the start's rounded to the float16 of a whole checkpoint or to bfloat16, has not changed.

    Args:
        trained: `Decoder`; its parameters may be of any type.
        extras: its trained tensors beside the model, as they are stored.
        start: `Decoder` in float32, loaded for this call.
        name: what the start was loaded as.
        folder: where to write.
        place: where the folder will stand; a start that is a folder or file is named as seen from there.
        factors: of tensors by name, what was trained beside them: left (rows, rank) and right (rank, columns), whose product is
            the difference; `trained` has these tensors as they were.

    Raises:
        BadInput: another architecture, configuration or tokenizer than the start's, or weights that are no numbers.
    """
    from safetensors.torch import save_file

    before, after = dict(start.source.named_parameters()), dict(trained.source.named_parameters())
    unlike = [key for key, value in beside_weights(start).items() if beside_weights(trained)[key] != value]
    unlike += ["tensors"] if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()} else []
    if unlike:
        raise BadInput(
            f"start: {name} has another {unlike[0]} than what was trained; give the checkpoint it was trained from"
        )
    said = {"start": _seen_from(place, name), "start_weights": sampled(start.source, start.extras)}
    tensors: dict[str, torch.Tensor] = {}
    factors = factors or {}
    for key, old in before.items():
        sides = factors.get(key)
        if not all(torch.isfinite(tensor).all() for tensor in sides or (after[key],)):
            raise BadInput(f"weights: {key} has elements that are no numbers; train it again, with a lower rate")
        if sides is not None:
            for kind, side in zip(("left", "right"), sides, strict=True):
                tensors[f"{kind}.{key}"], tensors[f"{_CODES[kind]}.{key}"] = coded(side.detach().float().cpu())
            continue
        new, old = after[key].detach().float().cpu(), old.detach()
        if not any(torch.equal(new, same) for same in (old, old.half().float(), old.bfloat16().float())):
            tensors[f"codes.{key}"], tensors[f"scales.{key}"] = coded(new - old)
    if tensors:
        save_file(tensors, folder / WEIGHTS)
    add(start.source, tensors, folder)
    said["weights"] = sampled(start.source, {key: value.float().cpu() for key, value in extras.items()})
    changed = {key.partition(".")[2] for key in tensors}
    write_atomically(folder / DELTA, [json.dumps({**said, "tensors": len(changed)}, indent=2) + "\n"])


def _seen_from(place: Path, name: str) -> str:
    """A start's name as it is kept: of a folder or file, the way to it from where the delta will stand."""
    from harness.models.bundled import bundled
    from harness.models.named import NAMED

    known = {*NAMED, *(part for full in bundled() for part in (full, full.split("/")[0]))}
    return name if name in known or not Path(name).exists() else os.path.relpath(Path(name).resolve(), place.resolve())
