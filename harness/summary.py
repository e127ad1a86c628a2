"""summary.csv: one row per arm and batch size, derived from the cells alone, always in the same order. Torch-free.

Units are in the column names; MB are 10^6 bytes. What could not be measured is None in a row and empty in the file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import stats
from harness.store import Json, Run, RunStore, load_run

QUALITY_MARGIN = 1.0
"""Loss of a task's first metric that counts as keeping quality, in the metric's own points."""

COLUMNS = (
    "method", "params", "label", "checkpoint", "batch_size", "status", "ttft_ms", "tpot_ms", "tpot_p99_ms",
    "tokens_per_s", "speedup", "speedup_low", "speedup_high", "ideal_speedup", "efficiency",
    "layers_per_token", "layer_ratio", "gflops_per_token", "flops_ratio", "weight_mb_per_token", "peak_memory_mb",
    "kv_cache_mb", "energy_j_per_token",
)  # fmt: skip
EXTRA_COLUMNS = (
    "quality_verdict", "verdict", "trained", "family", "computed_layers_per_token", "noisy", "exact", "paired_repeats",
    "peak_memory_kind", "notes",
)  # fmt: skip
BASELINE = "baseline"

Row = dict[str, Any]


def summarise(run: Run, margin: float = QUALITY_MARGIN) -> list[Row]:
    """Return the rows of summary.csv: arms in the order of run.json, batch sizes rising, the same keys in every row.

    Ratios and differences are against the first arm whose method is `full`, at the same batch size, and only between
    cells with the same conditions hash. `status` is the worst of the row's cells; `verdict` rests on the timed cells
    alone. `noisy` is `yes` where the ends of the speed-up's interval lie further apart than the factor `stats.WIDE`,
    or a timed cell is marked noisy (the verdict then is `inconclusive`).

    Args:
        run: a run as read from its folder.
        margin: loss of a task's first metric, in its own points, that still counts as keeping quality.
    """
    table = _Cells(run)
    quality = {arm["label"]: _quality(table, arm, margin) for arm in table.arms}
    scores = list(dict.fromkeys(key for columns, _ in quality.values() for key in columns))
    main = [key for key in scores if not key.endswith(_LATE)]
    late = [key for key in scores if key.endswith(_LATE)]
    rows = []
    for arm in table.arms:
        columns, verdict = quality[arm["label"]]
        for batch in table.batch_sizes:
            row = _row(table, arm, batch) | columns | {"quality_verdict": verdict}
            rows.append({key: row.get(key) for key in (*COLUMNS, *main, *late, *EXTRA_COLUMNS)})
    return rows


def write_summary(store: RunStore | str | Path) -> Path:
    """Write summary.csv of a run folder from its cells and return it; BadInput if it cannot be read or written."""
    # Read first: opening a store makes a folder that is missing, and a mistyped path must leave nothing behind.
    rows = summarise(load_run(store.path if isinstance(store, RunStore) else store))
    store = store if isinstance(store, RunStore) else RunStore(store)
    return store.write_text("summary.csv", csv_text(rows))


def csv_text(rows: Sequence[Row]) -> str:
    """Return rows as CSV text: numbers with six significant digits, None empty, lines ended by a line feed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = list(rows[0]) if rows else [*COLUMNS, *EXTRA_COLUMNS]
    writer.writerow(header)
    writer.writerows([_text(row[key]) for key in header] for row in rows)
    return out.getvalue()


