"""Which runs a report is on: folders are read, runs that are read already are taken as they are. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import BadInput
from harness.records import run as records
from harness.records.run import Run


def load(runs: Sequence[Path | Run]) -> tuple[Run, ...]:
    """Return the runs, each folder once, in the order given.

    Raises:
        BadInput: no run given, or a folder that holds no readable one; the message names it.
    """
    if not runs:
        raise BadInput("report: no run folder given; name at least one folder that holds a run.json")
    found: dict[Path | None, Path | Run] = {}
    for run in runs:
        folder = run.folder if isinstance(run, Run) else Path(run)
        found.setdefault(folder and folder.resolve(), run)
    return tuple(run if isinstance(run, Run) else records.load(run) for run in found.values())
