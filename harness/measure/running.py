"""What a worker says in its log: what it does now, and which arm runs, should the process die. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Sequence

_ARM = "[depthbench] running "


def say_arm(label: str) -> None:
    """`label` is what runs from now on."""
    os.write(2, f"{_ARM}{label}\n".encode())


_NOW = "[depthbench] now "


def say(doing: str) -> None:
    """What goes on from now on, in a few words, for whoever watches the run."""
    os.write(2, f"{_NOW}{doing}\n".encode())


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
