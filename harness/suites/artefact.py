"""What tuning, calibration and profiles leave behind: parameters, hash of the data they came from, the trace, the cost. Torch-free.

An artefact is one JSON file. A suite uses it by `{tuned: file.json}` in place of a method's name and parameters; what it stands
for (data, goal, cost, digest of the file) is then kept with the arm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import settings
from harness.errors import BadInput
from harness.files import check_writable, clear_errors, write_atomically

VERSION = 1
KINDS = ("tuning", "budgets", "calibration", "profile")
_KEPT = ("kind", "goal", "data", "cost", "date")
"""Keys of an artefact that stay with an arm of a suite."""

Json = dict[str, Any]


def write(path: Path, record: Mapping[str, Any]) -> Path:
    """Write an artefact; BadInput if there is a file already."""
    check_free(path)
    with clear_errors(path, "out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [json.dumps({"artefact_version": VERSION, **record}, indent=1) + "\n"])
    return path


def check_free(path: Path) -> None:
    """BadInput if there is something at `path` already, which is never written over, or if nothing can be written there."""
    if path.exists():
        raise BadInput(f"out: {path} is there already; name another file")
    check_writable(path, "out")


def places(out: Path, promises: Sequence[str]) -> list[Path]:
    """Where the artefacts of a calibration go: `out` itself for one, files named by the promises in the folder `out` for more."""
    names = [f"{text.replace(':', '-')}.json" for text in promises]
    files = [out / name for name in names] if len(names) > 1 else [out]
    for path in files:
        check_free(path)
    if len(set(files)) < len(files):
        raise BadInput("promise: one is given twice; give each once")
    return files


def read(path: str | Path) -> Json:
    """Read an artefact, or BadInput that names the file."""
    path = Path(path)
    try:
        record = settings.read(path, "an artefact is a JSON object")
    except BadInput as error:
        raise BadInput(f"tuned: {error}; make it with `depthbench tune` or `profile`") from None
    if record.get("kind") not in KINDS or not {"parameters", "choices"} & set(record):
        raise BadInput(f"tuned: {path} is not an artefact of `depthbench tune`, `calibrate` or `profile`")
    if record.get("artefact_version") != VERSION:
        raise BadInput(
            f"tuned: {path} has version {record.get('artefact_version')!r}, this program reads {VERSION}; make it again"
        )
    return record


def entry(path: str | Path, at: float | None = None) -> Json:
    """The method entry of a suite that an artefact stands for: name, parameters, checkpoint, and where they came from.

    Args:
        path: the file.
        at: of an artefact with a choice for each of several budgets, the budget.
    """
    path = Path(path)
    record = read(path)
    chosen = _choice(path, record, at)
    if chosen["parameters"] is None:
        raise BadInput(f"tuned: {path} chose nothing: {chosen.get('finding', 'no setting reached the goal')}")
    kept = {key: record[key] for key in _KEPT if key in record}
    if at is not None:
        kept["goal"] = {"budget": at, **record.get("goal", {})}
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **kept}
    return {
        "name": record["method"],
        "parameters": chosen["parameters"],
        "checkpoint": record["checkpoint"],
        "tuned": source,
    }


def _choice(path: Path, record: Json, at: float | None) -> Json:
    """What holds the parameters: the artefact itself, or its choice for a budget."""
    choices = record.get("choices")
    if choices is None:
        if at is not None:
            raise BadInput(f"at: {path} has one choice, not one for each budget; leave at out")
        return record
    known = ", ".join(f"{one['budget']:g}" for one in choices)
    if at is None:
        raise BadInput(f"tuned: {path} has a choice for each of the budgets {known}; say which with at")
    found = next((one for one in choices if one["budget"] == at), None)
    if found is None:
        raise BadInput(f"at: {path} has no choice for {at:g}; it has {known}")
    return found  # type: ignore[no-any-return]
