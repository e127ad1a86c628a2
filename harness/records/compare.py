"""Two runs, cell by cell: how they differ, with an interval, and what that shows. Torch-free.

Compared are the speed-up over the full model (paired inside each run), the time per token, and the scores (paired by example).
A speed-up or time of run B over that of run A is a ratio of two independent estimates; its interval comes from theirs by the
method of variance estimates recovery on the log scale (Zou and Donner 2008, Statistics in Medicine 27:1693, section 2).

Cells that are unusable in either run, or were timed beside other programs, are not compared: their times are the machine's.
A verdict needs both: an interval that excludes no change, and a change of at least the practical threshold. `no difference`
means that the whole interval lies within the threshold; everything else is `ambiguous`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.errors import BadInput, near
from harness.records import believable, readings, standing, summary
from harness.records.cells import Cell, QualityCell, SpeedCell, place
from harness.records.clock import Clock
from harness.records.compare_rules import SPEEDUP, TPOT, Change, Refusal, broken, grouped, rule
from harness.records.differences import differences, said
from harness.records.fields import Conditions
from harness.records.run import Run, load
from harness.records.seeds import MAY_DIFFER, Beside, beside_seed
from harness.records.standing import UNINFORMATIVE
from harness.records.usability import UNUSABLE
from harness.stats import intervals, scores
from harness.stats.intervals import Interval

FASTER, SLOWER, BETTER, WORSE = "faster", "slower", "better", "worse"
SAME, AMBIGUOUS = "no difference", "ambiguous"

OWN = {"kernels": "chosen by measuring, anew in every run"}
"""Conditions that each run settles for itself: they are equal within a run and may differ between two."""

PROCESSOR = ("cpu", "device_name", "compiled_kernels")
"""Conditions that say which processor a run was on."""


@dataclass(frozen=True)
class Comparison:
    """Every change, what could not be compared and why, and the rules of `--fail-if` that hold, one line each."""

    changes: tuple[Change, ...]
    refused: tuple[Refusal, ...]
    broken: tuple[str, ...]
    seeds: tuple[Beside, ...] = ()
    """Differences from the full model beside what the seed does, where that was asked for."""
    processors: str = ""
    """How the processors differ; empty where they do not. Times on two processors are not compared, only ratios and scores."""

    @property
    def headline(self) -> str:
        """What was found, in one line: how many quantities changed, and which way; what says nothing or was not compared."""
        counts = Counter(change.verdict for change in self.changes)
        shown = [f"{counts[verdict]} {verdict}" for verdict in (SLOWER, WORSE, FASTER, BETTER) if counts[verdict]]
        total = len(self.changes)
        text = f"{', '.join(shown) or 'no change shown'} of {total} quantities compared"
        rest = [f"{counts[verdict]} {verdict}" for verdict in (SAME, AMBIGUOUS, UNINFORMATIVE) if counts[verdict]]
        if self.refused:
            rest.append(f"{len(self.refused)} cells not compared")
        if not total:
            text = "nothing could be compared"
        return f"{text} ({', '.join(rest)})" if rest else text

    @property
    def refusals(self) -> list[str]:
        """What could not be compared, cells of one reason in one line."""
        return grouped(self.refused)


def compare(
    before: str | Path,
    after: str | Path,
    *,
    threshold: float = 0.05,
    margin: float = summary.QUALITY_MARGIN,
    ignore: Sequence[str] = (),
    fail_if: Sequence[str] = (),
    seeds: bool = False,
) -> Comparison:
    """Compare two run folders.

    Args:
        before: the run that is compared with.
        after: the run that is judged.
        threshold: smallest relative change of speeds and times worth speaking of.
        margin: the same for scores, in their own points.
        ignore: names of conditions that may differ.
        fail_if: rules such as `speedup drop > 5%`.
        seeds: the runs differ in a seed: what follows from it may differ, and `Comparison.seeds` says which differences are larger.

    Raises:
        BadInput: a folder holds no run or one of an unknown schema version; a rule cannot be read, or speaks of nothing that
            both runs measured.
    """
    if not 0 < threshold < 1:
        raise BadInput(f"threshold: {100 * threshold:g} is out of range; more than 0 and less than 100 percent")
    rules = [rule(text) for text in fail_if]
    runs = load(before), load(after)
    apart = _processors(*runs)
    pairs, refused = _pairs(*runs, {*ignore}, {*(PROCESSOR if apart else ()), *(MAY_DIFFER if seeds else ())})
    changes: list[Change] = []
    for ours, theirs in pairs:
        if ours["kind"] == "speed" and theirs["kind"] == "speed":
            changes += _speeds(ours, theirs, runs, threshold, times=not apart)
        elif ours["kind"] == "quality" and theirs["kind"] == "quality":
            changes += _scores(ours, theirs, runs, margin)
    beside = tuple(beside_seed(*runs)) if seeds else ()
    return Comparison(tuple(changes), tuple(refused), tuple(broken(rules, changes, refused)), beside, apart)


def _processors(before: Run, after: Run) -> str:
    """How the processors of two runs differ in what both say of them; empty where they do not."""
    return said(differences(believable.processor(before), believable.processor(after), recorded=True), show=str)


def table(compared: Comparison) -> list[tuple[str, ...]]:
    """The changes as rows of text, the header first."""
    rows: list[tuple[str, ...]] = [("label", "where", "what", "before", "after", "change [95 %]", "verdict")]
    for change in compared.changes:
        digits = 3 if change.relative else 2
        low, high = (f"{v:.{digits}f}" if math.isfinite(v) else "?" for v in (change.effect.low, change.effect.high))
        sign = "x " if change.relative else "+" if change.effect.value >= 0 else ""
        said = f"{sign}{change.effect.value:.{digits}f} [{low}, {high}]"
        values = (f"{change.before:.4g}", f"{change.after:.4g}")
        rows.append((change.label, change.where, change.metric, *values, said, change.verdict))
    return rows


def ratio_verdict(effect: Interval, threshold: float, up: str = FASTER, down: str = SLOWER) -> str:
    """What a ratio after/before shows, 1 being no change; `up` where it is above 1."""
    edge = 1 + threshold
    if not effect.known or effect.n < intervals.MIN_PAIRS:
        return AMBIGUOUS
    if 1 / edge <= effect.low and effect.high <= edge:
        return SAME
    if effect.low > 1 and effect.value >= edge:
        return up
    if effect.high < 1 and effect.value <= 1 / edge:
        return down
    return AMBIGUOUS


def difference_verdict(effect: Interval, margin: float, better: str) -> str:
    """What a difference after - before of a score shows; `better` is `higher` or `lower`."""
    if not effect.known or effect.n < intervals.MIN_EXAMPLES:
        return AMBIGUOUS
    if -margin <= effect.low and effect.high <= margin:
        return SAME
    rises, falls = (BETTER, WORSE) if better == "higher" else (WORSE, BETTER)
    if effect.low > 0 and effect.value >= margin:
        return rises
    if effect.high < 0 and effect.value <= -margin:
        return falls
    return AMBIGUOUS


def ratio(after: Interval, before: Interval) -> Interval:
    """The ratio of two independent estimates with its interval; see the module's docstring."""
    n = min(after.n, before.n)
    value = after.value / before.value
    if not (after.known and before.known and min(after.low, before.low) > 0):
        return Interval(value, math.nan, math.nan, n)
    a, a_low, a_high = map(math.log, (after.value, after.low, after.high))
    b, b_low, b_high = map(math.log, (before.value, before.low, before.high))
    down, up = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
    return Interval(value, math.exp(a - b - down), math.exp(a - b + up), n)


