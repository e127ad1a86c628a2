"""Which repeats the machine disturbed, by a rule fixed beforehand and the same for every arm. Torch-free.

A repeat is disturbed if

- it took more than STALL times the median of its arm on the same prompts (`harness.stats.paired`; of two middle values the
  lower, and the warm-up counts as one of the times, so that a prompt set timed once has something to stand beside), or
- other programs and the hypervisor had FOREIGN more of the processor's time than in the median repeat of the process: what goes
  on all the time is no disturbance of one repeat, it makes the cell wide (`harness.records.usability`).

A pair of which either repeat is disturbed is measured again, both arms, ROUNDS times at most. Every time stays in the cell
with its reason. Nothing here looks at which arm is faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from harness.records.clock import place
from harness.records.fields import Timed
from harness.stats.paired import STALL

FOREIGN = 0.25
"""Share of the processor's time beyond that of the median repeat."""
ROUNDS = 2
"""How many times what is still disturbed is measured again."""


def mark(arms: Iterable[Sequence[Timed]], warm: Iterable[Mapping[int, Sequence[float]]]) -> None:
    """Write `disturbed` into the runs of one process that are, and take it out of the others.

    Args:
        arms: the timed runs of every arm.
        warm: of every arm, decode seconds per token of its warm-up by prompt set.
    """
    arms = list(arms)
    usual = _median([share for runs in arms for run in runs if (share := _foreign(run)) is not None])
    for runs, warmed in zip(arms, warm, strict=True):
        times = {number: list(seconds) for number, seconds in warmed.items()}
        for run in runs:
            times.setdefault(run["prompt_set"], []).append(seconds_per_token(run["step_s"], run["step_tokens"]))
        for run in runs:
            run.pop("disturbed", None)
            if reason := _reason(run, times[run["prompt_set"]], usual):
                run["disturbed"] = reason


def lost(full: Sequence[Timed], method: Sequence[Timed]) -> list[int]:
    """The repeats of one process of which there is no pair without a disturbed repeat, by their first numbers."""
    theirs = {run["repeat"] for run in full if not run.get("disturbed")}
    kept = {place(run) for run in method if not run.get("disturbed") and run["repeat"] in theirs}
    return sorted({place(run)[1] for run in method if place(run) not in kept})


def seconds_per_token(step_s: Sequence[float], step_tokens: Sequence[int]) -> float:
    """Decode seconds over tokens of one generation."""
    return math.fsum(step_s) / max(sum(step_tokens), 1)


def _reason(run: Timed, times: Sequence[float], usual: float | None) -> str:
    seconds, middle = seconds_per_token(run["step_s"], run["step_tokens"]), statistics.median_low(times)
    if middle > 0 and seconds > STALL * middle:
        return f"took {seconds / middle:.3g} times the median of its arm"
    foreign = _foreign(run)
    if foreign is not None and usual is not None and foreign > usual + FOREIGN:
        return f"other programs had {100 * foreign:.0f} % of the processor, {100 * usual:.0f} % in the median repeat"
    return ""


def _foreign(run: Timed) -> float | None:
    """Share of the processor's time that was neither idle nor ours."""
    found = run.get("machine") or {}
    foreign = found.get("foreign_share")
    return None if foreign is None else foreign + (found.get("steal_share") or 0.0)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
