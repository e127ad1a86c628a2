"""A measured quantity is a row of one table and a value in a cell: everything else follows from the row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from harness.records import quantities
from harness.records.quantities import Quantity
from harness.records.run import load
from harness.run.sweep import run_suite
from reports.facts.facts import gather
from reports.view.tables import cost_table, latency_table
from tests.fakes import FakeExecutor, suite

HEAT = Quantity(
    "heat_mk", "speed", "heat_k", 1e-3, table="times", title="heat", unit="mK", limit=50.0, hint="of the room"
)
NOISE = Quantity("noise_db", "memory", "noise_db", table="operations", title="noise", unit="dB", group="Room")
TRAFFIC = Quantity(
    "bus_mb", "memory", "bus_bytes", 1e6, table="operations", title="bus", unit=quantities.BYTES, group="Room"
)


class Probed(FakeExecutor):
    """Workers whose probes return two quantities more."""

    def _share(self, arm: Any, *given: Any) -> Any:
        return {**super()._share(arm, *given), "heat_k": 0.25 if arm["label"] == "Skip" else 0.01}

    def _peak_memory(self, suite: Any, arm: Any, batch: int, *given: Any) -> Any:
        return {**super()._peak_memory(suite, arm, batch, *given), "noise_db": 20.5 + batch, "bus_bytes": 3_000_000}


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "TABLE", (*quantities.TABLE, HEAT, NOISE, TRAFFIC))


@pytest.mark.usefixtures("more")
def test_a_row_of_the_table_is_enough_for_a_new_quantity(tmp_path: Path) -> None:
    run = run_suite(suite(batch_sizes=[1]), tmp_path, workers=Probed())
    assert run.failed == 0
    rows = {row["label"]: row for row in csv.DictReader((tmp_path / "summary.csv").open())}
    assert {label: row["heat_mk"] for label, row in rows.items()} == {"full": "10", "Skip": "250", "Draft": "10"}
    assert (rows["full"]["noise_db"], rows["full"]["bus_mb"]) == ("21.5", "3")
    assert str(run.frame()["noise_db"].dtype) == "float64"
    facts = gather(run)
    assert {column.title: column.unit for column in latency_table(facts, [1]).columns}["heat"] == "mK"
    costs = cost_table(facts, [1])
    shown = {
        column.title: (column.unit, column.group, cell.text)
        for column, cell in zip(costs.columns, costs.rows[0], strict=True)
    }
    assert shown["noise"] == ("dB", "Room", "21.5") and shown["bus"][:2] == ("MB", "Room")


@pytest.mark.usefixtures("more")
def test_its_limit_marks_cells_and_is_a_gate(tmp_path: Path) -> None:
    run = run_suite(suite(batch_sizes=[1]), tmp_path, workers=Probed())
    rows = {row["label"]: row for row in run.summary}
    assert (rows["Skip"]["usable"], rows["Skip"]["verdict"]) == ("unusable", "unusable")
    assert rows["Skip"]["reason"] == "its heat_mk is 250, more than 50"
    assert rows["Draft"]["usable"] == "usable"
    gate = next(gate for gate in run.gates if gate.name == "timed cells are usable")
    assert gate.status == "failed" and "its heat_mk is 250, more than 50" in gate.detail


@pytest.mark.usefixtures("more")
def test_a_value_that_is_no_number_is_refused_by_its_name(tmp_path: Path) -> None:
    class Wordy(Probed):
        def _peak_memory(self, *given: Any) -> Any:
            return {**super()._peak_memory(*given), "noise_db": "loud"}

    assert run_suite(suite(batch_sizes=[1]), tmp_path, workers=Wordy()).failed == 3
    memory = [cell for cell in load(tmp_path).cells if cell["kind"] == "memory"]
    assert all("noise_db: input should be a valid number" in str(cell["error"]) for cell in memory)


def test_a_name_and_a_field_stand_once() -> None:
    names = [column for each in quantities.TABLE for column in each.columns]
    fields = [(each.kind, each.field) for each in quantities.TABLE if each.field]
    assert len(set(names)) == len(names) and len(set(fields)) == len(fields)
