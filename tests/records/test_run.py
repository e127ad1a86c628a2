"""A run as one object: what it costs to read it, and that nothing of it is made twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness.records import folder, gates, summary
from harness.records.run import load
from harness.run import sweep
from reports.write.report import write_report
from tests.fakes import FakeExecutor, suite


def test_a_run_is_read_summarised_and_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first job to the report. The full model's outputs are read once more: every other arm is compared with them."""
    read: Counter[str] = Counter()
    made: Counter[str] = Counter()

    def counted(module: object, name: str, counts: Counter[str], key: str = "") -> None:
        original = getattr(module, name)

        def call(first: object, *rest: object) -> object:
            counts[key or getattr(first, "name", "")] += 1
            return original(first, *rest)

        monkeypatch.setattr(module, name, call)

    counted(folder, "read_cell", read)
    counted(summary, "summarise", made, "summary")
    counted(gates, "evaluate", made, "gates")
    run = sweep.run_suite(suite(), tmp_path / "run", workers=FakeExecutor())
    write_report([run])
    assert len(read) == len(run.cells) and run.failed == 0
    again = {name: count for name, count in read.items() if count > 1}
    assert set(again.values()) == {2} and all(name.startswith("quality--full") for name in again)
    assert made == {"summary": 1, "gates": 1}


def test_a_run_that_was_read_gives_the_report_of_its_folder(tmp_path: Path) -> None:
    run = sweep.run_suite(suite(), tmp_path / "run", workers=FakeExecutor())
    first = write_report([run]).read_bytes()
    assert write_report([tmp_path / "run"]).read_bytes() == first
    assert load(tmp_path / "run").summary == run.summary
