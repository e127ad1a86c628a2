"""What a run says, arm by arm: values, intervals and verdicts against the full model, comparable ones only.

Everything here is numbers and plain words; how it looks is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.records.cells import Cell, EnergyCell, MemoryCell, QualityCell, SpeedCell, place
from harness.records.differences import differences, said
from harness.records.fields import Example, Timed
from harness.records.measures import statistics_of
from harness.records.run import Run
from harness.records.summary import QUALITY_MARGIN, quality_margin
from harness.stats import intervals
from harness.stats.intervals import Interval
from reports.facts.metrics import MetricInfo, metric_info
from reports.text import label, real


@dataclass(frozen=True)
class Arm:
    """One arm of the run as its records describe it."""

    label: str
    method: str
    family: str
    spec: str
    checkpoint: str
    trained: str
    exact: bool
    target: float | None
    baseline: bool
    order: int

    @property
    def short(self) -> str:
        """The label in at most 60 printable characters."""
        return label(self.label)

    @property
    def untrained(self) -> bool:
        """Whether the method runs on weights that were not trained for it, though it asks for that."""
        return self.trained in ("schedule only", "untrained")


@dataclass(frozen=True)
class Speed:
    """One arm at one batch size: the timed cell, its row of the summary, and the ratio to full where comparable."""

    cell: SpeedCell
    row: Mapping[str, Any]
    interval: Interval | None
    verdict: str

    def number(self, key: str) -> float | None:
        """A number of the summary row; None where it could not be measured."""
        return real(self.row.get(key))

    def raw(self, key: str) -> float | None:
        """A number of the cell; None where it could not be measured."""
        return real(self.cell.get(key))

    @cached_property
    def runs(self) -> list[Timed]:
        """The timed repeats."""
        return self.cell.get("runs") or []

    @cached_property
    def step_s(self) -> np.ndarray:
        """Seconds of every decode step of every repeat, [n]."""
        return _numbers(r.get("step_s") for r in self.runs)

    @cached_property
    def tokens_per_step(self) -> float | None:
        """Tokens a decode step yields for each row of the batch."""
        counts = _numbers(r.get("step_tokens") for r in self.runs)
        rows = self.raw("batch_size")
        return float(counts.mean()) / rows if len(counts) and rows else None


def _numbers(lists: Iterable[Any]) -> np.ndarray:
    """The finite numbers in lists of numbers, which may be missing, one after the other, [n]."""
    values = [v for found in lists if isinstance(found, list) for v in found]
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):  # something among them is no number
        array = np.asarray([v for v in map(real, values) if v is not None], dtype=float)
    finite: np.ndarray = array[np.isfinite(array)]
    return finite


@dataclass(frozen=True)
class Quality:
    """One arm on one task under one metric."""

    value: Interval
    difference: Interval | None
    verdict: str


@dataclass(frozen=True)
class Facts:
    """All facts of one run.

    Attributes:
        speed: by (arm label, batch size); only cells that succeeded under the baseline's conditions.
        memory: by (arm label, batch size).
        energy: by (arm label, batch size).
        quality: by (arm label, task, metric).
        examples: by (arm label, task): the scored examples by id.
        refused: sentences naming the cells left out because their conditions differ, and how.
        told: sentences that many captions share, written once; see reports.view.settings.
    """

    data: Run
    arms: tuple[Arm, ...]
    batch_sizes: tuple[int, ...]
    tasks: dict[str, tuple[MetricInfo, ...]]
    speed: dict[tuple[str, int], Speed]
    memory: dict[tuple[str, int], MemoryCell]
    energy: dict[tuple[str, int], EnergyCell]
    quality: dict[tuple[str, str, str], Quality]
    examples: dict[tuple[str, str], dict[str, Example]]
    scored: dict[tuple[str, str], QualityCell]
    refused: tuple[str, ...] = ()
    margin: float = QUALITY_MARGIN
    failed: tuple[Cell, ...] = field(default=())
    told: dict[str, str] = field(default_factory=dict)

    @cached_property
    def rows(self) -> dict[tuple[str, Any], Mapping[str, Any]]:
        """The rows of the summary by (arm label, batch size)."""
        return {(str(row.get("label")), row.get("batch_size")): row for row in self.data.summary}

    @property
    def baseline(self) -> Arm | None:
        """The full model, if the run has one."""
        return next((arm for arm in self.arms if arm.baseline), None)

    @property
    def others(self) -> tuple[Arm, ...]:
        """Every arm but the baseline."""
        return tuple(arm for arm in self.arms if not arm.baseline)

    @property
    def headline_batch(self) -> int | None:
        """The batch size sentences and single-batch figures speak of: the smallest one that was timed."""
        return next((b for b in self.batch_sizes if any((arm.label, b) in self.speed for arm in self.arms)), None)

    @property
    def speed_cells(self) -> list[SpeedCell]:
        """The timed cells that are shown."""
        return [timed.cell for timed in self.speed.values()]

    def cell(self, kind: str, arm: Arm, batch: int) -> SpeedCell | MemoryCell | EnergyCell | None:
        """The cell of a kind that is shown of an arm at a batch size."""
        timed, at = self.speed.get((arm.label, batch)), (arm.label, batch)
        if kind == "speed":
            return None if timed is None else timed.cell
        return self.memory.get(at) if kind == "memory" else self.energy.get(at)

    def scored_number(self, arm: Arm, task: str, key: str) -> float | None:
        """A number of the scored cell of an arm; None where there is none."""
        cell = self.scored.get((arm.label, task))
        return None if cell is None else real(cell.get(key))

    def ratio(self, arm: Arm, batch: int | None) -> Interval | None:
        """The realised speed-up of an arm, if it was measured and has an interval."""
        timed = self.speed.get((arm.label, batch)) if batch is not None else None
        return timed.interval if timed and timed.interval and timed.interval.known else None


def gather(data: Run) -> Facts:
    """Return the facts of one run; whatever is missing or failed is left out, never guessed."""
    arms = _arms(data)
    ok, refused = _comparable([cell for cell in data.cells if cell["status"] == "ok"], arms)
    rows = {(str(row.get("label")), row.get("batch_size")): row for row in data.summary}
    speed: dict[tuple[str, int], Speed] = {}
    memory: dict[tuple[str, int], MemoryCell] = {}
    energy: dict[tuple[str, int], EnergyCell] = {}
    scored: dict[tuple[str, str], QualityCell] = {}
    for cell in ok:
        if cell["kind"] == "quality":
            if cell.get("examples"):
                scored[_label(cell), str(cell.get("task"))] = cell
        elif (batch := cell.get("batch_size")) is not None:
            key = (_label(cell), batch)
            if cell["kind"] == "speed":
                speed[key] = _speed(cell, rows.get(key, {}), arms)
            elif cell["kind"] == "memory":
                memory[key] = cell
            else:
                energy[key] = cell
    examples = {key: {e["id"]: e for e in cell["examples"]} for key, cell in scored.items()}
    tasks = _tasks(data, scored)
    batches = {c.get("batch_size") for c in data.cells if c["kind"] in ("speed", "memory")}
    return Facts(
        data=data,
        arms=arms,
        batch_sizes=tuple(sorted(b for b in batches if isinstance(b, int))),
        tasks=tasks,
        speed=speed,
        memory=memory,
        energy=energy,
        quality=_quality(
            arms, tasks, examples, {str(row.get("label")): row for row in data.summary}, quality_margin(data.record)
        ),
        examples=examples,
        scored=scored,
        refused=refused,
        margin=quality_margin(data.record),
        failed=tuple(c for c in data.cells if c["status"] != "ok"),
    )


def _label(cell: Cell) -> str:
    return str(cell["arm"]["label"])


def _arms(data: Run) -> tuple[Arm, ...]:
    return tuple(
        Arm(
            label=str(r.get("label")),
            method=str(r.get("method", "")),
            family=str(r.get("family", "")),
            spec=str(r.get("spec", "")),
            checkpoint=str(r.get("checkpoint", "")),
            trained=str(r.get("trained") or ""),
            exact=bool(r.get("exact")),
            target=real((r.get("params") or {}).get("speedup")),
            baseline=r is data.full,
            order=i,
        )
        for i, r in enumerate(data.arms)
    )


def _comparable(cells: list[Cell], arms: tuple[Arm, ...]) -> tuple[list[Cell], tuple[str, ...]]:
    """Drop cells whose conditions differ from the baseline's (without one: the first arm's) and name the difference."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["kind"], place(cell)), []).append(cell)
    rank = {arm.label: (not arm.baseline, arm.order) for arm in arms}
    kept, refused = [], []
    for group in groups.values():
        group.sort(key=lambda cell: rank[_label(cell)])
        reference = group[0]
        for cell in group:
            if cell.get("conditions_hash") == reference.get("conditions_hash"):
                kept.append(cell)
            else:
                found = differences(reference.get("conditions") or {}, cell.get("conditions") or {})
                why = said(found, "against", label) or "their hashes differ"
                refused.append(
                    f"{label(_label(cell))}, {cell.get('kind')} cell {label(cell.get('id'))}: measured "
                    "under other conditions than "
                    f"{label(_label(reference))} ({why}), so it is in no table beside it."
                )
    return kept, tuple(refused)


