"""A run that lacks something ends with a report that says what, not with a traceback after all measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.run.sweep import run_suite
from reports.write.report import write_report
from tests.fakes import FakeExecutor, suite


class NoBaseline(FakeExecutor):
    def _speed(self, *given: Any) -> Any:
        failed = {"status": "failed", "error": "boom", "failure": {"reason": "exception", "log_tail": []}, "runs": []}
        return {**super()._speed(*given), "full": failed}


class OneRepeat(FakeExecutor):
    def _share(self, *given: Any) -> Any:
        found = super()._share(*given)
        return {**found, "runs": found["runs"][:1]}


@pytest.mark.parametrize(
    ("workers", "changes", "says"),
    [
        (NoBaseline(), {}, "the full model failed at this batch size"),
        (OneRepeat(), {"processes": 1, "repeats": 1, "batch_sizes": [1]}, "one repeat says nothing about how far"),
    ],
    ids=["the baseline failed", "one repeat, one batch size"],
)
def test_what_is_missing_is_said(tmp_path: Path, workers: FakeExecutor, changes: dict[str, Any], says: str) -> None:
    run = run_suite(suite(**changes), tmp_path, workers=workers)
    others = [found for (label, _), found in run.usability.items() if label != "full"]
    assert all(found.state == "unusable" and found.reason.startswith(says) for found in others)
    assert not any(row["speedup"] for row in run.summary)
    assert says in write_report([run]).read_text()
