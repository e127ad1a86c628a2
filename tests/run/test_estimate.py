"""The estimate of a run, replayed over the times that committed runs recorded of their jobs: what a reader would have seen."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.run.estimate import Estimate, Pace, Work, scored, work
from harness.run.progress import Progress
from harness.suites.suite import Suite
from tests.run.test_progress import Clock

RUNS: dict[str, Any] = json.loads((Path(__file__).parent / "recorded_times.json").read_text())
"""Of each run its suite's numbers, the contests of its kernels, and (task or kind and batch size, seconds) of every job."""
BEAT_S = 4.0


def replayed(run: dict[str, Any]) -> list[tuple[float, float]]:
    """(share of the run that is over, estimate over what it took) at every sign of life and every end of a job."""
    suite = Suite.model_validate({"name": "replayed", "model": "opt-e2e-mini", "methods": ["full"], **run["suite"]})
    tasks = {entry.name: entry for entry in suite.tasks}
    clock = Clock()
    progress = Progress(io.StringIO(), clock)
    clock.now = run["prepared_s"]
    total, jobs = clock.now + sum(seconds for _, seconds in run["jobs"]), []
    for what, seconds in run["jobs"]:
        if what in tasks:
            jobs.append((scored(suite, tasks[what]), seconds))
        else:
            kind, batch = what.split()
            jobs.append((work(suite, kind, int(batch), run["arms"] if kind == "speed" else 1), seconds))
    progress.plan([one for one, _ in jobs], Pace.measured(run["contests"]))
    seen = []
    for one, seconds in jobs:
        progress.begin(one.kind, one)
        began = clock.now
        for beat in range(1, math.ceil(seconds / BEAT_S)):
            clock.now = began + beat * BEAT_S
            seen.append((clock.now / total, (progress.total_s() or 0.0) / total))
        clock.now = began + seconds
        progress.end(one)
        seen.append((clock.now / total, (progress.total_s() or 0.0) / total))
    return seen


@pytest.mark.parametrize("name", RUNS)
def test_the_estimate_holds_within_a_half_once_a_tenth_is_done(name: str) -> None:
    late = [ratio for share, ratio in replayed(RUNS[name]) if share >= 0.1]
    assert len(late) > 10 and min(late) >= 1 / 1.5 and max(late) <= 1.5
    assert late[-1] == pytest.approx(1)


def test_the_replay_would_notice() -> None:
    """Were a run's timed cells ten times as long as its kernels say, no estimate could know it at a tenth."""
    run = RUNS["bench-quick"]
    jobs = [[what, seconds * (30 if what.startswith("speed") else 1)] for what, seconds in run["jobs"]]
    assert min(ratio for share, ratio in replayed({**run, "jobs": jobs}) if share >= 0.1) < 1 / 1.5


def test_a_pace_lies_between_what_was_timed() -> None:
    contests: Any = [
        {"rows": 1, "chosen": "native", "native_s": [0.002, 0.003], "torch_s": [0.005]},
        {"rows": 9, "chosen": "torch", "native_s": [0.02], "torch_s": [0.01]},
    ]
    pace = Pace.measured(contests)
    assert [pace.step_s(rows) for rows in (1, 5, 9, 17)] == pytest.approx([0.002, 0.006, 0.010, 0.018])
    alone = Pace({8: 0.004})
    assert [alone.step_s(rows) for rows in (1, 8, 32)] == [0.004] * 3
    assert not Pace.measured([]).timed and Pace.measured([]).step_s(16) == pytest.approx(2)


def test_what_was_seen_of_a_kind_counts_more_than_the_pace() -> None:
    estimate = Estimate(Pace({1: 0.01}), 8.0)
    small, large, memory = Work("speed", 1, 100.0), Work("speed", 8, 200.0), Work("memory", 1, 10.0)
    assert estimate.seconds(small) == pytest.approx(2 + 1) and not Estimate(Pace.of_one_row(), 8.0).begun
    estimate.end(small, 5.0)  # three times the pace once it had started
    assert estimate.seconds(small) == 5.0 and estimate.seconds(large) == pytest.approx(2 + 2 * (3 + 2) / (1 + 2))
    assert estimate.seconds(memory) == pytest.approx(2.1), "another kind: the pace, which was timed"
