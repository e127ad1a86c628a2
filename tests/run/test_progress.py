"""What a run says while it runs, and unusable cells that are measured again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from harness.measure.running import doing
from harness.records.cells import cell_id
from harness.records.run import load
from harness.run.progress import Progress
from harness.run.sweep import run_suite
from tests.fakes import FakeExecutor, suite


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_off_a_terminal_there_is_a_line_for_every_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_suite(suite(), tmp_path, workers=FakeExecutor())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert len(lines) == len(run.cells)
    assert lines[0].startswith(f"[1/{len(run.cells)} ") and lines[-1].startswith(f"[{len(run.cells)}/{len(run.cells)} ")
    (timed,) = [line for line in lines if "speed, batch 1, Skip:" in line]
    assert timed.endswith(": 0.50x [0.50, 0.50]; 4.0 of 4 blocks, 1 MB of weights a token, byte limit 1.00")
    assert any("memory, batch 1, full: 1000 MB" in line for line in lines)


def test_a_sign_of_life_says_what_the_worker_does() -> None:
    out = io.StringIO()
    progress = Progress(out, Clock())
    progress.begin("speed, batch 1, process 1 of 3")
    progress.alive(doing(["[depthbench] now loading m", "x", "[depthbench] running Skip"]))
    assert out.getvalue() == "    0:00 speed, batch 1, process 1 of 3: running Skip\n"


class Stalled(FakeExecutor):
    """The machine stalls in the draft's third repeat of the first process, and never again."""

    def _share(self, arm: Any, batch: int, process: int, place: int) -> Any:
        found = super()._share(arm, batch, process, place)
        if arm["label"] == "Draft" and process == 0:
            found["runs"][2]["step_s"] = [54 * s for s in found["runs"][2]["step_s"]]
        return found


def test_only_unusable_cells_are_measured_again_and_nothing_is_lost(tmp_path: Path) -> None:
    asked = suite(batch_sizes=[1], processes=1)
    first = run_suite(asked, tmp_path, workers=Stalled())
    assert first.usability["Draft", 1] == ("unusable", "one repeat took 54 times the median")
    before = {cell["id"]: cell for cell in first.cells}
    again = run_suite(asked, tmp_path, workers=Stalled(), resume=True, remeasure=True)
    assert again.usability["Draft", 1].state == "usable" and not again.failed
    after = {cell["id"]: cell for cell in again.cells}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {cell_id("speed", label, "b1") for label in ("full", "Draft")}
    draft = next(cell for cell in again.speed if cell["arm"]["label"] == "Draft")
    assert [run["process"] for run in draft["runs"]] == [0] * 5 + [1] * 5
    assert {run.get("superseded") for run in draft["runs"][:5]} == {"one repeat took 54 times the median"}
    full = next(cell for cell in again.speed if cell["arm"]["label"] == "full")
    assert not any("superseded" in run for run in full["runs"]), "the other arms are paired with these"
    once_more = run_suite(asked, tmp_path, workers=Stalled(), resume=True, remeasure=True)
    assert {cell["id"]: cell for cell in once_more.cells} == after, "nothing is unusable any more"
    assert load(tmp_path).summary == once_more.summary
