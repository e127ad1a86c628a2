"""Standard output and error that are whole in every locale, and may be closed, full or left by their reader. Torch-free."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Stream(io.FileIO):
    """Standard output or error that never stops the work: what cannot be written is dropped, and why is kept in `problem`.

    A table nobody reads (`| head`) must not cost the results that are written after it.
    """

    problem = ""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.problem = error.strerror or str(error)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(data) or 0


@contextlib.contextmanager
def standard_streams() -> Iterator[list[str]]:
    """Output that is whole in every locale, and that may be closed, full or left; yields what could not be written, and why.

    Streams that somebody put in place (a test, a notebook) are left as they are. The list is filled at the end.
    """
    problems: list[str] = []
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed stream's number would be given to the next file opened, and prints would go into it
    os.close(number)
    made: list[tuple[str, str, Any, _Stream, Any]] = []
    for name, what, number in (("stdout", "standard output", 1), ("stderr", "standard error", 2)):
        before = getattr(sys, name)
        if before is None or before is getattr(sys, f"__{name}__"):
            encoding = "utf-8" if before is None else before.encoding
            raw = _Stream(number, "w", closefd=False)
            text = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
            )
            if before is not None:
                before.flush()
            setattr(sys, name, text)
            made.append((name, what, text, raw, before))
    try:
        yield problems
    finally:
        for name, what, text, raw, before in made:
            text.flush()
            if raw.problem:
                problems.append(f"{what}: {raw.problem}")
            setattr(sys, name, before)
