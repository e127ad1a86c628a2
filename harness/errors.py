"""The two errors a user of depthbench can meet: bad input (exit status 2) and a cell that failed (exit status 1)."""

from collections.abc import Sequence


class BadInput(ValueError):
    """Something the user gave is wrong; the message is one line that names the field or file and what would be right."""


class CellFailed(RuntimeError):
    """A cell of a run could not be measured; the message is one line that becomes the record of the failure.

    Args:
        message: the line.
        reason: one word or two of `harness.run.executors.local.REASONS`, for programs.
        log: the last lines the worker process printed.
        arm: label of the arm that ran when the worker died, if that is known.
    """

    def __init__(
        self, message: str, reason: str = "exception", log: Sequence[str] = (), arm: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.log, self.arm = reason, list(log), arm
