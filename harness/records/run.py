"""A run as one object: read from its folder once, summarised once, judged once, and handed on. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import folder as stored
from harness.records import gates, summary, usability
from harness.records.arms import Arm
from harness.records.cells import Cell, EnergyCell, MemoryCell, QualityCell, SpeedCell
from harness.records.limits import BASELINE
from harness.records.run_record import RunRecord, SuiteRecord

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Run:
    """A run as read from its folder. Nothing in it may be changed: what is derived from it is kept.

    Attributes:
        record: run.json.
        cells: every readable cell, ordered by id.
        problems: one line for each cell file that could not be read (such a cell counts as missing) or was set aside.
        checksums: (file name, sha256 of its bytes) of run.json and every cell file.
        sources: the run records it was joined from; its own alone where it was not.
        folder: where it lies; None for one that was put together.
    """

    record: RunRecord
    cells: Sequence[Cell]
    problems: tuple[str, ...] = ()
    checksums: tuple[tuple[str, str], ...] = ()
    sources: tuple[RunRecord, ...] = ()
    folder: Path | None = None

    @cached_property
    def suite(self) -> SuiteRecord:
        """The suite as resolved; empty where the run does not say."""
        return self.record.get("suite") or {}

    @cached_property
    def arms(self) -> list[Arm]:
        """The arms in the order of run.json, then those that only cells name."""
        found = {str(arm["label"]): arm for arm in self.record.get("arms") or []}
        for cell in self.cells:
            found.setdefault(str(cell["arm"]["label"]), cell["arm"])
        return list(found.values())

    @cached_property
    def full(self) -> Arm | None:
        """The arm that the others are measured against: the first that runs the full model."""
        return next((arm for arm in self.arms if arm.get("method") == BASELINE), None)

    @cached_property
    def batch_sizes(self) -> list[int]:
        """Every batch size that was asked for or measured, rising."""
        found = {cell.get("batch_size") for cell in self.cells if cell["kind"] != "quality"}
        return sorted(size for size in found | set(self.suite.get("batch_sizes") or ()) if isinstance(size, int))

    @cached_property
    def judged(self) -> dict[tuple[str, int], usability.Judged]:
        """Every arm at every batch size, by label and size, with its speed-up where there is one to print."""
        return usability.judge(self)

    @cached_property
    def usability(self) -> dict[tuple[str, int], usability.Usability]:
        """What every timed cell is good for and why no more, by label and batch size; see `harness.records.usability`."""
        return {at: found.usability for at, found in self.judged.items()}

    @cached_property
    def summary(self) -> list[summary.Row]:
        """The rows of summary.csv; see `harness.records.summary.summarise`."""
        return summary.summarise(self)

    @cached_property
    def gates(self) -> tuple[gates.Gate, ...]:
        """What must hold before the numbers are believed; see `harness.records.gates`."""
        return gates.evaluate(self)

    @cached_property
    def failed(self) -> int:
        """How many cells failed."""
        return sum(cell["status"] != "ok" for cell in self.cells)

    @cached_property
    def speed(self) -> list[SpeedCell]:
        """The timed cells that succeeded."""
        return [cell for cell in self.cells if cell["kind"] == "speed" and cell["status"] == "ok"]

    @cached_property
    def memory(self) -> list[MemoryCell]:
        """The memory cells that succeeded."""
        return [cell for cell in self.cells if cell["kind"] == "memory" and cell["status"] == "ok"]

    @cached_property
    def energy(self) -> list[EnergyCell]:
        """The energy cells that succeeded."""
        return [cell for cell in self.cells if cell["kind"] == "energy" and cell["status"] == "ok"]

    @cached_property
    def quality(self) -> list[QualityCell]:
        """The scored cells that succeeded."""
        return [cell for cell in self.cells if cell["kind"] == "quality" and cell["status"] == "ok"]

    def frame(self) -> DataFrame:
        """The summary as a pandas table: a row for each arm and batch size; what could not be measured is missing, never 0."""
        return summary.frame(self.summary)


def load(path: str | Path) -> Run:
    """Read a run folder without changing it.

    Raises:
        BadInput: no such folder, no run in it, or a run.json of a schema version this code does not know.
    """
    folder = Path(path)
    record, digest = stored.read_run(folder)
    checksums = [("run.json", digest)]
    cells, problems = [], []
    for file in stored.cell_files(folder):
        read = stored.read_cell(file)
        if read.cell is not None:
            cells.append(read.cell)
        if read.problem:
            # Without the folder's own path: the same results give the same report wherever they lie.
            problems.append(f"cells/{file.name}: {read.problem}")
        if read.digest:
            checksums.append((f"cells/{file.name}", read.digest))
    problems += [f"cells/{file.name}: set aside as broken" for file in sorted((folder / "cells").glob("*.broken"))]
    cells.sort(key=lambda cell: str(cell["id"]))
    return Run(record, cells, tuple(problems), tuple(checksums), (record,), folder)
