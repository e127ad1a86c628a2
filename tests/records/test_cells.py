"""What is stored is read as what it is, or refused with the field's name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput, CellFailed
from harness.records import cells
from harness.records.folder import RunStore
from harness.records.run import load
from harness.run import sweep
from tests.fakes import FakeExecutor, suite

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = sorted(path.parent for path in RESULTS.rglob("run.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cells") / "run"
    sweep.run_suite(suite(), out, workers=FakeExecutor())
    return out


@pytest.mark.parametrize("run", COMMITTED, ids=lambda path: path.name)
def test_committed_runs_are_read_whole(run: Path) -> None:
    """Runs of schema 1 stay readable: no cell is refused, and none is changed by being read."""
    found = load(run)
    assert not found.problems and len(found.cells) == len(list((run / "cells").glob("*")))
    assert found.record["schema_version"] == 1


def test_there_are_committed_runs_with_cells_of_every_kind_but_energy() -> None:
    assert {cell["kind"] for run in COMMITTED for cell in load(run).cells} == {"speed", "memory", "quality"}


@pytest.mark.parametrize(
    ("kind", "path", "value", "says"),
    [
        ("speed", "runs.0.step_s", "0.1", "runs.0.step_s: input should be a valid list"),
        ("speed", "runs.2.step_tokens.1", 1.5, "runs.2.step_tokens.1: input should be a valid integer"),
        ("speed", "runs.0", {"step_s": [0.1]}, "runs.0.process: field required"),
        ("speed", "layers_per_token", "12", "layers_per_token: input should be a valid number"),
        ("speed", "outputs.0.tokens.0", None, "outputs.0.tokens.0: input should be a valid list"),
        ("memory", "peak_rss_bytes", True, "peak_rss_bytes: input should be a valid number"),
        ("quality", "examples.1.stats.agreement", 4, "examples.1.stats.agreement: input should be a valid list"),
        ("quality", "arm.exact", "yes", "arm.exact: input should be a valid boolean"),
        ("quality", "task", None, "task: input should be a valid string"),
    ],
)
def test_a_value_that_is_none_of_its_field_is_named(
    folder: Path, tmp_path: Path, kind: str, path: str, value: object, says: str
) -> None:
    """Such a cell is missing, with the file and the field in one line; it is never half read, and never written."""
    cell: Any = copy.deepcopy(next(cell for cell in load(folder).cells if cell["kind"] == kind))
    inner: Any = cell
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(ValueError) as caught:
        cells.read(cell)
    assert str(caught.value) == says
    store = RunStore(tmp_path)
    store.write_run(load(folder).record)
    with pytest.raises(CellFailed, match=cell["id"]):
        store.write_cell(cell)
    store.write_text(f"cells/{cell['id']}.json", json.dumps(cell))
    (problem,) = load(tmp_path).problems
    assert problem == f"cells/{cell['id']}.json: broken cell file, counted as missing ({says})"


def test_a_run_json_that_is_none_names_its_field(folder: Path, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write_run({**load(folder).record, "arms": [{"method": "full"}]})  # type: ignore[typeddict-item]
    with pytest.raises(BadInput, match=r"run\.json: arms\.0\.label: field required"):
        load(tmp_path)


def test_keys_that_are_not_known_are_kept(folder: Path) -> None:
    cell: Any = {**load(folder).cells[0], "of_a_later_version": {"a": [1]}}
    assert cells.read(cell)["of_a_later_version"] == {"a": [1]}  # type: ignore[typeddict-item]
