"""What an executor is: where jobs run, and what it gives back for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Outcome:
    """What a job returned, and what the machine did meanwhile (`harness.machine.monitor.Monitor`)."""

    value: Any
    machine: dict[str, Any]


class Executor(Protocol):
    """Where jobs run. `slots` jobs may be asked for at once, from as many threads."""

    slots: int

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> Outcome:
        """Run `harness.measure.jobs.<function>` (or `module:function`) in a fresh process.

        Raises:
            BadInput: the function did.
            CellFailed: it raised anything else, its process died, or it took longer than `limit_s` seconds.
        """
        ...

    def close(self) -> None:
        """Give up what is held; idempotent."""
        ...
