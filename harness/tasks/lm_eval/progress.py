"""How far the requests of a task are: a bar with the time left on a terminal, lines off one."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from harness import waiting

QUIET_S = 4.0
"""Off a terminal: seconds between two lines about one task."""


class Progress:
    """Requests of one task, done and left, on the error stream.

    Args:
        title: what is computed, e.g. `lambada_openai under full`.
        total: requests.
        hidden: say nothing.
    """

    def __init__(self, title: str, total: int, hidden: bool = False) -> None:
        self._title, self._total, self._count = title, total, 0
        self._lines = not hidden and not sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=title, unit="request", dynamic_ncols=True, disable=hidden or self._lines)
        self._began = self._said = time.monotonic()
        self._between = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._lines:
            self._between.enter_context(waiting.told(self._title))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
        self._between.close()
        if self._lines and kind is None:
            self._say(f"{self._total} requests in {time.monotonic() - self._began:.1f} s")

    def done(self, count: int) -> None:
        """So many more requests are answered."""
        self._count += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._said >= QUIET_S and self._count < self._total:
            self._said = now
            left = (now - self._began) / self._count * (self._total - self._count) if self._count else None
            when = (
                ""
                if left is None
                else f", about {left / 60:.0f} min left"
                if left >= 90
                else f", about {left:.0f} s left"
            )
            self._say(f"{self._count} of {self._total} requests{when}")

    def at(self, step: int, most: int) -> None:
        """The batch under way is at a token of at most so many."""
        self._bar.set_postfix_str(f"token {step} of {most}", refresh=False)
        self._bar.update(0)
        self.done(0)

    def _say(self, what: str) -> None:
        print(f"{self._title}: {what}", file=sys.stderr, flush=True)
        waiting.heard()