def speedup(full: Json, cell: Json) -> stats.Interval | None:
    """Return the realised speed-up: decode time of full over the method's, paired by process, repeat and prompt set.

    Times per generated token are compared where the two did not generate equally many. None if nothing can be paired.
    """
    ours, theirs = _times(cell), _times(full)
    shared = [key for key in theirs if key in ours]
    equal = all(ours[key][1] == theirs[key][1] for key in shared)
    # Prompt sets of one repeat are not independent of each other: they are summed, and repeats are what is resampled.
    repeats: dict[int, dict[int, list[float]]] = {}
    for process, repeat, prompt_set in sorted(shared):
        pair = repeats.setdefault(process, {}).setdefault(repeat, [0.0, 0.0])
        for i, (seconds, tokens) in enumerate(times[process, repeat, prompt_set] for times in (theirs, ours)):
            pair[i] += seconds if equal else seconds / tokens
    if not repeats:
        return None
    above, below = ([[pair[i] for pair in inner.values()] for inner in repeats.values()] for i in (0, 1))
    return stats.bootstrap_ratio(above, below)


class _Cells:
    """The cells of a run by what they belong to."""

    def __init__(self, run: Run) -> None:
        cells = run.cells
        arms = {str(arm["label"]): arm for arm in run.run.get("arms") or []}
        for cell in cells:  # an arm that run.json does not list is shown all the same
            arms.setdefault(str(cell["arm"]["label"]), cell["arm"])
        self.arms: list[Json] = list(arms.values())
        self.full = next((arm for arm in self.arms if arm.get("method") == "full"), None)
        self._by: dict[tuple[str, str, Any], Json] = {}
        for cell in cells:
            what = cell.get("task") if cell["kind"] == "quality" else cell.get("batch_size")
            self._by[cell["kind"], cell["arm"]["label"], what] = cell
        self.kinds = {cell["kind"] for cell in cells}
        suite = run.run.get("suite") or {}
        batches = {what for kind, _, what in self._by if kind != "quality"} | set(suite.get("batch_sizes") or ())
        self.batch_sizes = sorted(batch for batch in batches if isinstance(batch, int))
        planned = [str(task.get("name") if isinstance(task, Mapping) else task) for task in suite.get("tasks") or ()]
        found = sorted(str(what) for kind, _, what in self._by if kind == "quality")
        self.tasks = list(dict.fromkeys([*planned, *found]))

    def get(self, kind: str, arm: Json | None, what: Any) -> Json | None:
        """The cell, whatever its status."""
        return self._by.get((kind, arm["label"], what)) if arm else None

    def ok(self, kind: str, arm: Json | None, what: Any) -> Json | None:
        """The cell if it succeeded."""
        cell = self.get(kind, arm, what)
        return cell if cell and cell["status"] == "ok" else None

    def state(self, arm: Json, batch: int) -> tuple[str, str]:
        """Status of a row, the worst of its cells, and which cells fell short."""
        expected: list[tuple[str, Any]] = [("speed", batch)]
        expected += [("memory", batch)] if "memory" in self.kinds else []
        expected += [("quality", task) for task in self.tasks] if "quality" in self.kinds else []
        states = [(self.get(kind, arm, what) or {"status": "missing"})["status"] for kind, what in expected]
        notes = [
            f"{f'quality on {what}' if kind == 'quality' else kind} {state}"
            for (kind, what), state in zip(expected, states, strict=True)
            if state != "ok"
        ]
        return next((word for word in ("failed", "missing") if word in states), "ok"), "; ".join(notes)


def _row(table: _Cells, arm: Json, batch: int) -> Row:
    status, notes = table.state(arm, batch)
    cell, full = table.ok("speed", arm, batch), table.ok("speed", table.full, batch)
    memory = table.ok("memory", arm, batch) or {}
    row: Row = {
        "method": arm.get("method"),
        "params": "; ".join(f"{k}={v}" for k, v in (arm.get("params") or {}).items() if v is not None),
        "label": arm["label"],
        "checkpoint": arm.get("checkpoint"),
        "batch_size": batch,
        "status": status,
        "energy_j_per_token": _real(memory.get("energy_j_per_token")),
        "trained": arm.get("trained"),
        "family": arm.get("family"),
        "exact": None if arm.get("exact") is None else "yes" if arm["exact"] else "no",
        "verdict": BASELINE if arm is table.full else "inconclusive",
        **_memory(memory),
    }
    if cell:
        row |= _speed(cell)
        reference = _comparable(full, cell)
        if reference:
            row |= _against(reference, cell, is_full=arm is table.full)
        elif full:
            notes = "; ".join(filter(None, (notes, "timed under other conditions than full")))
        if cell.get("finite") is False:
            notes = "; ".join(filter(None, (notes, "logits not finite")))
    return row | {"notes": notes or None}


