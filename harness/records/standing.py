"""Which tasks say nothing: those on which the full model itself is no better than a guess. Torch-free.

What the scored cell says of itself counts (`informative`, made by `harness.tasks.lm_eval.chance`): nobody can be seen to lose what
the full model does not have, so such a task enters no verdict, here and in reports; its scores are shown all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records.cells import QualityCell

if TYPE_CHECKING:
    from harness.records.run import Run

UNINFORMATIVE = "uninformative"
"""The verdict on a task whose full model is at the level of chance."""


def at_chance(full: QualityCell | None, metric: str) -> str | None:
    """Why a metric of the full model's cell says nothing; None where it does, or where its level of chance is not known."""
    standing = ((full.get("informative") if full else None) or {}).get(metric)
    if standing is None or standing["informative"]:
        return None
    return standing["reason"] or "the full model is no better than a guess"


def first_metric(cell: QualityCell) -> str | None:
    """The metric that a task's verdict goes by."""
    return next((name for example in cell.get("examples") or [] for name in example.get("stats") or {}), None)


def of_run(run: Run) -> dict[str, str | None]:
    """Every task whose level of chance is known -> why its main metric says nothing, or None where it does."""
    found: dict[str, str | None] = {}
    for cell in run.quality:
        if run.full is None or cell["arm"]["label"] != run.full["label"]:
            continue
        metric = first_metric(cell)
        if metric is not None and metric in (cell.get("informative") or {}):
            found[str(cell.get("task"))] = at_chance(cell, metric)
    return found
