"""A suite on other weights of the same names: recipes trained again, with another seed say. Torch-free."""

from __future__ import annotations

from pathlib import Path

from harness.errors import BadInput
from harness.models import bundled
from harness.suites.suite import Suite


def taken_from(suite: Suite, folder: Path) -> Suite:
    """Return the suite on those of its checkpoints that lie in a folder by their whole names, `DIR/opt-e2e-mini/calm-700`.

    What is not there stays as it is.

    Raises:
        BadInput: none is there.
    """
    names = dict.fromkeys([suite.model, *(entry.checkpoint for entry in suite.methods if entry.checkpoint)])
    there = {name: str(folder / name) for name in names if bundled.is_checkpoint(folder / name)}
    if not there:
        raise BadInput(
            f"--checkpoints: {folder} holds none of the suite's checkpoints; {folder / suite.model} would be one"
        )
    entries = tuple(
        entry.model_copy(update={"checkpoint": there.get(entry.checkpoint or "", entry.checkpoint)})
        for entry in suite.methods
    )
    return suite.model_copy(update={"model": there.get(suite.model, suite.model), "methods": entries})
