"""The A/A check: `full` against itself, again and again. An honest measurement finds no difference in 19 of 20 tries.

Each try is a run of its own (fresh processes, its own folder), in which the same method on the same weights stands twice. Its
outcome is DIFFERENCE, a false alarm, where the verdict is `faster` or `slower`; NOISY where the interval is too wide to tell or
there is none; else SAME. Verdicts are at 99 %, so SAME is, too: were 1 asked to lie in the interval of 95 %, a perfect
instrument would miss 19 of 20 at one of two batch sizes in every second check. How many intervals of 95 % hold 1 is recorded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import write_atomically
from harness.records.run import Run
from harness.records.run_record import RunRecord
from harness.run.sweep import run_suite
from harness.stats import intervals
from harness.suites.suite import BASELINE, Suite

SHARE = 0.95
"""Share of tries that must show no difference."""
SAME, DIFFERENCE, NOISY = "no difference", "difference", "too noisy"
RECORD = "selfcheck.json"


def check(
    suite: Suite,
    out: Path,
    tries: int,
    *,
    data: Path | None = None,
    command: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run a suite of full models `tries` times and record the verdicts in `out`/selfcheck.json.

    Tries that are finished are kept, so an interrupted check goes on where it stopped.

    Args:
        suite: its methods are `full` at least twice, on the same weights.
        out: folder; try n goes to `out`/try-<n>.
        tries: how many, 1 or more.
        data: local data, for tasks that need it.
        command: the command line, kept in the runs.
        tell: called with one line after each try.

    Returns:
        The record: `tries` (per try, arm and batch size the ratio, its interval, the verdict and the outcome), `counts` of the
        outcomes by batch size, `needed` (SAME, per batch size) and `passed`.

    Raises:
        BadInput: the suite compares anything else, or `tries` is below 1.
    """
    if tries < 1:
        raise BadInput(f"--tries {tries} is out of range; give 1 or more")
    arms = {(entry.name, suite.checkpoint(entry)) for entry in suite.methods}
    if len(suite.methods) < 2 or len(arms) != 1 or suite.methods[0].name != BASELINE:
        raise BadInput(
            f"suite {suite.name}: methods: a check of the measurement against itself takes {BASELINE!r} twice on the same "
            "weights, under two labels, and nothing else"
        )
    found: list[dict[str, Any]] = []
    first: Run | None = None
    for number in range(1, tries + 1):
        folder = out / f"try-{number:02d}"
        # Another seed draws other prompts: 20 tries on one prompt would be one try.
        again = suite.model_copy(update={"seed": suite.seed + number})
        run = run_suite(again, folder, data=data, resume=folder.exists(), command=command)
        first = first or run
        results = _verdicts(run, number)
        found += results
        for each in results:
            tell(
                f"try {number}, batch {each['batch_size']}: {each['outcome']}, "
                f"{_number(each['ratio'])} [{_number(each['low'])}, {_number(each['high'])}]"
            )
    record = _record(suite, tries, found, first.record if first else {})
    write_atomically(out / RECORD, [json.dumps(record, indent=1, allow_nan=False), "\n"])
    return record


def lines(record: dict[str, Any]) -> list[str]:
    """The outcome in words, a line per batch size and one in all."""
    told = [
        f"batch {batch}: no difference in {counts[SAME]} of {record['tries_done']} tries, a difference in {counts[DIFFERENCE]}, "
        f"too noisy to tell {counts[NOISY]}"
        for batch, counts in record["counts"].items()
    ]
    told.append(f"{record['intervals_holding_1']} of {record['intervals']} intervals of 95 % hold 1")
    verdict = "passed" if record["passed"] else "not passed"
    needed = f"no difference in {record['needed']} of {record['tries_done']} is needed at every batch size"
    return [*told, f"{verdict}: {needed}"]


def _verdicts(run: Run, number: int) -> list[dict[str, Any]]:
    """What one try says of every full model but the first."""
    rows = run.summary
    first = rows[0]["label"] if rows else None
    return [
        {
            "try": number,
            "label": row["label"],
            "batch_size": row["batch_size"],
            "ratio": row.get("speedup"),
            "low": row.get("speedup_low"),
            "high": row.get("speedup_high"),
            "dispersion": row.get("dispersion"),
            "verdict": row["verdict"] if row["status"] == "ok" else row["status"],
            "outcome": _outcome(row),
        }
        for row in rows
        if row["label"] != first
    ]


def _outcome(row: Mapping[str, Any]) -> str:
    low, high = row.get("speedup_low"), row.get("speedup_high")
    if row["status"] == "ok" and row["verdict"] in ("faster", "slower"):
        return DIFFERENCE
    told = row["status"] == "ok" and low is not None and high is not None and high <= intervals.WIDE * low
    return SAME if told else NOISY


def _record(suite: Suite, tries: int, found: list[dict[str, Any]], run: RunRecord) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for each in found:
        counts.setdefault(str(each["batch_size"]), {SAME: 0, DIFFERENCE: 0, NOISY: 0})[each["outcome"]] += 1
    held = [each["low"] <= 1 <= each["high"] for each in found if each["low"] is not None and each["high"] is not None]
    arms = len(suite.methods) - 1
    needed = math.ceil(round(SHARE * tries * arms, 6))
    return {
        "suite": suite.plain(),
        "environment": run.get("environment"),
        "started": run.get("started"),
        "tries_done": tries * arms,
        "needed": needed,
        "counts": counts,
        "intervals_holding_1": sum(held),
        "intervals": len(held),
        "widest_verdict_factor": intervals.WIDE,
        "passed": bool(counts) and all(words[SAME] >= needed for words in counts.values()),
        "tries": found,
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