def _speed(cell: SpeedCell, row: Mapping[str, Any], arms: tuple[Arm, ...]) -> Speed:
    interval = _interval(row, "speedup", int(real(row.get("paired_repeats")) or 0))
    if interval is None or any(arm.baseline and arm.label == _label(cell) for arm in arms):
        return Speed(cell, row, None, "")
    return Speed(cell, row, interval, str(row.get("verdict") or ""))


def _tasks(data: Run, scored: Mapping[tuple[str, str], QualityCell]) -> dict[str, tuple[MetricInfo, ...]]:
    order = [str(t.get("name") if isinstance(t, dict) else t) for t in data.suite.get("tasks") or []]
    present = {task for _, task in scored}
    names = [t for t in order if t in present] + sorted(present.difference(order))
    found = {}
    for task in names:
        metrics = [metric_info(m) for m in _metric_names(c for (_, t), c in scored.items() if t == task)]
        if known := tuple(m for m in metrics if m is not None):  # a task without a metric has nothing to be judged by
            found[task] = known
    return found


def _metric_names(cells: Iterable[QualityCell]) -> list[str]:
    names: dict[str, None] = {}
    for cell in cells:
        names.update(dict.fromkeys(str(k) for k in (cell["examples"][0].get("stats") or {})))
    return [n for n in names if n != "agreement"] + [n for n in names if n == "agreement"]


