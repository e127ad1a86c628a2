"""Runs on one machine take turns: whoever takes times has it alone, whatever else uses it shares it. Torch-free.

Two runs at once measure each other. A job that takes times holds a lock of the device for as long as it lasts, and waits for the
jobs of other runs, timed or not; jobs that take none hold it together. The system lets go of it when a process ends, however it
ends. Between jobs nothing is held.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.errors import NOT_TRIED, CellFailed

LIMIT_S = 3600.0
_POLL_S = 0.2
_AGAIN_S = 60.0
"""Between two lines about it."""


def place(device: str) -> Path:
    """The file that stands for a device; all users of the machine share it. DEPTHBENCH_LOCKS names another folder for it."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device.startswith("cuda") else ""
    name = "".join(c if c.isalnum() else "-" for c in f"{device} {seen}".strip())
    return Path(os.environ.get("DEPTHBENCH_LOCKS") or tempfile.gettempdir()) / f"depthbench-{name}.lock"


@contextlib.contextmanager
def taken(device: str, *, timed: bool, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Hold a device for a job; waits for jobs of other runs, and says so.

    Args:
        device: that the job computes on.
        timed: the job takes times and must be alone.
        limit_s: longest wait. A job that takes none then goes on beside the others.

    Raises:
        CellFailed: another run kept the device longer than that; the times would be of both.
    """
    try:
        import fcntl
    except ImportError:  # not on this system: nothing to hold it with
        yield
        return
    descriptor = _opened(place(device))
    if descriptor is None:
        yield
        return
    try:
        mode, began, said = (fcntl.LOCK_EX if timed else fcntl.LOCK_SH), time.monotonic(), -_AGAIN_S
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except OSError:
                pass
            waited = time.monotonic() - began
            if waited - said >= _AGAIN_S:
                said = waited
                so_far = f" ({waited / 60:.0f} so far)" if waited >= _AGAIN_S else ""
                print(
                    f"another run uses {device} of this machine; waiting, {limit_s / 60:.3g} minutes at most{so_far}",
                    file=sys.stderr,
                )
            if waited >= limit_s:
                if timed:
                    why = f"another run used {device} of this machine for {limit_s / 60:.3g} minutes"
                    raise CellFailed(f"{why}; nothing is timed beside it", NOT_TRIED)
                break
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int | None:
    """The file, made if nobody has; None where it cannot be. To read it is enough for a lock, whoever made it."""
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    return None
