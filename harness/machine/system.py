"""Reading what the system tells of itself: None where it does not, never 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

ROOT = Path("/")
"""Where the system's files hang."""


def attempt(read: Callable[[], T]) -> T | None:
    """What `read` returns, or None if the system does not tell."""
    try:
        return read()
    except (OSError, RuntimeError, ValueError, AttributeError, NotImplementedError, psutil.Error):
        return None


def text(path: str) -> str | None:
    """The stripped text of a system file, `sys/...` or `proc/...`; None where it is missing, unreadable or empty."""
    return attempt(lambda: (ROOT / path).read_text(encoding="utf-8", errors="replace").strip()) or None


def texts(pattern: str) -> list[str]:
    """Those of all files that match, in order; what cannot be read is left out."""
    paths = attempt(lambda: sorted(ROOT.glob(pattern))) or []
    return [found for path in paths if (found := text(str(path.relative_to(ROOT))))]


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory: this control group's count and the machine's."""
    files = ("sys/fs/cgroup/memory.events", "sys/fs/cgroup/memory/memory.oom_control", "proc/vmstat")
    lines = [line.split() for path in files for line in (text(path) or "").splitlines() if line.strip()]
    return sum(int(line[1]) for line in lines if line[0] == "oom_kill" and line[1:2] and line[1].isdigit())
