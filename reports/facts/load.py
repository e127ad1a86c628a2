"""Read run folders into what the rest of the package works on. Torch-free, and nothing is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.records.folder import Run, cell_files, load_run
from harness.records.summary import summarise

Json = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """One run as stored.

    Attributes:
        run: run.json.
        cells: the readable cells, ordered by id.
        rows: the rows of summary.csv, computed anew from the cells.
        checksums: (file name, sha256 of its bytes) of run.json and every cell file.
        problems: one line for each cell file that could not be read.
        sources: the run records this one was joined from; its own alone where it was not.
    """

    run: Json
    cells: tuple[Json, ...]
    rows: tuple[Json, ...]
    checksums: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    sources: tuple[Json, ...] = ()


def unique(folders: Sequence[Path]) -> list[Path]:
    """Return the folders in the order given, each once.

    Raises:
        BadInput: no folder given.
    """
    if not folders:
        raise BadInput("report: no run folder given; name at least one folder that holds a run.json")
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def load(folders: Sequence[Path]) -> tuple[RunData, ...]:
    """Return the runs in the given folders, each folder once, in the order given.

    Raises:
        BadInput: no folder given, or one that holds no readable run; the message names it.
    """
    folders = unique(folders)
    stored = [load_run(folder) for folder in folders]
    checksums = [_checksums(folder) for folder in folders]
    rows = [summarise(run) for run in stored]
    return tuple(map(_run_data, folders, stored, checksums, rows))


def _checksums(folder: Path) -> tuple[tuple[str, str], ...]:
    files = [folder / "run.json", *cell_files(folder)]
    return tuple(
        (f.relative_to(folder).as_posix(), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files if f.is_file()
    )


def _run_data(folder: Path, stored: Run, checksums: tuple[tuple[str, str], ...], rows: Sequence[Json]) -> RunData:
    cells = tuple(sorted(stored.cells, key=lambda cell: str(cell.get("id", ""))))
    # The folder's own path would make two reports on the same results differ.
    problems = [line.replace(f"{folder}{os.sep}", "") for line in stored.problems]
    problems += [f"cells/{f.name}: set aside as broken" for f in sorted((folder / "cells").glob("*.broken"))]
    return RunData(stored.run, cells, tuple(rows), checksums, tuple(problems), (stored.run,))