def _speed(cell: Json) -> Row:
    """What one timed cell says on its own."""
    batch, runs = cell["batch_size"], cell.get("runs") or []
    seconds = [second for run in runs for second in run.get("step_s") or []]
    tokens = [count for run in runs for count in run.get("step_tokens") or []]
    complete = len(seconds) == len(tokens) > 0 and all(_real(v) is not None for v in (*seconds, *tokens))
    total_s, total = (math.fsum(seconds), sum(tokens)) if complete else (math.nan, math.nan)
    ttft = [value for run in runs if (value := _real(run.get("ttft_s"))) is not None]
    # Time per token of each step; a step that yields several tokens per row (drafts) counts as its share.
    per_token = [s * batch / n for s, n in zip(seconds, tokens, strict=True) if n] if complete else []
    layers = _real(cell.get("layers_per_token"))
    return {
        "ttft_ms": _times_1000(float(np.median(ttft)) if ttft else None),
        "tpot_ms": _times_1000(_ratio(total_s, total / batch)),
        "tpot_p99_ms": _times_1000(stats.percentile(per_token, 99)),
        "tokens_per_s": _ratio(total, total_s),
        "ideal_speedup": _ratio(cell.get("ideal_full_step_s"), cell.get("ideal_step_s")),
        "layers_per_token": layers,
        "layer_ratio": _ratio(cell.get("depth"), layers),
        "gflops_per_token": _ratio(cell.get("flops_per_token"), 1e9),
        "weight_mb_per_token": _ratio(cell.get("weight_bytes_per_token"), 1e6),
        "kv_cache_mb": _ratio(cell.get("kv_cache_bytes"), 1e6),
        "computed_layers_per_token": _real(cell.get("computed_layers_per_token")),
    }


def _against(full: Json, cell: Json, *, is_full: bool) -> Row:
    """What a timed cell says against full at the same batch size."""
    interval = speedup(full, cell)
    row: Row = {"flops_ratio": _ratio(full.get("flops_per_token"), cell.get("flops_per_token"))}
    if interval is None:
        return row
    ideal = _ratio(cell.get("ideal_full_step_s"), cell.get("ideal_step_s"))
    marked = bool(cell.get("noisy") or full.get("noisy"))
    wide = interval.known and interval.high > stats.WIDE * interval.low
    return row | {
        "noisy": "yes" if marked or wide else "no" if interval.known else None,
        "speedup": _real(interval.value),
        "speedup_low": _real(interval.low),
        "speedup_high": _real(interval.high),
        "efficiency": _ratio(interval.value, ideal),
        "paired_repeats": interval.n,
        "verdict": BASELINE if is_full else "inconclusive" if marked else stats.speed_verdict(interval),
    }


def _memory(memory: Json) -> Row:
    """Peak memory and what it is of: the allocator's peak on a GPU, the resident set of the process elsewhere."""
    for key, kind in (("cuda_peak_allocated_bytes", "CUDA allocated"), ("peak_rss_bytes", "resident set")):
        if (value := _ratio(memory.get(key), 1e6)) is not None:
            return {"peak_memory_mb": value, "peak_memory_kind": kind}
    return {}


_LATE = ("_diff", "_diff_low", "_diff_high", "/layers_per_token", "/examples")


