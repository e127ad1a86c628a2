"""What a worker that runs several arms says in its log: which one runs now, should the process die. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Sequence

_ARM = "[depthbench] running "


def say_arm(label: str) -> None:
    """`label` is what runs from now on."""
    os.write(2, f"{_ARM}{label}\n".encode())


def said(lines: Sequence[str]) -> tuple[list[str], str | None]:
    """The lines of a log without those that `say_arm` wrote, and the arm that ran last, if the worker said so."""
    arms = [line.removeprefix(_ARM) for line in lines if line.startswith(_ARM)]
    return [line for line in lines if not line.startswith(_ARM)], arms[-1] if arms else None
