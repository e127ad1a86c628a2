"""summary.csv: one row per arm and batch size, derived from the cells alone, always in the same order. Torch-free.

Units are in the column names; MB are 10^6 bytes. What could not be measured is None in a row and empty in the file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from harness.records import believable, measures, quantities, readings
from harness.records.arms import Arm
from harness.records.cells import Kind, MemoryCell, QualityCell, SpeedCell, by_place, place
from harness.records.fields import Example
from harness.records.folder import RunStore
from harness.records.measures import ratio as _ratio
from harness.records.measures import real as _real
from harness.records.measures import speedup as speedup
from harness.records.run_record import RunRecord
from harness.stats import intervals, scores

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.records.run import Run

QUALITY_MARGIN = 1.0
"""Loss of a task's first metric that counts as keeping quality, in its own points, where the run does not say."""

_ARM = ("method", "params", "label", "checkpoint", "batch_size", "status")
_JUDGED = ("quality_verdict", "verdict", "trained", "family")
_LAST = ("notes",)


def columns(scores: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns of summary.csv in their order; `scores` are those of the tasks."""
    first, late = (quantities.columns(late=late) for late in (False, True))
    return (*_ARM, *first, *scores, *_JUDGED, *late, *_LAST)


def words() -> set[str]:
    """Columns that hold words; all others hold numbers."""
    return {*_ARM, *_JUDGED, *_LAST, *(each.name for each in quantities.TABLE if each.words)} - {"batch_size"}


BASELINE = "baseline"

Row = dict[str, Any]
_C = TypeVar("_C", SpeedCell, QualityCell)


def quality_margin(run: RunRecord) -> float:
    """The loss the run's suite accepts, in points of a task's first metric."""
    found = _real((run.get("suite") or {}).get("quality_margin"))
    return QUALITY_MARGIN if found is None else found


def summarise(run: Run, margin: float | None = None) -> list[Row]:
    """Return the rows of summary.csv: arms in the order of run.json, batch sizes rising, the same keys in every row.

    Ratios and differences are against the first arm whose method is `full`, at the same batch size, and only between
    cells with the same conditions hash. `status` is the worst of the row's cells; `verdict` rests on the timed cells
    alone. `noisy` is `yes` where the ends of the speed-up's interval lie further apart than the factor `intervals.WIDE`,
    or the decode times of its cell or the full model's scatter beyond the suite's limit (the verdict then is
    `inconclusive`). Speed comes from generations of fixed length alone, scores and `<task>/request_ms` from those to a
    natural end.

    Args:
        run: a run as read from its folder.
        margin: loss of a task's first metric, in its own points, that still counts as keeping quality; None: the suite's.
    """
    table = _Cells(run)
    margin = quality_margin(run.record) if margin is None else margin
    rows: list[Row] = []
    for arm in table.arms:
        scored, verdict = _quality(table, arm, margin)
        own = scored | {"quality_verdict": verdict}
        rows += [_row(table, arm, batch) | own for batch in table.batch_sizes]
    scores = list(dict.fromkeys(key for row in rows for key in row if "/" in key))  # task/metric
    scores.sort(key=lambda key: key.endswith(_LATE))
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
        self._own: dict[str, tuple[measures.Times, Row]] = {}
        self.kinds = {cell["kind"] for cell in run.cells}
        self._limits = run.suite.get("limits") or {}
        batches = {what for kind, _, what in self._status if kind != "quality"} | set(
            run.suite.get("batch_sizes") or ()
        )
        self.batch_sizes = sorted(batch for batch in batches if isinstance(batch, int))
        planned = [str(t.get("name") if isinstance(t, Mapping) else t) for t in run.suite.get("tasks") or ()]
        found = sorted(str(what) for kind, _, what in self._status if kind == "quality")
        self.tasks = list(dict.fromkeys([*planned, *found]))

    def own(self, cell: SpeedCell) -> tuple[measures.Times, Row]:
        """The times of a cell and what it says on its own; kept, as those of full are asked for beside every arm."""
        if cell["id"] not in self._own:
            self._own[cell["id"]] = measures.times(cell), _speed(cell)
        return self._own[cell["id"]]

    def noisy(self, *cells: SpeedCell) -> bool:
        """Whether one of the cells is marked, or has more of a quantity than the run's limit on it."""
        for cell in cells:
            for each in quantities.limited():
                limit = _real(self._limits.get(each.limit) if isinstance(each.limit, str) else each.limit)
                value = self.own(cell)[1].get(each.name)
                if limit is not None and value is not None and value > limit:
                    return True
        return any(cell.get("noisy") for cell in cells)

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
    row: Row = {
        "method": arm.get("method"),
        "params": "; ".join(f"{k}={v}" for k, v in (arm.get("params") or {}).items() if v is not None),
        "label": arm["label"],
        "checkpoint": arm.get("checkpoint"),
        "batch_size": batch,
        "status": status,
        "trained": arm.get("trained"),
        "family": arm.get("family"),
        "exact": None if arm.get("exact") is None else "yes" if arm["exact"] else "no",
        "verdict": BASELINE if arm is table.full else "inconclusive",
        **_memory(table.memory.get(at)),
        **quantities.values("energy", table.energy.get(at)),
    }
    if cell and not measures.fixed_length(cell):
        notes = "; ".join(filter(None, (notes, "timed to a natural end, which is no speed")))
    elif cell:
        row |= table.own(cell)[1]
        reference = _comparable(full, cell)
        if reference:
            row |= _against(table, reference, cell, is_full=arm is table.full)
            notes = "; ".join(filter(None, (notes, row.pop("why", ""))))
        elif full:
            notes = "; ".join(filter(None, (notes, "timed under other conditions than full")))
        if cell.get("finite") is False:
            notes = "; ".join(filter(None, (notes, "logits not finite")))
    return row | {"notes": notes or None}


def _all_real(values: list[Any]) -> bool:
    """Whether all are finite numbers; there are hundreds of thousands in a large run, so no call for each."""
    return set(map(type, values)) <= {int, float} and all(map(math.isfinite, values))


def _speed(cell: SpeedCell) -> Row:
    """What one timed cell says on its own."""
    batch, runs = cell["batch_size"], cell.get("runs") or []
    seconds = [second for run in runs for second in run.get("step_s") or []]
    tokens = [count for run in runs for count in run.get("step_tokens") or []]
    complete = len(seconds) == len(tokens) > 0 and _all_real(seconds) and _all_real(tokens)
    total_s, total = (math.fsum(seconds), sum(tokens)) if complete else (math.nan, math.nan)
    ttft = [value for run in runs if (value := _real(run.get("ttft_s"))) is not None]
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


def _against(table: _Cells, full: SpeedCell, cell: SpeedCell, *, is_full: bool) -> Row:
    """What a timed cell says against full at the same batch size."""
    theirs, ours = table.own(full)[0], table.own(cell)[0]
    pairs = measures.paired_times(theirs, ours)
    row: Row = {"flops_ratio": _ratio(full.get("flops_per_token"), cell.get("flops_per_token"))}
    if pairs is None:
        return row
    interval = pairs.ratio_of_totals()
    ideal = _ratio(cell.get("ideal_full_step_s"), cell.get("ideal_step_s"))
    marked = table.noisy(full, cell)
    wide = interval.known and interval.high > intervals.WIDE * interval.low
    found = None if is_full else believable.predicted(full, cell, interval)
    verdict = BASELINE if is_full else "inconclusive" if marked else intervals.speed_verdict(interval)
    if found is not None and found.unusable:
        verdict = believable.UNUSABLE
    return row | {
        "why": "" if found is None else found.unusable or found.explained,
        "noisy": "yes" if marked or wide else "no" if interval.known else None,
        **_interval("speedup", interval),
        **_interval("speedup_geomean", pairs.geometric_mean()),
        "efficiency": _ratio(interval.value, ideal),
        "byte_limit": believable.byte_limit(full, cell),
        "paired_repeats": interval.n,
        "verdict": verdict,
    }


_LATE = ("_diff", "_diff_low", "_diff_high", "_mcnemar_p", "/layers_per_token", "/examples", "/request_ms")


UNINFORMATIVE = "uninformative"
"""Of a task whose full model is at the level of chance: it decides no verdict."""


def _quality(table: _Cells, arm: Arm, margin: float) -> tuple[Row, str | None]:
    """The quality columns of an arm over all tasks and its verdict (loses if it loses on one task, keeps if on all)."""
    columns: Row = {}
    verdicts: list[str] = []
    for task in table.tasks:
        cell, full = table.quality.get((arm["label"], task)), None
        if arm is not table.full and table.full:
            full = _comparable(table.quality.get((table.full["label"], task)), cell)
        found, verdict = _task_columns(task, cell, full, margin) if cell else ({}, "inconclusive")
        columns |= found
        if verdict != UNINFORMATIVE:
            verdicts.append(verdict)
    if arm is table.full:
        return columns, BASELINE if columns else None
    if "quality" not in table.kinds:
        return columns, None
    if "loses quality" in verdicts:
        return columns, "loses quality"
    return columns, "keeps quality" if verdicts and set(verdicts) == {"keeps quality"} else "inconclusive"


def _task_columns(task: str, cell: QualityCell, full: QualityCell | None, margin: float) -> tuple[Row, str]:
    """Every metric of one task with its interval, its difference from full, and the verdict by the first metric."""
    examples = {str(example.get("id")): example for example in cell.get("examples") or []}
    others = {str(example.get("id")): example for example in (full.get("examples") if full else None) or []}
    shared = [key for key in examples if key in others]
    names = list(dict.fromkeys(name for example in examples.values() for name in example.get("stats") or {}))
    columns: Row = {}
    verdict = ""
    for name in names:
        how = readings.reading(name)
        own = _statistics(examples, examples, name)
        if how is None or own is None:
            continue
        columns |= _interval(f"{task}/{name}", intervals.bootstrap_metric(own, how.combine))
        if name == readings.AGREEMENT:  # already a comparison with full
            continue
        mine, theirs = (_statistics(of, shared, name) for of in (examples, others))
        difference, p = _difference(mine, theirs, how)
        if p is not None:
            columns[f"{task}/{name}_mcnemar_p"] = p
        if difference is not None:
            columns |= _interval(f"{task}/{name}_diff", difference)
        if name == names[0]:
            standing = (full.get("informative") or {}).get(name) if full else None
            if standing is not None and not standing["informative"]:
                verdict = UNINFORMATIVE  # nobody can lose what the full model does not have
            else:
                verdict = (
                    "inconclusive" if difference is None else intervals.quality_verdict(difference, margin, how.better)
                )
    columns[f"{task}/layers_per_token"] = _real(cell.get("layers_per_token"))
    columns[f"{task}/examples"] = len(examples)
    columns[f"{task}/request_ms"] = measures.request_ms(cell)
    return columns, verdict or "inconclusive"


def _difference(
    mine: np.ndarray | None, theirs: np.ndarray | None, how: readings.Reading
) -> tuple[intervals.Interval | None, float | None]:
    """The paired difference, and McNemar's p-value where the scores are right or wrong."""
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return None, None
    found = scores.Paired(mine, theirs, how.combine)
    return found.difference, found.p if found.test == scores.MCNEMAR else None


def _statistics(examples: Mapping[str, Example], ids: Iterable[str], metric: str) -> np.ndarray | None:
    """Statistics [n, K] of the examples with these ids; None where there are none, or one lacks them."""
    rows = measures.statistics_of(examples, ids, metric)
    return None if rows is None else np.asarray(rows, dtype=np.float64)


def _interval(name: str, interval: intervals.Interval) -> Row:
    ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {name + end: _real(value) for end, value in ends.items()}


def _comparable(full: _C | None, cell: _C | None) -> _C | None:
    """The full model's cell if both were measured under the same conditions."""
    return full if full and cell and full.get("conditions_hash") == cell.get("conditions_hash") else None


def _times_1000(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _text(value: Any) -> str:
    """One field: six significant digits for a float (no negative zero), empty for None."""
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)