def _pairs(
    before: Run, after: Run, ignore: Collection[str], free: Collection[str]
) -> tuple[list[tuple[Cell, Cell]], list[Refusal]]:
    """Cells that both runs measured under the same conditions, and those of the first run that have no partner.

    What is in `ignore` must be a condition; `free` ones may differ whether they were recorded or not.
    """
    known = {key for run in (before, after) for cell in run.cells for key in cell.get("conditions") or {}}
    if unknown := sorted(set(ignore) - known):
        raise BadInput(f"ignore: no condition {unknown[0]!r}; {near(unknown[0], sorted(known))}")
    others = {_key(cell): cell for cell in after.cells}
    pairs: list[tuple[Cell, Cell]] = []
    refused = []
    for cell in sorted(before.cells, key=_order(before)):
        if cell["kind"] not in ("speed", "quality") or cell["status"] != "ok":
            continue
        other = others.get(_key(cell))
        why = ""
        if other is None:
            why = "not in the second run"
        elif other["status"] != "ok":
            why = f"failed in the second run ({other.get('error')})"
        elif apart := differences(
            _held(cell, before), _held(other, after), ignore={*ignore, *free, *OWN}, recorded=True
        ):
            why = f"measured under other conditions: {said(apart)}"
        elif cell["kind"] == "speed":
            why = _not_quiet(cell, before, "first") or _not_quiet(cell, after, "second")
        if why or other is None:
            speed = cell["kind"] == "speed"
            where = f"batch {cell.get('batch_size')}" if speed else f"task {cell.get('task')}"
            refused.append(Refusal(cell["kind"], cell["arm"]["label"], where, why))
        else:
            pairs.append((cell, other))
    return pairs, refused


