"""The two errors a user of depthbench can meet: bad input (exit status 2), a cell that failed (exit status 1), and why it did.

And `near`, the one hint about a name that is not known.
"""

import difflib
from collections.abc import Iterable, Sequence

from typing_extensions import TypedDict  # that of typing does not reach pydantic before Python 3.12

OUT_OF_MEMORY, KILLED, TIMED_OUT, EXCEPTION, BAD_INPUT, NODE_LOST = (
    "out of memory", "killed", "timed out", "exception", "bad input", "node lost",
)  # fmt: skip
NOT_TRIED = "not tried"
REASONS = (OUT_OF_MEMORY, KILLED, TIMED_OUT, EXCEPTION, BAD_INPUT, NODE_LOST, NOT_TRIED)
"""Why a cell failed, as its record says under `failure.reason`."""

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class BadInput(ValueError):
    """Something the user gave is wrong; the message is one line that names the field or file and what would be right."""


class DiskFull(BadInput):
    """A file could not be written because the disk is full or the quota used up: nothing was wrong with what the user gave."""


class CellFailed(RuntimeError):
    """A cell of a run could not be measured; the message is one line that becomes the record of the failure.

    Args:
        message: the line.
        reason: one word or two of `REASONS`, for programs.
        log: the last lines the worker process printed.
        arm: label of the arm that ran when the worker died, if that is known.
    """

    def __init__(
        self, message: str, reason: str = "exception", log: Sequence[str] = (), arm: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.log, self.arm = reason, list(log), arm


_LONGEST_NAME = 100
"""Characters of a name that are compared with others: comparing takes time that grows with their square."""


def near(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """What a name that is not known may have meant; else `otherwise`, or all that are known."""
    known = list(known)
    close = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise or f"known: {', '.join(known) or 'none'}"


def reason_of(error: BaseException | str) -> str:
    """`out of memory` for what torch, CUDA and Python raise or say when memory runs out; else `exception`."""
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    text = str(error).lower()
    # torch.OutOfMemoryError by name: this module must not import torch.
    named = not isinstance(error, str) and type(error).__name__ == "OutOfMemoryError"
    return OUT_OF_MEMORY if named or any(words in text for words in _MEMORY_WORDS) else EXCEPTION


def one_line(error: BaseException) -> str:
    """An exception as one line of at most some 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class Failure(TypedDict):
    """Why a cell failed, as it keeps it: one of REASONS, and the last lines of the worker's log, newest last."""

    reason: str
    log_tail: list[str]


def failure(error: BadInput | CellFailed) -> Failure:
    """The record of a failure as a cell keeps it."""
    if isinstance(error, CellFailed):
        return {"reason": error.reason, "log_tail": error.log}
    return {"reason": BAD_INPUT, "log_tail": []}
