"""The run folder: run.json, a JSON file per cell, samples.jsonl; each written whole or not at all. Torch-free.

    run.json            suite as resolved, arms, environment
    cells/<id>.json     raw values of one cell (.json.gz in a published copy, see harness.records.trim)
    gates.json          what must hold before the numbers are believed; see harness.records.gates
    samples.jsonl       per-example outputs and scores, rebuilt from the quality cells
    summary.csv, report.html, report.pdf, figures/, tables/    derived; see harness.records.summary and reports

Reading (`load_run`) changes nothing. Writing (`RunStore`) sets a cell file that cannot be read aside as `.broken`, so
that the cell is measured again and the file is not lost.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadInput, CellFailed
from harness.files import clear_errors, one_line, read_json, set_aside, write_atomically
from harness.records import readings

SCHEMA_VERSION = 1
KINDS = ("speed", "memory", "energy", "quality")

Json = dict[str, Any]

_OURS = {
    "run.json",
    "cells",
    "parts",
    "samples.jsonl",
    "summary.csv",
    "gates.json",
    "report.html",
    "report.pdf",
    "figures",
    "tables",
}
LOCK = ".lock"
"""Held by the process that writes into the folder."""
_CELL_FILES = ("json", "json.gz")
FOREIGN = "is not known"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,179}")


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    Attributes:
        run: run.json.
        cells: every readable cell, ordered by id.
        problems: one line for each cell file that could not be read; such a cell counts as missing.
    """

    run: Json
    cells: list[Json]
    problems: tuple[str, ...] = ()


