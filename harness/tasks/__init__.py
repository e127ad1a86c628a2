"""Tasks by name. Importing this package imports no task: each is loaded when it is created."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadInput, near

if TYPE_CHECKING:
    from harness.tasks.base import Task

TASKS = {
    "restaurants": "harness.tasks.restaurants:Restaurants",
    "e2e": "harness.tasks.e2e:E2E",
    "cnn_dm": "harness.tasks.cnn_dm:CnnDm",
    "tldr": "harness.tasks.tldr:Tldr",
}


def names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(TASKS)


def create(name: str, data: Path | None = None) -> Task:
    """Return the task called ``name``, reading its files (if it needs any) from the folder ``data``.

    Raises:
        BadInput: no task has this name; the message lists those there are and the nearest one.
    """
    if name not in TASKS:
        raise BadInput(f"task: {name!r} is not known; {near(name, [*TASKS, 'lm_eval:<task>'])}")
    module, _, attribute = TASKS[name].partition(":")
    task_class: type[Task] = getattr(importlib.import_module(module), attribute)
    return task_class(data)
