"""What worker processes are made to do in tests of the executor: one way to fail each."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

from harness.errors import BadInput
from harness.measure.running import say_arm


def answer(value: object) -> object:
    return value


def refuse() -> None:
    raise BadInput("new_tokens: too many")


def fail() -> None:
    print("first line of the log")
    print("second line", file=sys.stderr)
    raise RuntimeError("the matrix\nis not square")


def kill_itself(arm: str) -> None:
    print("loading")
    say_arm("Full model")
    say_arm(arm)
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def leave(status: int) -> None:
    os._exit(status)


def hang(mark: str) -> None:
    say_arm("Slow")
    Path(mark).write_text(str(os.getpid()))
    stuck_here(600)


def stuck_here(seconds: float) -> None:
    time.sleep(seconds)


def exhaust() -> None:
    """Really run out of memory: torch asks for more than this process may have."""
    import torch

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    torch.ones(2**30)


def exhaust_python() -> None:
    raise MemoryError
