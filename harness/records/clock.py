"""The times of a timed cell: which of its repeats count, and what they say beside the full model's. Torch-free.

A repeat that was marked `disturbed` while it was measured does not count; the one that was measured in its place (`again` names
the first) does. Of those left, stalled ones are left out where two arms are compared (`harness.stats.paired`). Everything stays
in the cell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from harness.stats import intervals, paired
from harness.stats.intervals import Interval

if TYPE_CHECKING:  # the table of quantities is made with this, and cells are checked by it
    from harness.records.fields import SpeedFields, Timed

Place = tuple[int, int]
"""Process and repeat; a repeat measured again goes by the number of the first."""


@dataclass(frozen=True)
class Clock:
    """The timed runs of one cell.

    Attributes:
        runs: those with times, as stored.
        rows: batch size.
    """

    runs: tuple[Timed, ...]
    rows: int

    @staticmethod
    def of(cell: SpeedFields) -> Clock:
        """The runs of a cell that have times, without those of processes that were measured again later."""
        return Clock(
            tuple(run for run in cell.get("runs") or () if _seconds(run) and not run.get("superseded")),
            cell.get("batch_size") or 1,
        )

    @cached_property
    def quiet(self) -> tuple[Timed, ...]:
        """Runs that were not marked as disturbed."""
        return tuple(run for run in self.runs if not run.get("disturbed"))

    @cached_property
    def counted(self) -> tuple[Timed, ...]:
        """Runs that were neither marked nor stalled."""
        return tuple(run for run, slow in zip(self.quiet, _slowness(self.quiet), strict=True) if slow <= paired.STALL)

    @cached_property
    def planned(self) -> frozenset[Place]:
        """Every process and repeat that was asked for."""
        return frozenset(map(place, self.runs))

    @cached_property
    def dispersion(self) -> float | None:
        """Interquartile range over median of the decode times, those of one prompt set together, at their process's pace."""
        paces, groups = _paces(self.quiet), dict[int, list[float]]()
        for run in self.quiet:
            groups.setdefault(run["prompt_set"], []).append(_per_token(run) / paces.get(run["process"], 1.0))
        return intervals.dispersion(list(groups.values()))

    def slow(self, places: Iterable[Place] | None = None) -> list[float]:
        """How many times the median the runs took, the most first; of these processes and repeats, marked ones included."""
        wanted = self.planned if places is None else frozenset(places)
        pairs = zip(self.runs, _slowness(self.runs), strict=True)
        return sorted((slow for run, slow in pairs if place(run) in wanted), reverse=True)

    def slow_repeats(self) -> list[float]:
        """How many times the median the repeats that count took, the most first; several times of one repeat are their mean."""
        found: dict[tuple[int, int, int], list[float]] = {}
        for run, slow in zip(self.counted, _slowness(self.counted), strict=True):
            found.setdefault(_key(run), []).append(slow)
        return sorted(map(statistics.fmean, found.values()), reverse=True)

    def seconds_per_token(self) -> Interval | None:
        """Decode seconds per token of a row with the interval over processes and repeats; None where nothing counts."""
        found = _arrays([self.quiet])
        if found is None:
            return None
        (seconds, tokens), repeats = found[0][0], found[1]
        estimate = paired.Pairs(seconds, tokens / self.rows, repeats).ratio_of_totals()
        return intervals.interval_of(estimate) if estimate.n else None


@dataclass(frozen=True)
class Beside:
    """The decode times of full and of a method, repeat by repeat.

    Attributes:
        full: its clock.
        method: its clock.
    """

    full: Clock
    method: Clock

    @cached_property
    def _shared(self) -> list[tuple[int, int, int]]:
        keys = [
            {(run["process"], run["repeat"], run["prompt_set"]) for run in of.quiet} for of in (self.full, self.method)
        ]
        return sorted(keys[0] & keys[1])

    @cached_property
    def pairs(self) -> paired.Pairs | None:
        """Times paired by process, repeat and prompt set; per generated token where the two did not generate equally many.

        Prompt sets of one repeat are not independent of each other: repeats are what is resampled.
        """
        shared = set(self._shared)
        sides = [[run for run in of.quiet if _key(run) in shared] for of in (self.full, self.method)]
        found = _arrays(sides)
        if found is None:
            return None
        ((above, theirs), (below, ours)), repeats = found
        if (theirs != ours).any():
            above, below = (
                np.divide(s, t, out=np.zeros_like(s), where=t > 0) for s, t in ((above, theirs), (below, ours))
            )
        return paired.Pairs(above, below, repeats)

    @cached_property
    def planned(self) -> int:
        """Pairs that were asked for."""
        return len(self.full.planned & self.method.planned)

    @cached_property
    def lost(self) -> frozenset[Place]:
        """Processes and repeats of which no pair counts: disturbed or stalled, and not measured again undisturbed."""
        asked = self.full.planned & self.method.planned
        if self.pairs is None:
            return asked
        origin = {(run["process"], run["repeat"]): place(run) for of in (self.full, self.method) for run in of.quiet}
        places: dict[int, list[int]] = {}
        for process, repeat, _ in self._shared:
            if repeat not in places.setdefault(process, []):
                places[process].append(repeat)
        kept = {
            origin[process, repeat]
            for row, (process, repeats) in enumerate(places.items())
            for column, repeat in enumerate(repeats)
            if self.pairs.kept[row, column]
        }
        return asked - kept

    def ratio_of_totals(self) -> Interval | None:
        """The headline: total decode time of full over that of the method; None where no pair counts."""
        return (
            None
            if self.pairs is None or not self.pairs.kept.any()
            else intervals.interval_of(self.pairs.ratio_of_totals())
        )

    def geometric_mean(self) -> Interval | None:
        """The second number: the mean of the prompts' own ratios, every prompt counting once."""
        return (
            None
            if self.pairs is None or not self.pairs.kept.any()
            else intervals.interval_of(self.pairs.geometric_mean())
        )


