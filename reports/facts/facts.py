"""What a run says, arm by arm: values, intervals and verdicts against the full model, comparable ones only.

Everything here is numbers and plain words; how it looks is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.records.cells import Cell, EnergyCell, MemoryCell, QualityCell, SpeedCell, place
from harness.records.differences import differences, said
from harness.records.fields import Example, Timed
from harness.records.limits import BASELINE
from harness.records.run import Run
from harness.records.summary import QUALITY_MARGIN, quality_margin
from harness.stats.intervals import Interval
from reports.facts import scores
from reports.facts.arms import Arm, arms_of
from reports.facts.metrics import MetricInfo
from reports.facts.scores import Quality
from reports.text import label, real

USABLE, WIDE, UNUSABLE = "usable", "wide", "unusable"


def judged(row: Mapping[str, Any]) -> tuple[str, str]:
    """The one judgement of a timed cell as its summary row has it, and the reason in words where it is not usable."""
    said = str(row.get("usable") or "")
    if said in (USABLE, WIDE, UNUSABLE):
        return said, str(row.get("reason") or "")
    if row.get("verdict") == UNUSABLE:
        return UNUSABLE, str(row.get("notes") or "")
    return (WIDE, "") if row.get("noisy") == "yes" else (USABLE, "")


@dataclass(frozen=True)
class Speed:
    """One arm at one batch size: the timed cell, its row of the summary, and the ratio to full where comparable."""

    cell: SpeedCell
    row: Mapping[str, Any]
    interval: Interval | None
    verdict: str

    @cached_property
    def state(self) -> tuple[str, str]:
        """Usable, wide or unusable, and why."""
        return judged(self.row)

    @property
    def unusable(self) -> str:
        """Why no ratio may be given; empty where one may."""
        state, why = self.state
        return (why or "unusable") if state == UNUSABLE else ""

    @property
    def explanation(self) -> str:
        """Why the speed-up is above its byte limit or the predicted one; empty where it is above neither."""
        return "" if self.unusable else str(self.row.get("explanation") or "")

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
class Facts:
    """All facts of one run.

    Attributes:
        speed: by (arm label, batch size); only cells that succeeded under the baseline's conditions.
        memory: by (arm label, batch size).
        energy: by (arm label, batch size).
        quality: by (arm label, task, metric).
        examples: by (arm label, task): the scored examples by id.
        refused: sentences naming the cells left out because their conditions differ, and how.
        told: sentences that many parts share, written once; see reports.view.settings.
        kept: what is worked out once and asked for often; see reports.facts.judge.
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
    kept: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rows(self) -> dict[tuple[str, Any], Mapping[str, Any]]:
        """The rows of the summary by (arm label, batch size)."""
        return {(str(row.get("label")), row.get("batch_size")): row for row in self.data.summary}

    @property
    def baseline(self) -> Arm | None:
        """The full model, if the run has one."""
        return next((arm for arm in self.arms if arm.baseline), None)

    @cached_property
    def beside(self) -> dict[Arm, Arm]:
        """The exact arms whose scores are set against another full model than the baseline: the one on their own weights."""
        found = {arm: scores.against(self.arms, arm) for arm in self.arms if arm.exact and arm.method != BASELINE}
        return {arm: other for arm, other in found.items() if other and not other.baseline}

    @cached_property
    def same(self) -> dict[str, int]:
        """Exact arms by label -> rows, scored and timed, that gave the full model's tokens, where none did not."""
        found = {}
        for arm in self.arms:
            cells = [timed.cell for (label_, _), timed in self.speed.items() if label_ == arm.label]
            if rows := scores.same_rows(self.arms, arm, self.examples, cells):
                found[arm.label] = rows
        return found

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
        return timed.interval if timed and timed.interval and timed.interval.known and not timed.unusable else None


def gather(data: Run) -> Facts:
    """Return the facts of one run; whatever is missing or failed is left out, never guessed."""
    arms = arms_of(data)
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
    tasks = scores.tasks_of(data, scored)
    batches = {c.get("batch_size") for c in data.cells if c["kind"] in ("speed", "memory")}
    return Facts(
        data=data,
        arms=arms,
        batch_sizes=tuple(sorted(b for b in batches if isinstance(b, int))),
        tasks=tasks,
        speed=speed,
        memory=memory,
        energy=energy,
        quality=scores.quality(arms, tasks, examples, {str(row.get("label")): row for row in data.summary}),
        examples=examples,
        scored=scored,
        refused=refused,
        margin=quality_margin(data.record),
        failed=tuple(c for c in data.cells if c["status"] != "ok"),
    )


def _label(cell: Cell) -> str:
    return str(cell["arm"]["label"])


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
    interval = scores.interval_of(row, "speedup", int(real(row.get("paired_repeats")) or 0))
    if interval is None or any(arm.baseline and arm.label == _label(cell) for arm in arms):
        return Speed(cell, row, None, "")
    return Speed(cell, row, interval, str(row.get("verdict") or ""))