def _held(cell: Cell, run: Run) -> Conditions:
    """The conditions of a cell; what an older version kept in run.json alone is taken from there."""
    environment, suite = run.record.get("environment") or {}, run.suite
    versions, cpu = environment.get("versions") or {}, (environment.get("cpu") or {}).get("model")
    on_cpu = str(suite.get("device", "cpu")) == "cpu"
    older = {
        "cpu": cpu,
        "device_name": cpu if on_cpu else ((environment.get("gpu") or [{}])[0] or {}).get("name"),
        "torch": versions.get("torch"),
        "transformers": versions.get("transformers"),
        "seed": suite.get("seed"),
    }
    known = cast(Conditions, {key: value for key, value in older.items() if value is not None})
    return {**known, **(cell.get("conditions") or {})}


def _key(cell: Cell) -> tuple[Any, ...]:
    return cell["kind"], cell["arm"]["label"], place(cell)


def _order(run: Run) -> Any:
    rank = {arm["label"]: i for i, arm in enumerate(run.arms)}
    return lambda cell: (cell["kind"] != "speed", cell.get("batch_size") or 0, rank[cell["arm"]["label"]])


def _not_quiet(cell: SpeedCell, run: Run, which: str) -> str:
    """Why the times of a cell say nothing about another run's; empty where they do."""
    found = run.judged[cell["arm"]["label"], cell["batch_size"]]
    if found.usability.state == UNUSABLE:
        return f"not usable in the {which} run: {found.usability.reason}"
    if found.busy:
        return f"measured beside other programs in the {which} run ({found.usability.reason})"
    return ""


def _speeds(before: SpeedCell, after: SpeedCell, runs: Sequence[Run], threshold: float, *, times: bool) -> list[Change]:
    label, where = before["arm"]["label"], f"batch {before['batch_size']}"
    found = []
    taken = [Clock.of(cell).seconds_per_token() for cell in (before, after)] if times else [None, None]
    if taken[0] and taken[1]:
        effect = ratio(taken[1], taken[0])
        verdict = ratio_verdict(effect, threshold, up=SLOWER, down=FASTER)
        values = (1000 * taken[0].value, 1000 * taken[1].value)
        found.append(Change(label, where, TPOT, *values, effect, True, verdict))
    if any(run.full and run.full["label"] == label for run in runs):
        return found
    ups = [run.judged[label, before["batch_size"]].speedup for run in runs]
    if ups[0] and ups[1]:
        effect = ratio(ups[1], ups[0])
        verdict = ratio_verdict(effect, threshold)
        found.append(Change(label, where, SPEEDUP, ups[0].value, ups[1].value, effect, True, verdict))
    return found


def _scores(before: QualityCell, after: QualityCell, runs: Sequence[Run], margin: float) -> list[Change]:
    label, task = before["arm"]["label"], str(before["task"])
    # A task that the full model cannot do in one of the runs shows neither loss nor gain.
    silent = any(standing.of_run(run).get(task) for run in runs)
    ours, theirs = ({e["id"]: e.get("stats") or {} for e in cell["examples"]} for cell in (before, after))
    shared = [key for key in ours if key in theirs]
    found = []
    for metric in next(iter(ours.values()), {}):
        how = readings.reading(metric)
        rows = [(ours[key].get(metric), theirs[key].get(metric)) for key in shared]
        if how is None or not rows or any(a is None or b is None or len(a) != len(b) for a, b in rows):
            continue
        a, b = (np.asarray([row[side] for row in rows], dtype=np.float64) for side in (0, 1))
        effect = scores.Paired(b, a, how.combine).difference
        with np.errstate(divide="ignore", invalid="ignore"):
            values = (float(how.combine(a.sum(0))), float(how.combine(b.sum(0))))
        if all(map(math.isfinite, values)):
            verdict = UNINFORMATIVE if silent else difference_verdict(effect, margin, how.better)
            found.append(Change(label, f"{len(rows)} examples", f"{task}/{metric}", *values, effect, False, verdict))
    return found
