"""A suite to results: arms, jobs, worker processes, cells. A killed run goes on where it stopped.

First one job `prepare`, which checks everything before anything is measured; then those of `harness.run.jobs`; then what is
derived from the cells.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.machine import environment
from harness.measure.prepare import prepare
from harness.records import gates, published, samples, summary
from harness.records.arms import Planned
from harness.records.folder import RunStore
from harness.records.run import Run, load
from harness.records.run_record import RunRecord
from harness.run import remeasure as again
from harness.run import resume as resuming
from harness.run.executors import local
from harness.run.executors.base import Executor
from harness.run.jobs import Jobs
from harness.run.progress import Progress
from harness.run.shares import PARTS
from harness.suites.entries import MethodEntry
from harness.suites.suite import BASELINE, Suite, check_methods


def run_suite(
    suite: Suite,
    out: Path,
    *,
    data: Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    workers: Executor | None = None,
    remeasure: bool = False,
) -> Run:
    """Run a suite into a folder.

    Args:
        suite: from `harness.suites.suite.load_suite`, its names checked.
        out: run folder; made if missing.
        data: local data, for tasks that need it.
        resume: go on with a run in `out`; what is measured already is kept, what failed is tried again.
        command: the command line, kept for the report.
        workers: where jobs run; default: one after the other on this machine.
        remeasure: of a run that is resumed, measure the timed cells again that are unusable.

    Returns:
        The finished run, which knows how many cells `failed`, its `summary` and what its `gates` say.

    Raises:
        BadInput: before anything is measured, when something does not fit; or while measuring, when nothing can be written.
        KeyboardInterrupt: what was measured is kept.
    """
    check_methods(suite, f"suite {suite.name}")
    published.select(suite.published)  # refused, as wrong methods are, before anything is measured
    store = RunStore(out, resume=resume)
    with resuming.lock(store.path):
        workers = workers or local.LocalExecutor()
        progress = Progress()
        if isinstance(workers, local.LocalExecutor):
            workers.alive = progress.alive
        try:
            return _run(suite, store, data, command, workers, progress, remeasure)
        finally:
            progress.close()
            workers.close()


def _run(
    suite: Suite,
    store: RunStore,
    data: Path | None,
    command: Sequence[str],
    workers: Executor,
    progress: Progress,
    remeasure: bool,
) -> Run:
    jobs = Jobs(suite, store, data, workers, progress)
    arms = [_planned(suite, entry) for entry in suite.methods]
    # The full model goes first, on every checkpoint: others are compared with its tokens.
    arms.sort(key=lambda arm: arm["method"] != BASELINE)
    progress.begin("preparing")
    prepared = jobs.call(prepare, suite, arms, data).value
    record: RunRecord = {
        "name": suite.name,
        "suite": suite.plain(),
        "arms": prepared["arms"],
        "expected_tokens": prepared["expected_tokens"],
        "kernels": prepared["kernels"],
        "contests": prepared.get("contests", []),
        "energy_counters": prepared.get("energy_counters", []),
        "energy_idle": prepared.get("energy_idle"),
        "published": published.select(suite.published),
        "environment": environment.fingerprint(),
        "started": _now(),
        "finished": None,
        "command": list(command),
    }
    record = resuming.go_on(store, record, suite, here=isinstance(workers, local.LocalExecutor))
    store.write_run(record)
    for found in record.get("contests") or []:  # a run begun before may have none
        if found["chosen"] == "torch" and found["native_s"]:
            progress.say(f"kernels: {found['said']}")
    if remeasure:
        jobs.again = again.wanted(load(store.path))
    jobs.run(record)
    store.write_run({**record, "finished": _now()})
    shutil.rmtree(store.path / PARTS, ignore_errors=True)
    run = load(store.path)
    samples.write_samples(store, run)
    summary.write_summary(store, run)
    gates.write_gates(store, run)
    return run


def _planned(suite: Suite, entry: MethodEntry) -> Planned:
    arm: Planned = {
        "label": entry.title, "method": entry.name, "spec": entry.spec, "checkpoint": suite.checkpoint(entry),
    }  # fmt: skip
    return arm if entry.tuned is None else {**arm, "tuned": entry.tuned}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
