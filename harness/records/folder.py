"""The run folder: run.json, a JSON file per cell, samples.jsonl; each written whole or not at all. Torch-free.

    run.json            suite as resolved, arms, environment
    cells/<id>.json     raw values of one cell (.json.gz in a published copy, see harness.records.trim)
    gates.json          what must hold before the numbers are believed; see harness.records.gates
    methods/            the files of methods that are not the project's own, as they ran
    samples.jsonl       per-example outputs and scores, rebuilt from the quality cells
    summary.csv, report.html, report.pdf, figures/, tables/    derived; see harness.records.summary and reports

Reading (`harness.records.run.load`) changes nothing. Writing (`RunStore`) sets a cell file that cannot be read aside as
`.broken`, so that the cell is measured again and the file is not lost.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput, CellFailed
from harness.files import clear_errors, one_line, parsed, set_aside, unpacked, write_atomically
from harness.records import cells as typed
from harness.records.cells import Cell
from harness.records.run_record import RunRecord
from harness.records.run_record import read_run as read_stored_run

SCHEMA_VERSION = 1

_OURS = {
    "run.json",
    "cells",
    "methods",
    "parts",
    "samples.jsonl",
    "summary.csv",
    "gates.json",
    "report.html",
    "report.pdf",
    "figures",
    "tables",
}
CODE = "methods"
"""Folder of the files of methods."""
LOCK = ".lock"
"""Held by the process that writes into the folder."""
_CELL_FILES = ("json", "json.gz")


@dataclass(frozen=True)
class Read:
    """A cell file as read.

    Attributes:
        cell: what it holds; None where that is no cell of this version.
        problem: why not, in one line; empty for a file that is gone.
        foreign: another version wrote it: it is not broken, and must not be written over.
        digest: sha256 of the bytes of the file.
    """

    cell: Cell | None
    problem: str = ""
    foreign: bool = False
    digest: str = ""


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
        self._states: dict[str, str] | None = None
        """Status of every readable cell by its id, once the cells were read."""
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"output folder {self.path}: is a file; name a folder")
        self._refuse_foreign(resume)
        with clear_errors(self.path, "output folder"):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
            # Learn now, not after the first measurement, that nothing can be written here.
            probe = self.path / "cells" / ".probe.tmp"
            probe.write_bytes(b"1")
            probe.unlink()

    def write_run(self, run: RunRecord) -> None:
        """Write run.json; `schema_version` is added. Raises BadInput if it cannot be written."""
        self.write_text("run.json", [dumps({"schema_version": SCHEMA_VERSION, **run}), "\n"])

    def read_run(self) -> RunRecord:
        """Return run.json. Raises BadInput if it is missing, unreadable or of an unknown version."""
        return read_run(self.path)[0]

    def write_cell(self, cell: Mapping[str, Any]) -> Path:
        """Write one cell, in place of an earlier one of the same id, and return its file.

        Args:
            cell: JSON values with at least `id`, `kind`, `status` and `arm`; `schema_version` is added. What could not
                be measured is None.

        Raises:
            CellFailed: the cell holds a number that is not finite, or a value that is none of its field; the message says
                where.
            BadInput: the file cannot be written; what was there before is untouched.
            ValueError: the record is not a cell.
        """
        record = {"schema_version": SCHEMA_VERSION, **cell}
        try:
            typed.identified(record)
        except ValueError as error:
            raise ValueError(f"write_cell: {error}") from None
        if where := _not_finite(record):
            raise CellFailed(f"cell {record['id']}: {where} is not a finite number")
        target, text = self.path / "cells" / f"{record['id']}.json", dumps(record)
        try:  # as it will be read
            typed.read(json.loads(text))
        except ValueError as error:
            raise CellFailed(f"cell {record['id']}: {error}") from None
        with clear_errors(target, "cannot write"):
            write_atomically(target, [text, "\n"])
        if self._states is not None:
            self._states[record["id"]] = record["status"]
        return target

    def cells(self) -> list[Cell]:
        """Return the readable cells, ordered by id.

        An unreadable file is renamed to `<id>.json.broken` and noted in `problems`.

        Raises:
            BadInput: a cell has a schema version this code does not know: going on would write over it.
        """
        every = [cell for path in cell_files(self.path) if (cell := self._cell(path)) is not None]
        self._states = {cell["id"]: cell["status"] for cell in every}
        return every

    def cell(self, cell_id: str) -> Cell | None:
        """The cell of this id, whatever its status; None where there is none that can be read."""
        paths = (self.path / "cells" / f"{cell_id}.{kind}" for kind in _CELL_FILES)
        return next((cell for path in paths if (cell := self._cell(path)) is not None), None)

    def ids(self, status: str | None = None) -> set[str]:
        """Return the ids of the readable cells; those of one status (`ok`, `failed`) if it is given.

        The cells are read once; what this store writes later is counted as well.
        """
        if self._states is None:
            self.cells()
        assert self._states is not None
        return {cell for cell, found in self._states.items() if status in (None, found)}

    def write_text(self, name: str, text: str | Iterable[str]) -> Path:
        """Write a file of the run folder whole or not at all and return it; raises BadInput if it cannot be written."""
        target = self.path / name
        with clear_errors(target, "cannot write"):
            write_atomically(target, [text] if isinstance(text, str) else text)
        return target

    def _cell(self, path: Path) -> Cell | None:
        read = read_cell(path)
        if read.foreign:
            raise BadInput(f"{path}: {read.problem}; use the version that wrote it, or name another folder")
        if read.problem:
            aside = set_aside(path)
            self.problems.append(f"{path}: {read.problem}" + (f"; kept as {aside.name}" if aside else ""))
        return read.cell

    def _refuse_foreign(self, resume: bool) -> None:
        if not self.path.is_dir():
            return
        with clear_errors(self.path, "output folder"):
            names = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if not names or (names == {"cells"} and not any((self.path / "cells").iterdir())):
            return
        if "run.json" in names:
            read_run(self.path)
        elif names - _OURS:
            raise BadInput(
                f"output folder {self.path}: is not empty and holds no run ({_some(names)}); name an empty folder"
            )
        if not resume:
            raise BadInput(f"output folder {self.path}: already holds a run; use --resume or name another folder")


def cell_files(folder: Path) -> list[Path]:
    """The cell files of a run folder, in order; those of a copy that was made to be published are compressed."""
    return sorted(path for kind in _CELL_FILES for path in (folder / "cells").glob(f"[!.]*.{kind}"))


def read_run(folder: Path) -> tuple[RunRecord, str]:
    """What run.json holds, and the sha256 of its bytes.

    Raises:
        BadInput: no such folder, no run in it, or a run.json of a schema version this code does not know.
    """
    path = folder / "run.json"
    if not folder.is_dir():
        raise BadInput(f"run folder {folder}: there is no such folder")
    try:
        content = path.read_bytes()
        run = parsed(content)
    except FileNotFoundError:
        raise BadInput(f"run folder {folder}: holds no run.json; name a folder that `depthbench run` wrote") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({one_line(error)})") from None
    if not isinstance(run, dict):
        raise BadInput(f"{path}: is not a run record; expected an object with schema_version {SCHEMA_VERSION}")
    if why := _unknown_version({"schema_version": None, **run}):
        raise BadInput(f"{path}: {why}; use the version that wrote it, or run again into another folder")
    try:
        return read_stored_run(run), hashlib.sha256(content).hexdigest()
    except ValueError as error:
        raise BadInput(f"{path}: {error}; it is no run.json of this version") from None


def read_cell(path: Path) -> Read:
    """Read one cell file. BadInput for a file that may not be read: it is not a broken one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Read(None)
    except PermissionError as error:
        raise BadInput(f"{path}: cannot be read ({one_line(error)})") from None
    except OSError as error:
        return Read(None, f"broken cell file, counted as missing ({one_line(error)})")
    digest = hashlib.sha256(content).hexdigest()
    try:
        record = parsed(unpacked(path, content))
    except (OSError, ValueError) as error:
        return Read(None, f"broken cell file, counted as missing ({one_line(error)})", digest=digest)
    if isinstance(record, dict) and (why := _unknown_version(record)):
        return Read(None, why, foreign=True, digest=digest)
    try:
        cell = typed.read(record)
    except ValueError as error:
        return Read(None, f"broken cell file, counted as missing ({error})", digest=digest)
    if "schema_version" not in cell:
        return Read(None, "broken cell file, counted as missing (schema_version is missing)", digest=digest)
    if cell["id"] != path.name.removesuffix(".gz").removesuffix(".json"):
        why = f"holds the cell {cell['id']!r}, not the one it is named after, counted as missing"
        return Read(None, why, digest=digest)
    return Read(cell, digest=digest)


def _unknown_version(record: Mapping[str, Any]) -> str:
    """Why a record's version cannot be read; empty if it can, or if it has none."""
    version = record.get("schema_version", SCHEMA_VERSION)
    if version == SCHEMA_VERSION:
        return ""
    return f"schema_version {version!r} is not known, this depthbench reads {SCHEMA_VERSION}"


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


def dumps(record: Mapping[str, Any]) -> str:
    """The record as one line of JSON; ValueError where a number is not finite."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _some(names: Iterable[str], limit: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
