"""A suite to results: arms, jobs, worker processes, cells. A killed run goes on where it stopped.

First one job `prepare`, which checks everything before anything is measured; then those of `harness.run.jobs`; then what is
derived from the cells.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import methods
from harness.machine import environment
from harness.measure.prepare import prepare
from harness.outside import Source
from harness.records import beside, gates, samples, summary
from harness.records.arms import Planned
from harness.records.folder import CODE, RunStore
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
    beside.select(suite.published)  # refused, as wrong methods are, before anything is measured
    store = RunStore(out, resume=resume)
    with resuming.lock(store.path):
        workers = workers or local.LocalExecutor()
        progress = Progress()
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
    sources = {entry.name: methods.get(entry.name).source for entry in suite.methods}
    arms = [_planned(suite, entry, sources[entry.name]) for entry in suite.methods]
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
        "ignored_settings": prepared.get("ignored_settings", []),
        "published": beside.select(suite.published),
        "environment": environment.fingerprint(),
        "started": _now(),
        "finished": None,
        "command": list(command),
    }
    record = resuming.go_on(store, record, suite, here=isinstance(workers, local.LocalExecutor))
    store.write_run(record)
    for arm in arms:
        source = sources[arm["method"]]
        if source is not None and not (store.path / arm["code"]["kept"]).exists():
            (store.path / CODE).mkdir(exist_ok=True)
            store.write_text(arm["code"]["kept"], source.text)
    for line in prepared.get("ignored_settings", []):
        progress.say(line)
    for found in record.get("contests") or []:  # a run begun before may have none
        if found["chosen"] == "torch" and found["native_s"]:
            progress.say(f"kernels: {found['said']}")
    if remeasure:
        jobs.again = again.wanted(load(store.path))
    jobs.run(record, prepared.get("prompts"))
    store.write_run({**record, "finished": _now()})
    shutil.rmtree(store.path / PARTS, ignore_errors=True)
    run = load(store.path)
    samples.write_samples(store, run)
    summary.write_summary(store, run)
    gates.write_gates(store, run)
    return run


def _planned(suite: Suite, entry: MethodEntry, source: Source | None) -> Planned:
    arm: Planned = {
        "label": entry.title, "method": entry.name, "spec": entry.spec, "checkpoint": suite.checkpoint(entry),
    }  # fmt: skip
    if entry.tuned is not None:
        arm["tuned"] = entry.tuned
    if source is not None:
        kept = f"{CODE}/{Path(source.file).stem}-{source.sha256[:12]}.py"
        arm["code"] = {"file": source.file, "sha256": source.sha256, "kept": kept}
    return arm


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
