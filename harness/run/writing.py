"""Cells as a run writes them, with what is known of their arms: which ran out of memory or hung, and need not be tried again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from harness.errors import NOT_TRIED, OUT_OF_MEMORY, TIMED_OUT, BadInput, CellFailed, failure
from harness.machine import environment
from harness.machine.record import Code, Machine
from harness.records.arms import Arm
from harness.records.cells import Cell, Kind, SpeedCell
from harness.records.fields import EnergyFields, MemoryFields, QualityFields, SpeedFields
from harness.records.folder import RunStore
from harness.run.outcome import outcome
from harness.run.progress import Progress
from harness.suites.suite import BASELINE, Suite

Fields = SpeedFields | MemoryFields | EnergyFields | QualityFields


class Cells:
    """The cells of one run: each is written as soon as it is known, and said."""

    def __init__(self, suite: Suite, store: RunStore, progress: Progress) -> None:
        self.suite, self.store, self.progress = suite, store, progress
        self.code: Code = {}
        """The code that measures; every cell holds it."""
        self._base: dict[int, SpeedCell] = {}
        self._exhausted: dict[str, int] = {}
        """Arms that ran out of memory, and the smallest batch size at which they did."""
        self._hung: dict[str, str] = {}
        """Arms that hung until their worker was killed, and where: each further try would cost the whole time limit again."""

    def hopeless(self, arm: Arm, batch: int) -> CellFailed | None:
        """Why an arm need not be tried at a batch size; None where nothing speaks against it."""
        if (where := self._hung.get(arm["label"])) is not None:
            return CellFailed(f"not tried: it hung past the time limit in {where}", NOT_TRIED)
        smaller = self._exhausted.get(arm["label"])
        if smaller is None or smaller >= batch:
            return None
        return CellFailed(f"not tried: it ran out of memory at batch size {smaller}", NOT_TRIED)

    def hung(self, arms: Sequence[Arm], where: str) -> None:
        """Remember arms that hung until their worker was killed; the baseline is tried all the same."""
        self._hung |= {arm["label"]: where for arm in arms if arm["method"] != BASELINE}

    def fail(
        self,
        kind: Kind,
        cell: str,
        arm: Arm,
        fields: Fields,
        error: BadInput | CellFailed,
        machine: Sequence[Machine] = (),
    ) -> None:
        """Write the record of a failure, and remember the arm if its memory ran out."""
        if failure(error)["reason"] == OUT_OF_MEMORY and (batch := fields.get("batch_size")):
            self._exhausted[arm["label"]] = min(batch, self._exhausted.get(arm["label"], batch))
        if failure(error)["reason"] == TIMED_OUT and kind != "speed" and arm["method"] != BASELINE:
            self._hung.setdefault(arm["label"], kind)
        self.write(kind, cell, arm, fields, machine, error)

    def write(
        self,
        kind: Kind,
        cell: str,
        arm: Arm,
        fields: Fields,
        machine: Sequence[Machine],
        error: BadInput | CellFailed | None = None,
    ) -> None:
        """Write a cell's record; one with a number that is not finite becomes a failed cell, and the run goes on."""
        conditions = fields.get("conditions") or {}
        record = {
            **fields,
            "id": cell,
            "kind": kind,
            "status": "ok" if error is None else "failed",
            "error": None if error is None else str(error),
            "arm": arm,
            "code": self.code,
            "machine": list(machine),
            "conditions": conditions,
            "conditions_hash": environment.conditions_hash(conditions),
            **({} if error is None else {"failure": failure(error)}),
        }
        try:
            self.store.write_cell(record)
        except CellFailed as not_finite:  # a number that JSON has no word for
            if error is not None:
                raise
            kept = {key: value for key, value in fields.items() if key in ("batch_size", "task")}
            self.fail(kind, cell, arm, cast(Fields, kept), not_finite)
            return
        self._tell(cast(Cell, record))

    def _tell(self, cell: Cell) -> None:
        """Say that a cell is there, and what came out."""
        label, batch = cell["arm"]["label"], cell.get("batch_size")
        what = f"{cell['task']}, {label}" if cell["kind"] == "quality" else f"{cell['kind']}, batch {batch}, {label}"
        base = None
        if cell["kind"] == "speed" and isinstance(batch, int):
            if cell["arm"].get("method") == BASELINE:
                self._base.setdefault(batch, cell)
            base = self._base.get(batch)
        self.progress.cell(what, outcome(cell, base, self.suite))
