"""Executors by name: where the jobs of a run are done, each in a fresh process."""

from __future__ import annotations

from harness.errors import BadInput, near
from harness.run.executors.base import Executor

NAMES = ("local", "ray")


def create(name: str) -> Executor:
    """The executor of a name in `NAMES`.

    Raises:
        BadInput: no such executor, or what it needs is not installed or not there.
    """
    if name == "local":
        from harness.run.executors.local import LocalExecutor

        return LocalExecutor()
    if name == "ray":
        from harness.run.executors.ray import RayExecutor

        return RayExecutor()
    raise BadInput(f"executor: {name!r} is not known; {near(name, NAMES)}")