def _quality(table: _Cells, arm: Json, margin: float) -> tuple[Row, str | None]:
    """The quality columns of an arm over all tasks and its verdict (loses if it loses on one task, keeps if on all)."""
    columns: Row = {}
    verdicts: list[str] = []
    for task in table.tasks:
        cell = table.ok("quality", arm, task)
        full = None if arm is table.full else _comparable(table.ok("quality", table.full, task), cell)
        found, verdict = _task_columns(task, cell, full, margin) if cell else ({}, "inconclusive")
        columns |= found
        verdicts.append(verdict)
    if arm is table.full:
        return columns, BASELINE if columns else None
    if "quality" not in table.kinds:
        return columns, None
    if "loses quality" in verdicts:
        return columns, "loses quality"
    return columns, "keeps quality" if verdicts and set(verdicts) == {"keeps quality"} else "inconclusive"


def _task_columns(task: str, cell: Json, full: Json | None, margin: float) -> tuple[Row, str]:
    """Every metric of one task with its interval, its difference from full, and the verdict by the first metric."""
    examples = {str(example.get("id")): example for example in cell.get("examples") or []}
    others = {str(example.get("id")): example for example in (full or {}).get("examples") or []}
    shared = [key for key in examples if key in others]
    names = list(dict.fromkeys(name for example in examples.values() for name in example.get("stats") or {}))
    columns: Row = {}
    verdict = ""
    for name in names:
        how = stats.reading(name)
        own = _statistics(examples, examples, name)
        if how is None or own is None:
            continue
        columns |= _interval(f"{task}/{name}", stats.bootstrap_metric(own, how.combine))
        if name == stats.AGREEMENT:  # already a comparison with full
            continue
        difference = _difference(_statistics(examples, shared, name), _statistics(others, shared, name), how)
        if difference is not None:
            columns |= _interval(f"{task}/{name}_diff", difference)
        if name == names[0]:
            verdict = "inconclusive" if difference is None else stats.quality_verdict(difference, margin, how.better)
    columns[f"{task}/layers_per_token"] = _real(cell.get("layers_per_token"))
    columns[f"{task}/examples"] = len(examples)
    return columns, verdict or "inconclusive"


def _difference(mine: np.ndarray | None, theirs: np.ndarray | None, how: stats.Reading) -> stats.Interval | None:
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return None
    return stats.paired_difference(mine, theirs, how.combine)


def _statistics(examples: Mapping[str, Json], ids: Iterable[str], metric: str) -> np.ndarray | None:
    """Statistics [n, K] of the examples with these ids; None where there are none, or one lacks them."""
    rows = [(examples[key].get("stats") or {}).get(metric) for key in ids]
    if not rows or not rows[0] or any(not isinstance(row, list) or len(row) != len(rows[0]) for row in rows):
        return None
    return np.asarray(rows, dtype=np.float64)


def _interval(name: str, interval: stats.Interval) -> Row:
    ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {name + end: _real(value) for end, value in ends.items()}


def _comparable(full: Json | None, cell: Json | None) -> Json | None:
    """The full model's cell if both were measured under the same conditions."""
    return full if full and cell and full.get("conditions_hash") == cell.get("conditions_hash") else None


def _times(cell: Json) -> dict[tuple[int, int, int], tuple[float, float]]:
    """Decode seconds and tokens of each timed run by (process, repeat, prompt set); summed where timed twice."""
    found: dict[tuple[int, int, int], tuple[float, float]] = {}
    for run in cell.get("runs") or []:
        seconds, tokens = run.get("step_s") or [], run.get("step_tokens") or []
        total, count = _real(math.fsum(seconds)), _real(sum(tokens))
        if total and count and total > 0:
            key = (run["process"], run["repeat"], run["prompt_set"])
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + total, before[1] + count)
    return found


def _real(value: Any) -> float | None:
    """The value as a finite float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _ratio(above: Any, below: Any) -> float | None:
    """The quotient where both are finite and the divisor is not 0."""
    numerator, divisor = _real(above), _real(below)
    return numerator / divisor if numerator is not None and divisor else None


def _times_1000(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _text(value: Any) -> str:
    """One field: six significant digits for a float (no negative zero), empty for None."""
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)
