"""A second process for large reports: it makes half of the summary's rows, draws the figures and makes their files.

All of this is Python and holds the interpreter's lock, so a thread would not help. The process reads the runs itself, gets
plain data and gives plain data. What it does not give, because it was killed or its rows do not fit what was read here, is
made here. This module loads nothing large, so that the process starts before anything else does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reports.draw import glyphs
from reports.draw.style import PAGE, Sheet, markers

if TYPE_CHECKING:
    from harness.records.folder import Run
    from reports.draw.svg import Drawing
    from reports.view.parts import Figure

CELLS = 200
"""Runs with fewer cells than this are reported on before a process has started."""

Drawings = dict[str, "Drawing"]
Files = dict[str, bytes]
Rows = list[dict[str, Any]]
ArmRows = dict[int, Rows]
_LOST = (EOFError, OSError, pickle.UnpicklingError)
"""What reading from or writing to a process raises that was killed, for want of memory say."""

_SERVE = "from reports import second; second.serve()"


class Second:
    """The other end of the process, which works on the runs in `folders`."""

    def __init__(self, process: subprocess.Popen[bytes], folders: Sequence[Path]) -> None:
        self._process = process
        self._lost = False
        self.send(list(folders))

    def send(self, value: object) -> None:
        """Hand a value over; returns when it was taken, or the process has ended."""
        assert self._process.stdin is not None
        try:
            pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except _LOST:
            self._lost = True

    def receive(self) -> Any:
        """Wait for a value; None where the process has ended without giving it, and ever after."""
        assert self._process.stdout is not None
        if not self._lost:
            try:
                return pickle.load(self._process.stdout)
            except _LOST:
                self._lost = True
        return None


@contextlib.contextmanager
def started(folders: Sequence[Path]) -> Iterator[Second | None]:
    """Start the process where the runs are large and there is a second processor; None where not. It ends with the block."""
    cells = 0
    with contextlib.suppress(OSError):
        cells = sum(len(os.listdir(folder / "cells")) for folder in folders)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cells < CELLS or cores < 2:
        yield None
        return
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Second(process, folders)
        finally:
            process.kill()
            if process.stdin is not None:
                with contextlib.suppress(OSError):  # what it did not take is still in the buffer
                    process.stdin.close()


def _theirs(place: int) -> bool:
    """Whether the rows of the arm at this place are the process's share: half of them."""
    return place % 2 != 0


def summaries(second: Second | None, runs: Sequence[Run]) -> list[Rows]:
    """Return the rows of summary.csv of every run, which are those in the process's folders, in order."""
    from harness.records.summary import aligned, arm_rows, summarise

    if second is None:
        return [summarise(run) for run in runs]
    ours = [arm_rows(run, chosen=lambda place: not _theirs(place)) for run in runs]
    theirs: list[tuple[object, ArmRows]] = second.receive() or []
    if [seen for seen, _ in theirs] != list(map(_seen, runs)):
        theirs = [("", arm_rows(run, chosen=_theirs)) for run in runs]
    found = [mine | rows for mine, (_, rows) in zip(ours, theirs, strict=True)]
    return [aligned(rows[place] for place in sorted(rows)) for rows in found]


def _seen(run: Run) -> object:
    """What was read of a run: one that goes on may have changed between two readings."""
    return [(cell["id"], cell["status"]) for cell in run.cells]


def figures(
    second: Second | None, parts: Sequence[Figure], sheet: Sheet, pool: Executor
) -> tuple[Future[Drawings], Future[Files]]:
    """Return, when they are there, every figure drawn for the page by its id, and the files of `figures/` for `sheet`."""

    def draw() -> Drawings:
        if second is not None:
            second.send((parts, sheet))
            if (reply := second.receive()) is not None:
                made, known = reply
                glyphs.learn(known)
                return cast(Drawings, made)
        return _drawn(parts)

    def make_files() -> Files:
        drawn = drawings.result()
        made = None if second is None else second.receive()
        return _files(parts, drawn, sheet) if made is None else made

    drawings = pool.submit(draw)
    return drawings, pool.submit(make_files)


def _drawn(parts: Sequence[Figure]) -> Drawings:
    from reports.draw.figures import draw  # here: what draws takes long to load

    return {part.id: draw(part, PAGE) for part in parts}


def _files(parts: Sequence[Figure], drawings: Mapping[str, Drawing], sheet: Sheet) -> Files:
    from reports.write.export import figure_files

    if sheet != PAGE:
        from reports.draw.figures import draw

        drawings = {part.id: draw(part, sheet) for part in parts}
    return figure_files(parts, drawings, sheet)


def serve() -> None:
    """What the process does: give rows for folders; for figures, drawings with what was measured for them, and their files."""
    import gc

    gc.disable()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no part of what is given

    def give(value: object) -> None:
        pickle.dump(value, sink, pickle.HIGHEST_PROTOCOL)
        sink.flush()

    give(_rows(pickle.load(source)))
    import typst  # noqa: F401  # loaded, like what draws, while the view is made

    from reports.draw import figures as _  # noqa: F401

    known = glyphs.known(markers())
    parts, sheet = pickle.load(source)
    drawings = _drawn(parts)
    give((drawings, known))
    give(_files(parts, drawings, sheet))


def _rows(folders: Sequence[Path]) -> list[tuple[object, ArmRows]]:
    """What was read of each run, and the rows asked for; nothing where one cannot be read, which the other process will say."""
    from harness.errors import BadInput
    from harness.records.folder import load_run
    from harness.records.summary import arm_rows
    from reports.facts.load import unique

    try:
        runs = [load_run(folder) for folder in unique(folders)]
    except BadInput:
        return []
    return [(_seen(run), arm_rows(run, chosen=_theirs)) for run in runs]
