"""samples.jsonl: a line for each scored example, with its output and its own scores. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.records import readings
from harness.records.cells import QualityCell
from harness.records.folder import RunStore, dumps

if TYPE_CHECKING:
    from harness.records.run import Run


def write_samples(store: RunStore, run: Run) -> Path:
    """Write samples.jsonl from the quality cells that succeeded and return it.

    One line per example, arms in the order of run.json. Scores are those of the example alone; a score that is
    undefined there is null.
    """
    order = {str(arm["label"]): i for i, arm in enumerate(run.arms)}
    cells = sorted(run.quality, key=lambda c: (str(c.get("task")), order[c["arm"]["label"]], c["id"]))
    lines = (line for cell in cells for line in _samples(cell))
    return store.write_text("samples.jsonl", (f"{dumps(line)}\n" for line in lines))


def _samples(cell: QualityCell) -> Iterator[dict[str, object]]:
    arm = cell["arm"]
    for example in cell.get("examples") or []:
        yield {
            "task": cell.get("task"),
            "label": arm.get("label"),
            "method": arm.get("method"),
            "checkpoint": arm.get("checkpoint"),
            **{key: example.get(key) for key in ("id", "prompt", "output", "references")},
            "scores": {name: _score(name, found) for name, found in (example.get("stats") or {}).items()},
            "tokens": example.get("tokens"),
            "layers_per_token": example.get("layers_per_token"),
        }


def _score(metric: str, statistics: Sequence[float]) -> float | None:
    how = readings.reading(metric)
    if how is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(how.combine(np.asarray(statistics, dtype=np.float64)))
    return round(value, 4) if math.isfinite(value) else None
