"""summary.csv: one row per arm and batch size, derived from the cells alone, always in the same order. Torch-free.

Units are in the column names; MB are 10^6 bytes. What could not be measured is None in a row and empty in the file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import believable, clock, measures, quantities
from harness.records.arms import Arm, rests_on
from harness.records.cells import Kind, MemoryCell, SpeedCell, by_place, place
from harness.records.folder import RunStore
from harness.records.measures import ratio as _ratio
from harness.records.measures import real as _real
from harness.records.run_record import RunRecord
from harness.records.scores import BASELINE, LATE, comparable, interval_columns, quality
from harness.records.usability import UNUSABLE, WIDE, Judged
from harness.stats import intervals

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.records.run import Run

QUALITY_MARGIN = 1.0
"""Loss of a task's first metric that counts as keeping quality, in its own points, where the run does not say."""

_ARM = ("method", "params", "label", "checkpoint", "batch_size", "status")
_JUDGED = ("quality_verdict", "verdict", "trained", "family", "learned_by")
_LEARNED = ("learned_s",)
_LAST = ("notes",)


def columns(scores: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns of summary.csv in their order; `scores` are those of the tasks."""
    first, late = (quantities.columns(late=late) for late in (False, True))
    return (*_ARM, *first, *scores, *_JUDGED, *_LEARNED, *late, *_LAST)


def words() -> set[str]:
    """Columns that hold words; all others hold numbers."""
    return {*_ARM, *_JUDGED, *_LAST, *(each.name for each in quantities.TABLE if each.words)} - {"batch_size"}


Row = dict[str, Any]


def quality_margin(run: RunRecord) -> float:
    """The loss the run's suite accepts, in points of a task's first metric."""
    found = _real((run.get("suite") or {}).get("quality_margin"))
    return QUALITY_MARGIN if found is None else found


def summarise(run: Run, margin: float | None = None) -> list[Row]:
    """Return the rows of summary.csv: arms in the order of run.json, batch sizes rising, the same keys in every row.

    Ratios and differences are against the first arm whose method is `full`, at the same batch size, and only between
    cells with the same conditions hash. `status` is the worst of the row's cells; `verdict` rests on the timed cells
    alone. `usable` says what the timed cell is good for (`harness.records.usability`) and `reason` why no more: an unusable one
    has no speed-up, and its verdict is `unusable`. `explanation` stands where a speed-up lies above its byte limit or the
    predicted one. `learned_by` and `learned_s` say what an arm's parameters were learned by beforehand and what that took.
    Speed comes from generations of fixed length alone, scores and `<task>/request_ms` from those to a natural end.

    Args:
        run: a run as read from its folder.
        margin: loss of a task's first metric, in its own points, that still counts as keeping quality; None: the suite's.
    """
    table = _Cells(run)
    margin = quality_margin(run.record) if margin is None else margin
    rows: list[Row] = []
    for arm in table.arms:
        scored, verdict = quality(arm, table.full, table.quality, table.tasks, margin, scored="quality" in table.kinds)
        own = scored | {"quality_verdict": verdict}
        rows += [_row(table, arm, batch) | own for batch in table.batch_sizes]
    scores = list(dict.fromkeys(key for row in rows for key in row if "/" in key))  # task/metric
    scores.sort(key=lambda key: key.endswith(LATE))
    return [{key: row.get(key) for key in columns(scores)} for row in rows]


def write_summary(store: RunStore, run: Run) -> Path:
    """Write summary.csv of a run folder and return it; BadInput if it cannot be written."""
    return store.write_text("summary.csv", csv_text(run.summary))


def frame(rows: Sequence[Row]) -> DataFrame:
    """Rows as a pandas table: numbers are float64, batch sizes int64, the rest text; what is missing is NaN."""
    import pandas  # here: it takes longer to load than all that reads a run

    table = pandas.DataFrame(rows, columns=list(rows[0]) if rows else list(columns()))
    text = [name for name in table if name in words()]
    numbers = [name for name in table if name not in text]
    table[text] = table[text].astype(object).where(table[text].notna(), math.nan)
    return table.astype(dict.fromkeys(numbers, "float64")).astype({"batch_size": "int64"})


def csv_text(rows: Sequence[Row]) -> str:
    """Return rows as CSV text: numbers with six significant digits, None empty, lines ended by a line feed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = list(rows[0]) if rows else list(columns())
    writer.writerow(header)
    writer.writerows([_text(row[key]) for key in header] for row in rows)
    return out.getvalue()


class _Cells:
    """The cells of a run by what they belong to."""

    def __init__(self, run: Run) -> None:
        self.arms, self.full = run.arms, run.full
        self.speed, self.memory, self.energy = by_place(run.speed), by_place(run.memory), by_place(run.energy)
        self.quality = by_place(run.quality)
        self._status = {(cell["kind"], cell["arm"]["label"], place(cell)): cell["status"] for cell in run.cells}
        self.kinds = {cell["kind"] for cell in run.cells}
        self.judged, self.batch_sizes = run.judged, run.batch_sizes
        planned = [str(t.get("name") if isinstance(t, Mapping) else t) for t in run.suite.get("tasks") or ()]
        found = sorted(str(what) for kind, _, what in self._status if kind == "quality")
        self.tasks = list(dict.fromkeys([*planned, *found]))

    def state(self, arm: Arm, batch: int) -> tuple[str, str]:
        """Status of a row, the worst of its cells, and which cells fell short."""
        expected: list[tuple[Kind, int | str]] = [("speed", batch)]
        alone: tuple[Kind, ...] = ("memory", "energy")
        expected += [(kind, batch) for kind in alone if kind in self.kinds]
        expected += [("quality", task) for task in self.tasks] if "quality" in self.kinds else []
        states = [self._status.get((kind, arm["label"], what), "missing") for kind, what in expected]
        notes = [
            f"{f'quality on {what}' if kind == 'quality' else kind} {state}"
            for (kind, what), state in zip(expected, states, strict=True)
            if state != "ok"
        ]
        return next((word for word in ("failed", "missing") if word in states), "ok"), "; ".join(notes)


def _row(table: _Cells, arm: Arm, batch: int) -> Row:
    status, notes = table.state(arm, batch)
    at = arm["label"], batch
    cell, full = table.speed.get(at), table.full and table.speed.get((table.full["label"], batch))
    learned, learned_s = rests_on(arm)
    row: Row = {
        "method": arm.get("method"),
        "params": "; ".join(f"{k}={v}" for k, v in (arm.get("params") or {}).items() if v is not None),
        "label": arm["label"],
        "checkpoint": arm.get("checkpoint"),
        "batch_size": batch,
        "status": status,
        "trained": arm.get("trained"),
        "family": arm.get("family"),
        "learned_by": learned or None,
        "learned_s": learned_s,
        "exact": None if arm.get("exact") is None else "yes" if arm["exact"] else "no",
        "verdict": BASELINE if arm is table.full else "inconclusive",
        **_memory(table.memory.get(at)),
        **quantities.values("energy", table.energy.get(at)),
    }
    if cell and not measures.fixed_length(cell):
        notes = "; ".join(filter(None, (notes, "timed to a natural end, which is no speed")))
    elif cell:
        row |= _speed(cell)
        reference = comparable(full, cell)
        if reference:
            row |= _against(table.judged[at], reference, cell, is_full=arm is table.full)
        elif full:
            notes = "; ".join(filter(None, (notes, "timed under other conditions than full")))
        if cell.get("finite") is False:
            notes = "; ".join(filter(None, (notes, "logits not finite")))
    if cell:
        row["usable"], row["reason"] = table.judged[at].usability
        if row["usable"] == UNUSABLE and arm is not table.full:
            row["verdict"] = UNUSABLE
    return row | {"notes": notes or None, "reason": row.get("reason") or None}


def _speed(cell: SpeedCell) -> Row:
    """What one timed cell says on its own."""
    batch, found = cell["batch_size"], clock.Clock.of(cell)
    seconds = [second for run in found.counted for second in run["step_s"]]
    tokens = [count for run in found.counted for count in run["step_tokens"]]
    complete = len(seconds) == len(tokens) > 0
    total_s, total = (math.fsum(seconds), sum(tokens)) if complete else (math.nan, math.nan)
    ttft = [value for run in found.counted if (value := _real(run.get("ttft_s"))) is not None]
    # Time per token of each step; a step that yields several tokens per row (drafts) counts as its share.
    per_token = [s * batch / n for s, n in zip(seconds, tokens, strict=True) if n] if complete else []
    return {
        **quantities.values("speed", cell),
        "ttft_ms": _times_1000(float(np.median(ttft)) if ttft else None),
        "tpot_ms": _times_1000(_ratio(total_s, total / batch)),
        "tpot_p99_ms": _times_1000(intervals.percentile(per_token, 99)),
        "tokens_per_s": _ratio(total, total_s),
        **measures.breakdown(cell),
    }


def _memory(cell: MemoryCell | None) -> Row:
    """Peak memory, what it is of, and what else was read."""
    return {
        **quantities.values("memory", cell),
        "peak_memory_kind": None if cell is None else measures.peak(cell)[1],
    }


def _against(judged: Judged, full: SpeedCell, cell: SpeedCell, *, is_full: bool) -> Row:
    """What a timed cell says against full at the same batch size; no ratio of times where it is unusable."""
    row: Row = {
        "flops_ratio": _ratio(full.get("flops_per_token"), cell.get("flops_per_token")),
        "byte_limit": believable.byte_limit(full, cell),
    }
    state, interval = judged.usability.state, judged.speedup
    if state == UNUSABLE or interval is None or judged.geomean is None:
        return row
    verdict = intervals.speed_verdict(interval, wide=state == WIDE)
    return row | {
        "explanation": None if is_full else believable.explanation(full, cell, interval) or None,
        **interval_columns("speedup", interval),
        **interval_columns("speedup_geomean", judged.geomean),
        "efficiency": _ratio(interval.value, measures.predicted_speedup(cell)),
        "paired_repeats": interval.n,
        "verdict": BASELINE if is_full else verdict,
    }


def _times_1000(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _text(value: Any) -> str:
    """One field: six significant digits for a float (no negative zero), empty for None."""
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)
