"""Measuring unusable timed cells again: these and the full model beside them, in processes of their own. Torch-free.

What was measured before stays in the cell; its runs are marked `superseded`, with the reason the cell was unusable, and count no
more. The full model's earlier runs stand as long as its own cell is usable: the other arms are paired with those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from harness.records.cells import SpeedCell
from harness.records.fields import SpeedFields
from harness.records.measures import fixed_length
from harness.records.run import Run
from harness.records.usability import UNUSABLE


@dataclass(frozen=True)
class Again:
    """What is measured again at one batch size.

    Attributes:
        reasons: why, by the labels of the unusable arms.
        first: number of the first process.
    """

    reasons: dict[str, str]
    first: int


def wanted(run: Run) -> dict[int, Again]:
    """The unusable timed cells of a run by batch size; cells that failed are no part of it, a resumed run tries them anyway."""
    found = {}
    for batch in run.batch_sizes:
        cells = [cell for cell in run.speed if cell["batch_size"] == batch and fixed_length(cell)]
        judged = {str(cell["arm"]["label"]): run.usability[cell["arm"]["label"], batch] for cell in cells}
        reasons = {label: one.reason for label, one in judged.items() if one.state == UNUSABLE}
        last = max((timed["process"] for cell in cells for timed in cell.get("runs") or ()), default=-1)
        if reasons:
            found[batch] = Again(reasons, last + 1)
    return found


def joined(before: SpeedCell, fields: SpeedFields, reason: str | None) -> SpeedFields:
    """A cell's fields with what it held before; the earlier runs are superseded where there is a reason."""
    old = [
        run if reason is None or run.get("superseded") else {**run, "superseded": reason}
        for run in before.get("runs") or ()
    ]
    return cast(
        SpeedFields,
        {
            **fields,
            "runs": [*old, *fields["runs"]],
            "breakdown": [*(before.get("breakdown") or []), *(fields.get("breakdown") or [])],
            "reading": [*(before.get("reading") or []), *(fields.get("reading") or [])],
            "fewer_blocks": [*(before.get("fewer_blocks") or []), *(fields.get("fewer_blocks") or [])],
        },
    )