class RunStore:
    """A run folder that is being written.

    Args:
        path: the folder. It is made if it is missing; an empty one and one that holds a run are used as they are.
        resume: False refuses a folder that already holds a run.

    Attributes:
        path: the folder.
        problems: one line for each cell file found unreadable so far.

    Raises:
        BadInput: the path is a file, the folder holds something else than a run, or it cannot be written; nothing in it
            is touched then.
    """

    def __init__(self, path: str | Path, *, resume: bool = True) -> None:
        self.path = Path(path)
        self.problems: list[str] = []
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"output folder {self.path}: is a file; name a folder")
        self._refuse_foreign(resume)
        with clear_errors(self.path, "output folder"):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
            # Learn now, not after the first measurement, that nothing can be written here.
            probe = self.path / "cells" / ".probe.tmp"
            probe.write_bytes(b"1")
            probe.unlink()

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Write run.json; `schema_version` is added. Raises BadInput if it cannot be written."""
        self._write_json(self.path / "run.json", {"schema_version": SCHEMA_VERSION, **run})

    def read_run(self) -> Json:
        """Return run.json. Raises BadInput if it is missing, unreadable or of an unknown version."""
        return _read_run(self.path)

    def write_cell(self, cell: Mapping[str, Any]) -> Path:
        """Write one cell, in place of an earlier one of the same id, and return its file.

        Args:
            cell: JSON values with at least `id`, `kind`, `status` and `arm`; `schema_version` is added. What could not
                be measured is None.

        Raises:
            CellFailed: the cell holds a number that is not finite; the message says where.
            BadInput: the file cannot be written; what was there before is untouched.
            ValueError: the record is not a cell.
        """
        record = {"schema_version": SCHEMA_VERSION, **cell}
        if why := _not_a_cell(record):
            raise ValueError(f"write_cell: {why}")
        if where := _not_finite(record):
            raise CellFailed(f"cell {record['id']}: {where} is not a finite number")
        target = self.path / "cells" / f"{record['id']}.json"
        self._write_json(target, record)
        return target

    def cells(self, kind: str | None = None) -> list[Json]:
        """Return the readable cells, ordered by id; those of one `kind` (see KINDS) if it is given.

        An unreadable file is renamed to `<id>.json.broken` and noted in `problems`.

        Raises:
            BadInput: a cell has a schema version this code does not know: going on would write over it.
        """
        found = []
        for path in cell_files(self.path):
            if (cell := self._cell(path)) is not None and kind in (None, cell["kind"]):
                found.append(cell)
        return found

    def has(self, cell_id: str) -> bool:
        """Whether a readable cell of this id is there, failed ones included; see `ids` for those that succeeded."""
        paths = (self.path / "cells" / f"{cell_id}.{kind}" for kind in _CELL_FILES)
        return any(path.is_file() and self._cell(path) is not None for path in paths)

    def ids(self, status: str | None = None) -> set[str]:
        """Return the ids of the readable cells; those of one status (`ok`, `failed`) if it is given."""
        return {cell["id"] for cell in self.cells() if status in (None, cell["status"])}

    def write_samples(self) -> Path:
        """Rebuild samples.jsonl from the quality cells that succeeded and return it.

        One line per example, arms in the order of run.json. Scores are those of the example alone; a score that is
        undefined there is null.
        """
        arms = self.read_run().get("arms") or []
        order = {arm.get("label"): i for i, arm in enumerate(arms)}
        cells = [cell for cell in self.cells("quality") if cell["status"] == "ok"]
        cells.sort(key=lambda c: (str(c.get("task")), order.get(c["arm"].get("label"), len(order)), c["id"]))
        target = self.path / "samples.jsonl"
        self.write_text(target.name, (f"{_dumps(line)}\n" for cell in cells for line in _samples(cell)))
        return target

    def write_text(self, name: str, text: str | Iterable[str]) -> Path:
        """Write a file of the run folder whole or not at all and return it; raises BadInput if it cannot be written."""
        target = self.path / name
        with clear_errors(target, "cannot write"):
            write_atomically(target, [text] if isinstance(text, str) else text)
        return target

    def _write_json(self, target: Path, record: Mapping[str, Any]) -> None:
        with clear_errors(target, "cannot write"):
            write_atomically(target, [_dumps(record), "\n"])

    def _cell(self, path: Path) -> Json | None:
        cell, problem = _read_cell(path)
        if FOREIGN in problem:
            raise BadInput(f"{problem}; use the version that wrote it, or name another folder")
        if problem:
            aside = set_aside(path)
            self.problems.append(f"{problem}; kept as {aside.name}" if aside else problem)
        return cell

    def _refuse_foreign(self, resume: bool) -> None:
        if not self.path.is_dir():
            return
        with clear_errors(self.path, "output folder"):
            names = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if not names or (names == {"cells"} and not any((self.path / "cells").iterdir())):
            return
        if "run.json" in names:
            _read_run(self.path)
        elif names - _OURS:
            raise BadInput(
                f"output folder {self.path}: is not empty and holds no run ({_some(names)}); name an empty folder"
            )
        if not resume:
            raise BadInput(f"output folder {self.path}: already holds a run; use --resume or name another folder")


def cell_files(folder: Path) -> list[Path]:
    """The cell files of a run folder, in order; those of a copy that was made to be published are compressed."""
    return sorted(path for kind in _CELL_FILES for path in (folder / "cells").glob(f"[!.]*.{kind}"))


def load_run(path: str | Path) -> Run:
    """Read a run folder without changing it.

    Raises:
        BadInput: no such folder, no run in it, or a run.json of a schema version this code does not know.
    """
    folder = Path(path)
    run = _read_run(folder)
    cells, problems = [], []
    for file in cell_files(folder):
        cell, problem = _read_cell(file)
        if cell is not None:
            cells.append(cell)
        if problem:
            problems.append(problem)
    return Run(run, sorted(cells, key=lambda c: str(c["id"])), tuple(problems))


def _samples(cell: Json) -> Iterator[Json]:
    arm = cell["arm"]
    for example in cell.get("examples") or []:
        yield {
            "task": cell.get("task"),
            "label": arm.get("label"),
            "method": arm.get("method"),
            "checkpoint": arm.get("checkpoint"),
            **{key: example.get(key) for key in ("id", "prompt", "output", "references")},
            "scores": {name: _score(name, found) for name, found in (example.get("stats") or {}).items()},
            "tokens": example.get("tokens"),
            "layers_per_token": example.get("layers_per_token"),
        }


def _score(metric: str, statistics: list[float]) -> float | None:
    how = readings.reading(metric)
    if how is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(how.combine(np.asarray(statistics, dtype=np.float64)))
    return round(value, 4) if math.isfinite(value) else None


def _read_run(folder: Path) -> Json:
    path = folder / "run.json"
    if not folder.is_dir():
        raise BadInput(f"run folder {folder}: there is no such folder")
    try:
        run = read_json(path)
    except FileNotFoundError:
        raise BadInput(f"run folder {folder}: holds no run.json; name a folder that `depthbench run` wrote") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({one_line(error)})") from None
    if not isinstance(run, dict):
        raise BadInput(f"{path}: is not a run record; expected an object with schema_version {SCHEMA_VERSION}")
    _check_version(run, path)
    return run


def _read_cell(path: Path) -> tuple[Json | None, str]:
    """The cell, or None and the reason in one line. A file that may not be read is not a broken one: BadInput."""
    try:
        cell = read_json(path)
    except FileNotFoundError:
        return None, ""
    except PermissionError as error:
        raise BadInput(f"{path}: cannot be read ({one_line(error)})") from None
    except (OSError, ValueError) as error:
        return None, f"{path}: broken cell file, counted as missing ({one_line(error)})"
    if isinstance(cell, dict) and (why := _unknown_version(cell)):
        return None, f"{path}: {why}"
    if why := _not_a_cell(cell):
        return None, f"{path}: broken cell file, counted as missing ({why})"
    if cell["id"] != path.name.removesuffix(".gz").removesuffix(".json"):
        return None, f"{path}: holds the cell {cell['id']!r}, not the one it is named after, counted as missing"
    return cell, ""


def _not_a_cell(cell: Any) -> str:
    """Why this is not a cell record; empty if it is one."""
    if not isinstance(cell, dict):
        return "not an object"
    if not isinstance(cell.get("id"), str) or not _ID.fullmatch(cell["id"]):
        return f"id {cell.get('id')!r} is not a plain file name"
    if cell.get("kind") not in KINDS:
        return f"kind {cell.get('kind')!r} is not one of {', '.join(KINDS)}"
    if cell.get("status") not in ("ok", "failed"):
        return f"status {cell.get('status')!r} is neither ok nor failed"
    if not isinstance(cell.get("arm"), dict) or not cell["arm"].get("label"):
        return "arm.label is missing"
    return "" if cell.get("schema_version") == SCHEMA_VERSION else "schema_version is missing"


def _check_version(record: Json, path: Path) -> None:
    if why := _unknown_version({"schema_version": None, **record}):
        raise BadInput(f"{path}: {why}; use the version that wrote it, or run again into another folder")


def _unknown_version(record: Json) -> str:
    """Why a record's version cannot be read; empty if it can, or if it has none."""
    version = record.get("schema_version", SCHEMA_VERSION)
    if version == SCHEMA_VERSION:
        return ""
    return f"schema_version {version!r} {FOREIGN}, this depthbench reads {SCHEMA_VERSION}"


def _not_finite(value: Any, where: str = "") -> str:
    """Path of the first number in nested JSON values that is NaN or infinite; empty if there is none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else where
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, inner in items:
        if found := _not_finite(inner, f"{where}.{key}" if where else str(key)):
            return found
    return ""


def _dumps(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _some(names: Iterable[str], limit: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
