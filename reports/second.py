"""A second process for large reports: it draws half of the figures and turns all of them into files.

Drawing is Python and holds the interpreter's lock, so a thread would not help. The process gets plain data and gives bytes;
it is started before the runs are read, and has loaded what it needs when they are.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.drawing import Drawing
from reports.export import figure_files
from reports.figures import draw
from reports.parts import Figure
from reports.style import PAGE, Sheet

CELLS = 200
"""Runs with fewer cells than this are drawn before a process has started."""

Files = dict[str, bytes]
_LOST = (EOFError, OSError, pickle.UnpicklingError)
"""What reading from or writing to a process raises that was killed, for want of memory say: its share is then drawn here."""

_SERVE = "from reports import second; second.serve()"


class Second:
    """The other end of the process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def send(self, value: object) -> None:
        """Hand a value over; returns when it was taken."""
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Wait for a value.

        Raises:
            EOFError: the process has ended without giving one.
        """
        assert self._process.stdout is not None
        return pickle.load(self._process.stdout)


@contextlib.contextmanager
def started(folders: Sequence[Path]) -> Iterator[Second | None]:
    """Start the process where the runs are large and there is a second processor; None where not. It ends with the block."""
    cells = 0
    with contextlib.suppress(OSError):
        cells = sum(len(os.listdir(folder / "cells")) for folder in folders)
    if cells < CELLS or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()) < 2:
        yield None
        return
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Second(process)
        finally:
            process.kill()
            if process.stdin is not None:
                with contextlib.suppress(OSError):  # what it did not take is still in the buffer
                    process.stdin.close()


def drawn(second: Second | None, figures: Sequence[Figure], sheet: Sheet) -> dict[str, Drawing]:
    """Return every figure drawn for the page, by id; with a second process it draws half, and begins to make the files."""
    if second is None:
        return {part.id: draw(part, PAGE) for part in figures}
    heavy = sorted(figures, key=_panels, reverse=True)
    theirs, ours = heavy[1::2], heavy[::2]
    mine: dict[str, Drawing] = {}
    try:
        second.send((figures, [part.id for part in theirs], sheet))
        mine |= {part.id: draw(part, PAGE) for part in ours}
        other: dict[str, Drawing] = second.receive()
        second.send(mine)
    except _LOST:
        other = {part.id: draw(part, PAGE) for part in figures if part.id not in mine}
    return mine | other


def files(second: Second | None, figures: Sequence[Figure], drawings: Mapping[str, Drawing], sheet: Sheet) -> Files:
    """Return the files of `figures/`; see reports.export."""
    if second is not None:
        with contextlib.suppress(*_LOST):
            made: Files = second.receive()
            return made
    return _files(figures, drawings, sheet)


def _panels(part: Figure) -> int:
    """About how much work a figure is."""
    return max((len(v) for v in vars(part.plot).values() if isinstance(v, tuple)), default=1)


def _files(figures: Sequence[Figure], drawings: Mapping[str, Drawing], sheet: Sheet) -> Files:
    if sheet is not PAGE and sheet != PAGE:
        drawings = {part.id: draw(part, sheet) for part in figures}
    return figure_files(figures, drawings, sheet)


def serve() -> None:
    """What the process does: take figures, give half of them drawn, take the rest, give the files."""
    import gc

    import typst  # noqa: F401  # loaded while the runs are read

    gc.disable()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    figures, own, sheet = pickle.load(source)
    mine = {part.id: draw(part, PAGE) for part in figures if part.id in own}
    pickle.dump(mine, sink, pickle.HIGHEST_PROTOCOL)
    sink.flush()
    made = _files(figures, mine | pickle.load(source), sheet)
    pickle.dump(made, sink, pickle.HIGHEST_PROTOCOL)
    sink.flush()
