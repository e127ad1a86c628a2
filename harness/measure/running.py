"""What a worker says in its log: what it does now, and which arm runs, should the process die. Torch-free."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_ARM, _NOW = "[depthbench] running ", "[depthbench] now "
_EVERY_S = 4.0
"""Between two lines that say the same with other numbers."""
_here: list[tuple[str, float]] | None = None
"""Within `aloud`: the first word of the last line, and when it was said."""


def say_arm(label: str) -> None:
    """`label` is what runs from now on."""
    _say(_ARM, "running ", label)


def say(doing: str) -> None:
    """What goes on from now on, in a few words, for whoever watches the run."""
    _say(_NOW, "", doing)


@contextmanager
def aloud() -> Iterator[None]:
    """Within it what is measured in this very process says so on standard error, as a person reads it, not too often."""
    global _here
    before, _here = _here, [("", 0.0)]
    try:
        yield
    finally:
        _here = before


def _say(prefix: str, word: str, what: str) -> None:
    if _here is None:
        os.write(2, f"{prefix}{what}\n".encode())
        return
    first, (last, when) = f"{word}{what}".split(maxsplit=1)[0], _here[0]
    if first != last or time.monotonic() - when >= _EVERY_S:
        print(f"  {word}{what}", file=sys.stderr, flush=True)
        _here[0] = (first, time.monotonic())


def doing(lines: Sequence[str]) -> str:
    """What a worker said last that it does; empty where it said nothing."""
    for line in reversed(lines):
        for prefix, word in ((_NOW, ""), (_ARM, "running ")):
            if line.startswith(prefix):
                return word + line.removeprefix(prefix)
    return ""


def said(lines: Sequence[str]) -> tuple[list[str], str | None]:
    """The lines of a log without those that `say_arm` wrote, and the arm that ran last, if the worker said so."""
    arms = [line.removeprefix(_ARM) for line in lines if line.startswith(_ARM)]
    return [line for line in lines if not line.startswith((_ARM, _NOW))], arms[-1] if arms else None
