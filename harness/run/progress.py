"""What a run says while it runs: one line per cell off a terminal, a bar on one, and a sign of life every few seconds.

The estimate takes the jobs that are done as the measure of those that are not: of the same kind and batch size first, of the same
kind next, of all last. Jobs are weighed by their decode steps; every job starts a process, taken to be less than half of the
shortest job. Nothing is drawn by a thread: the driver wakes up anyway to look at the worker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from harness.suites.suite import Suite

_EXAMPLES = 500
"""Examples that a task without a limit is taken to have."""
_BESIDE = 16
"""Rows that make a step cost as much again as one row does."""


@dataclass(frozen=True)
class Work:
    """A job's share of a run.

    Attributes:
        kind: quality, speed, join, memory or energy.
        batch: rows of a step.
        steps: decode steps, roughly.
        cells: how many cells it makes.
    """

    kind: str
    batch: int
    steps: float
    cells: int = 1

    @property
    def weight(self) -> float:
        """Steps of one row that it is taken to be worth."""
        return self.steps * (1 + self.batch / _BESIDE)


def work(suite: Suite, kind: str, batch: int, arms: int, limit: int | None = None) -> Work:
    """The work of one job of a suite."""
    if kind == "quality":
        batches = (limit or _EXAMPLES) / suite.quality_batch_size
        return Work(kind, suite.quality_batch_size, max(batches, 1) * (suite.max_new_tokens or 32))
    if kind == "speed":
        passes = arms * ((suite.warmup + 1) * suite.prompt_sets + suite.repeats + 1) + suite.repeats + 12
        return Work(kind, batch, passes * suite.new_tokens, 0)
    return Work(kind, batch, 2 * suite.new_tokens if kind == "memory" else 0.0, arms if kind == "join" else 1)


class Progress:
    """Tells what a run does.

    Args:
        stream: where to; default: standard error.
        clock: seconds, rising.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream or sys.stderr, clock
        self._began = self._job_began = clock()
        self._start_s = 0.0
        self._left: list[Work] = []
        self._done: list[tuple[Work, float]] = []
        self._cells = self._of = 0
        self._what = ""
        self._now: Work | None = None
        self._bar: Bar | None = None
        if self._stream.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[time]}"),
            )
            self._bar = Bar(*columns, console=Console(file=self._stream), auto_refresh=False, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=None, time="")

    def plan(self, works: Sequence[Work]) -> None:
        """What is still to be done; what was done before it took `begin` to now."""
        self._start_s = self._clock() - self._began
        self._left, self._of = list(works), sum(one.cells for one in works)

    def begin(self, what: str, work: Work | None = None) -> None:
        """A job begins."""
        self._what, self._job_began, self._now = what, self._clock(), work
        self._show()

    def end(self, done: Work) -> None:
        """A job is over."""
        if done in self._left:
            self._left.remove(done)
        took = self._clock() - self._job_began
        self._done.append((done, took))
        if done.weight:
            self._start_s = min(self._start_s, 0.4 * took)
        self._now = None

    def cell(self, what: str, result: str) -> None:
        """A cell is written: where it stands, and what came out."""
        self._cells += 1
        if self._bar is None:
            self._line(f"[{self._cells}/{max(self._of, self._cells)} {self.time()}] {what}: {result}")
        else:
            self._bar.console.print(f"{what}: {result}", markup=False, highlight=False)
            self._show()

    def alive(self, doing: str) -> None:
        """A sign of life from the middle of a job."""
        if self._bar is None:
            self._line(f"    {_minutes(self._clock() - self._began)} {self._what}{f': {doing}' if doing else ''}")
        else:
            self._show(doing)

    def say(self, line: str) -> None:
        """A line that is no cell."""
        if self._bar is None:
            self._line(line)
        else:
            self._bar.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away; idempotent."""
        if self._bar is not None:
            self._bar.stop()

    def time(self) -> str:
        """Time gone, and the estimate of all of it once something is done."""
        gone, all_of_it = self._clock() - self._began, self.total_s()
        return _minutes(gone) + ("" if all_of_it is None else f" of ~{_minutes(all_of_it)}")

    def total_s(self) -> float | None:
        """Estimated seconds of the whole run; None before anything is done."""
        if not any(one.weight for one, _ in self._done):
            return None
        now = self._clock()
        left = sum(map(self._seconds, self._left))
        if self._now in self._left:  # what runs has less left than it takes
            left -= min(self._seconds(self._now), now - self._job_began)
        return now - self._began + left

    def _seconds(self, one: Work) -> float:
        """Estimated seconds of a job that is still to be done."""
        if one.kind == "join":
            return 0.0
        alike = [
            [(done, took) for done, took in self._done if done.kind == one.kind and done.batch == one.batch],
            [(done, took) for done, took in self._done if done.kind == one.kind],
            [(done, took) for done, took in self._done if done.weight],
        ]
        known = next(found for found in alike if found)
        if known is not alike[2] and not any(done.weight for done, _ in known):
            return sum(took for _, took in known) / len(known)
        weight = sum(done.weight for done, _ in known)
        spent = sum(max(took - self._start_s, 0.1 * took) for _, took in known)
        return self._start_s + one.weight * spent / weight

    def _show(self, doing: str = "") -> None:
        if self._bar is not None:
            what = f"{self._what}: {doing}" if doing else self._what
            self._bar.update(
                self._task,
                description=what,
                completed=self._cells,
                total=self._of or None,
                time=self.time(),
                refresh=True,
            )

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _minutes(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