def statistics(examples: Mapping[str, Example], ids: Iterable[str], metric: str) -> np.ndarray | None:
    """Return the sufficient statistics [n, K] of the examples with the given ids, or None where one lacks them."""
    rows = statistics_of(examples, ids, metric)
    if rows is None:
        return None
    array = np.asarray(rows, dtype=float)
    return array if np.isfinite(array).all() else None


def _quality(
    arms: tuple[Arm, ...],
    tasks: Mapping[str, tuple[MetricInfo, ...]],
    examples: Mapping[tuple[str, str], Mapping[str, Example]],
    rows: Mapping[str, Mapping[str, Any]],
    margin: float,
) -> dict[tuple[str, str, str], Quality]:
    """What summary.csv says about the arms whose examples are shown."""
    found = {}
    for arm in arms:
        for task, metrics in tasks.items():
            row, n = rows.get(arm.label, {}), len(examples.get((arm.label, task), ()))
            for metric in metrics if n else ():
                value = _interval(row, f"{task}/{metric.name}", n)
                if value is None:
                    continue
                gap = None if arm.baseline else _interval(row, f"{task}/{metric.name}_diff", n)
                verdict = intervals.quality_verdict(gap, margin, metric.better) if gap else ""
                found[arm.label, task, metric.name] = Quality(value, gap, verdict)
    return found


def _interval(row: Mapping[str, Any], key: str, n: int) -> Interval | None:
    """An interval of a summary row; its ends are NaN where the sample supports none, None where there is no value."""
    value, low, high = (real(row.get(key + end)) for end in ("", "_low", "_high"))
    if value is None:
        return None
    return Interval(value, math.nan if low is None else low, math.nan if high is None else high, n)
