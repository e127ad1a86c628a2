"""Signs of life while something takes long and says nothing itself. Torch-free."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

EVERY_S = 4.0
"""Seconds until the first line, and between two."""
_doing: list[tuple[str, float, TextIO]] = []
"""What goes on, since when and where that is said; the last entry is what is said."""
_heard = 0.0
"""When something else said something last."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Within it a line on standard error says every few seconds what goes on and since when; of nested ones the inner speaks.

    Args:
        what: in a few words, e.g. `loading smollm2-135m`.
    """
    over, first = threading.Event(), not _doing
    entry = what, time.monotonic(), sys.stderr
    _doing.append(entry)
    if first:
        threading.Thread(target=_tell, args=(over,), name="signs of life", daemon=True).start()
    try:
        yield
    finally:
        _doing.remove(entry)
        over.set()


def heard() -> None:
    """Something else was said just now."""
    global _heard
    _heard = time.monotonic()


def _tell(over: threading.Event) -> None:
    while not over.wait(EVERY_S):
        now = time.monotonic()
        for what, since, place in _doing[-1:]:  # one look: the list changes meanwhile
            if now - _heard >= EVERY_S:
                print(f"{what}: {now - since:.0f} s so far", file=place, flush=True)
