"""How long a run will take: as long as an earlier one of the same suite, else roughly, from how fast this machine reads weights.

The rough estimate takes every step for one of the full model at the rate at which the cores read, and every job for a process
that must start. Methods that skip take less, exit tests and drafts more; it is right within a factor of two or three.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from harness.errors import BadInput
from harness.measure.probes import reading
from harness.records.folder import read_run
from harness.run.estimate import Estimate, Pace, Work, scored, work
from harness.suites.suite import Suite

_PREPARED_S = 8.0
"""What the first worker takes with a small model."""
_BLOCK_S = 10e-6
"""What a block of a step takes beside its reading."""


def minutes(suite: Suite, weight_bytes: int, depth: int, earlier: Path) -> str:
    """Say how long a run of a suite will take, and what that rests on; empty where nothing is known.

    Args:
        suite: what would be run.
        weight_bytes: of the full model.
        depth: its blocks.
        earlier: a run folder that may hold a finished run of the same suite.
    """
    took = _took(suite, earlier)
    if took is not None:
        return f"about {_said(took)}: what the run in {earlier} took"
    if suite.device != "cpu":
        return ""
    rates = reading.measure(suite.threads)
    small = rates.last_level_cache_bytes is not None and weight_bytes < rates.last_level_cache_bytes / 2
    rate = rates.cache_gb_per_s if small else rates.memory_gb_per_s
    step_s = weight_bytes / (rate * 1e9) + depth * _BLOCK_S
    jobs = works(suite)
    total = sum(map(Estimate(Pace.of_one_row(step_s, timed=True), _PREPARED_S).seconds, jobs))
    return f"roughly {_said(total)}, within a factor of two or three: weights read at {rate:.0f} GB/s, {len(jobs)} jobs"


def works(suite: Suite) -> list[Work]:
    """The jobs of a whole run of a suite."""
    arms = len(suite.methods)
    found = [scored(suite, entry) for entry in suite.tasks for _ in range(arms)]
    for batch in suite.batch_sizes:
        found += [work(suite, "speed", batch, arms)] * suite.processes
        if suite.memory:
            found += [work(suite, "memory", batch, 1)] * arms
    return found


def _took(suite: Suite, folder: Path) -> float | None:
    """Seconds of a finished run of the same suite that was not stopped meanwhile."""
    try:
        record = read_run(folder)[0]
    except BadInput:
        return None
    then = {key: value for key, value in record["suite"].items() if key != "description"}
    now = {key: value for key, value in suite.plain().items() if key != "description"}
    began, ended = record.get("started"), record.get("finished")
    if then != now or record.get("resumed") or not began or not ended:
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def _said(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
