"""What a run says while it runs: one line per cell off a terminal, a bar on one, and a sign of life every few seconds.

The estimate is that of `harness.run.estimate`. Nothing is drawn by a thread: the driver wakes up anyway to look at the worker.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from harness.run.estimate import Estimate, Pace, Work


class Progress:
    """Tells what a run does.

    Args:
        stream: where to; default: standard error.
        clock: seconds, rising.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream or sys.stderr, clock
        self._began = self._job_began = clock()
        self._left: list[Work] = []
        self._estimate = Estimate(Pace.of_one_row(), 0.0)
        self._cells = self._of = 0
        self._slots = 1
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

    def plan(self, works: Sequence[Work], pace: Pace | None = None, slots: int = 1) -> None:
        """What is still to be done, so many jobs at once, and the full model's pace where it is known.

        Preparing took from the beginning to now.
        """
        self._slots = slots
        self._estimate = Estimate(pace or Pace.of_one_row(), self._clock() - self._began)
        self._left, self._of = list(works), sum(one.cells for one in works)

    def begin(self, what: str, work: Work | None = None) -> None:
        """A job begins."""
        self._what, self._job_began, self._now = what, self._clock(), work
        self._show()

    def end(self, done: Work, took_s: float | None = None) -> None:
        """A job is over; it took so long, or else since the last one began."""
        if done in self._left:
            self._left.remove(done)
        self._estimate.end(done, self._clock() - self._job_began if took_s is None else took_s)
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
        if not self._estimate.begun:
            return None
        now = self._clock()
        left = sum(map(self._estimate.seconds, self._left)) / self._slots
        if self._now in self._left:  # what runs has less left than it takes
            left -= min(self._estimate.seconds(self._now), now - self._job_began)
        return now - self._began + left

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
