"""What an executor is: where jobs run, and what it gives back for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, TypeVarTuple

from harness.machine.record import Machine

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a job returned, and what the machine did meanwhile (`harness.machine.monitor.Monitor`)."""

    value: T
    machine: Machine


BEAT_S = 4.0
"""Seconds between two signs of life."""


class Executor(Protocol):
    """Where jobs run. `slots` jobs may be asked for at once, from as many threads."""

    slots: int
    alive: Callable[[str], None] | None = None
    """Called every few seconds while jobs run, with what a worker says that it does, where that is known."""

    def call(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments, limit_s: float | None = None
    ) -> Outcome[T]:
        """Run a function of a module, on arguments that can be pickled, in a fresh process.

        Raises:
            BadInput: the function did.
            CellFailed: it raised anything else, its process died, or it took longer than `limit_s` seconds.
        """
        ...

    def close(self) -> None:
        """Give up what is held; idempotent."""
        ...