def place(run: Timed) -> Place:
    """The process and repeat that a run belongs to; one measured again belongs to the first."""
    again = run.get("again")
    return run["process"], run["repeat"] if again is None else again


def speedup(full: SpeedFields, cell: SpeedFields) -> Interval | None:
    """The realised speed-up: decode time of full over the method's; None if nothing can be paired."""
    return Beside(Clock.of(full), Clock.of(cell)).ratio_of_totals()


def _key(run: Timed) -> tuple[int, int, int]:
    return run["process"], run["repeat"], run["prompt_set"]


def _seconds(run: Timed) -> float:
    """Decode seconds of a run; 0 where it has none."""
    seconds, tokens = run.get("step_s") or [], run.get("step_tokens") or []
    total = math.fsum(seconds)
    return total if math.isfinite(total) and total > 0 and sum(tokens) > 0 else 0.0


def _slowness(runs: tuple[Timed, ...]) -> list[float]:
    """Decode seconds per token of each run over the lower median of its like; see `harness.stats.paired.slowness`."""
    common, paces = _common(runs), _paces(runs)
    own: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        own.setdefault((run["process"], run["prompt_set"]), []).append(_per_token(run))
    found = []
    for run in runs:
        process, prompt, seconds = run["process"], run["prompt_set"], _per_token(run)
        if len(own[process, prompt]) >= paired.GROUP:
            found.append(seconds / statistics.median_low(own[process, prompt]))
        else:
            found.append(seconds / (common[prompt] * paces.get(process, 1.0)) if prompt in common else 1.0)
    return found


def _per_token(run: Timed) -> float:
    return _seconds(run) / sum(run["step_tokens"])


def _common(runs: tuple[Timed, ...]) -> dict[int, float]:
    """The lower median of the decode seconds per token of each prompt set, where enough were timed."""
    every: dict[int, list[float]] = {}
    for run in runs:
        every.setdefault(run["prompt_set"], []).append(_per_token(run))
    return {prompt: statistics.median_low(v) for prompt, v in every.items() if len(v) >= paired.GROUP}


def _paces(runs: tuple[Timed, ...]) -> dict[int, float]:
    """How each process's times stand to those of all, where it has enough of them: two may be of two machines."""
    common, found = _common(runs), dict[int, list[float]]()
    for run in runs:
        if run["prompt_set"] in common:
            found.setdefault(run["process"], []).append(_per_token(run) / common[run["prompt_set"]])
    return {process: statistics.median_low(v) for process, v in found.items() if len(v) >= paired.GROUP}


def _arrays(
    sides: list[list[Timed]] | list[tuple[Timed, ...]],
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray] | None:
    """Seconds and tokens [P, R, K] of each side, and the repeats [P]; all sides hold the same processes, repeats, prompts."""
    keys = sorted({_key(run) for run in sides[0]})
    if not keys:
        return None
    repeats: dict[int, dict[int, int]] = {}
    for process, repeat, _ in keys:
        found = repeats.setdefault(process, {})
        found.setdefault(repeat, len(found))
    rows = {process: row for row, process in enumerate(repeats)}
    columns = {prompt: column for column, prompt in enumerate(sorted({key[2] for key in keys}))}
    counts = np.array([len(found) for found in repeats.values()], dtype=np.int64)
    made = []
    for runs in sides:
        seconds, tokens = np.zeros((2, len(rows), int(counts.max()), len(columns)))
        for run in runs:
            at = rows[run["process"]], repeats[run["process"]][run["repeat"]], columns[run["prompt_set"]]
            seconds[at] += _seconds(run)
            tokens[at] += sum(run["step_tokens"])
        made.append((seconds, tokens))
    return made, counts
