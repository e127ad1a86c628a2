"""Ctrl-C and SIGTERM: the driver stops and gives back what it holds, workers leave both to the driver. Torch-free."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Ctrl-C and SIGTERM as one KeyboardInterrupt, so that what is held is given back; `signal` says which it was.

    The second one ends the process at once: whoever sends it does not want to wait for the first one's cleaning up.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._process = os.getpid()

    @property
    def status(self) -> int:
        """The exit status a shell expects: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != self._process:  # a fork of it, as in a pool of some library: it ends as if nobody had watched
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def watching(self) -> Iterator[Stopping]:
        """Take over the signals that are not ignored (a shell lets background jobs ignore Ctrl-C)."""
        before: dict[signal.Signals, Any] = {}
        for each in _SIGNALS if _in_main_thread() else ():
            if signal.getsignal(each) is not signal.SIG_IGN:
                before[each] = signal.signal(each, self._stop)
        try:
            yield self
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all of them: the driver ends them.

    They inherit that the signal is held back; here it arrives afterwards.
    """
    resource_tracker.ensure_running()  # started later, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_main_thread() -> bool:
    """Only there can handlers be set; elsewhere signals are the affair of whoever owns the process."""
    return threading.current_thread() is threading.main_thread()
