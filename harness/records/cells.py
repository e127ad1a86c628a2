"""Cells as stored, one type for each kind, and their one reader. Torch-free.

A reader checks the values it is given and returns them as they are, so that nothing changes by being read. Keys it does not
know are kept; keys that older runs of this schema lack may be missing. What could not be measured is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Required, TypeVar, cast

from typing_extensions import TypedDict

from harness.errors import Failure
from harness.machine import environment
from harness.machine.record import Code, Machine
from harness.records import quantities
from harness.records.arms import Arm
from harness.records.checked import checked
from harness.records.fields import EnergyFields, MemoryFields, QualityFields, SpeedFields, Status

Kind = Literal["speed", "memory", "energy", "quality"]
KINDS: tuple[Kind, ...] = ("speed", "memory", "energy", "quality")


class _Stored(TypedDict, total=False):
    schema_version: int
    id: Required[str]
    status: Required[Status]
    arm: Required[Arm]
    error: str | None
    failure: Failure
    code: Code
    conditions_hash: str
    machine: list[Machine]


class SpeedCell(_Stored, SpeedFields, total=False):
    """Times of an arm at one batch size, those of all processes."""

    kind: Required[Literal["speed"]]


class MemoryCell(_Stored, MemoryFields, total=False):
    """Memory of an arm at one batch size."""

    kind: Required[Literal["memory"]]


class EnergyCell(_Stored, EnergyFields, total=False):
    """Energy of an arm at one batch size."""

    kind: Required[Literal["energy"]]


class QualityCell(_Stored, QualityFields, total=False):
    """Outputs and scores of an arm on a task."""

    kind: Required[Literal["quality"]]


Cell = SpeedCell | MemoryCell | EnergyCell | QualityCell

_TYPES: dict[str, Any] = {"speed": SpeedCell, "memory": MemoryCell, "energy": EnergyCell, "quality": QualityCell}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,179}")
_C = TypeVar("_C", bound=Cell)


def cell_id(kind: str, label: str, what: str) -> str:
    """File name of a cell: the label in plain characters, with a digest of it when that loses anything."""
    slug = re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")[:80]
    digest = environment.conditions_hash({"label": label})[:6]
    task = re.sub(r"[^A-Za-z0-9.]+", "_", what)
    return f"{kind}--{slug or 'arm'}-{digest}--{task}"


def place(cell: Cell) -> int | str | None:
    """What a cell belongs to beside its arm: the task where it was scored, else the batch size."""
    return cell.get("task") if cell["kind"] == "quality" else cell.get("batch_size")


def by_place(cells: Iterable[_C]) -> dict[tuple[str, int | str | None], _C]:
    """Cells of one kind by arm label and place."""
    return {(cell["arm"]["label"], place(cell)): cell for cell in cells}


def identified(record: object) -> Kind:
    """The kind of a cell; ValueError where the record does not say which cell it is."""
    if not isinstance(record, Mapping):
        raise ValueError("not an object")
    if not isinstance(name := record.get("id"), str) or not _ID.fullmatch(name):
        raise ValueError(f"id {name!r} is not a plain file name")
    if (kind := record.get("kind")) not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if (status := record.get("status")) not in ("ok", "failed"):
        raise ValueError(f"status {status!r} is neither ok nor failed")
    if not isinstance(arm := record.get("arm"), Mapping) or not arm.get("label"):
        raise ValueError("arm.label is missing")
    return cast(Kind, kind)


def read(record: object) -> Cell:
    """The cell that a stored JSON object is; ValueError that names the field where it is none."""
    kind = identified(record)
    cell = checked(cast(dict[str, object], record), _TYPES[kind])
    checked({key: cell[key] for key in quantities.fields(kind) if key in cell}, dict[str, float | None])
    return cast(Cell, cell)
