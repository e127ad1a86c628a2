"""One judgement of every timed cell: usable, wide or unusable, with the reason in words. Torch-free.

- *unusable*: there is no ratio to print. Stalls took more than LOST of the pairs, the interval spans more than TOO_WIDE, the
  repeats scatter beyond the suite's limit, fewer than two pairs, no full model to stand beside, or a speed-up beyond what its
  work allows that nothing explains. `depthbench run --resume --remeasure` measures such cells again.
- *wide*: a ratio with its interval, that must not be read more closely than the interval says. It spans more than
  `intervals.WIDE`, fewer than `intervals.MIN_PAIRS` pairs, a repeat that took more than UNEVEN times the median, or other
  programs on the processor meanwhile.
- *usable*: everything else.

The rules look at how the times scatter and at what the machine did, never at which arm is faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.records import believable, quantities
from harness.records.cells import SpeedCell
from harness.records.clock import Beside, Clock
from harness.records.limits import Limits
from harness.records.measures import fixed_length
from harness.stats import intervals
from harness.stats.intervals import Interval

if TYPE_CHECKING:
    from harness.records.run import Run

USABLE, WIDE, UNUSABLE = "usable", "wide", "unusable"
LOST = 0.1
"""Share of the pairs that may be stalled or disturbed without another in their place."""
TOO_WIDE = 3.0
"""How far the ends of the interval of a usable ratio may lie apart."""
UNEVEN = 1.5
"""How many times the median a repeat that counts may take in a usable cell."""


class Usability(NamedTuple):
    """What a timed cell is good for, and why no more; the reason is empty where it is usable."""

    state: str
    reason: str


@dataclass(frozen=True)
class Judged:
    """A timed cell beside the full model's.

    Attributes:
        usability: the judgement.
        speedup: over the full model; None where there is none to print.
        geomean: the same as a mean over prompts.
        prediction: what the work allows; None where that is unknown, and for the full model itself.
        busy: other programs had more of the processor than the suite's limit.
    """

    usability: Usability
    speedup: Interval | None = None
    geomean: Interval | None = None
    prediction: believable.Prediction | None = None
    busy: bool = False


def judge(run: Run) -> dict[tuple[str, int], Judged]:
    """The judgement of every arm at every batch size, by label and batch size."""
    limits = Limits.model_validate(run.suite.get("limits") or {})
    cells = {(c["arm"]["label"], c.get("batch_size")): c for c in run.cells if c["kind"] == "speed"}
    on_cpu = str(run.suite.get("device") or "cpu") == "cpu"
    found = {}
    for arm in run.arms:
        for batch in run.batch_sizes:
            at, base = (str(arm["label"]), batch), (run.full["label"] if run.full else "", batch)
            found[at] = beside(cells.get(base), cells.get(at), limits, on_cpu=on_cpu, is_full=at == base)
    return found


def beside(
    full: SpeedCell | None, cell: SpeedCell | None, limits: Limits, *, on_cpu: bool, is_full: bool = False
) -> Judged:
    """The judgement of one cell beside the full model's at the same batch size; None stands for one that is not there."""
    why = _not_comparable(cell, full, is_full=is_full)
    if why or cell is None or full is None:
        return Judged(Usability(UNUSABLE, why))
    foreign = foreign_share(cell) if on_cpu else None
    return _judged(full, cell, Beside(Clock.of(full), Clock.of(cell)), limits, foreign, is_full=is_full)


def foreign_share(cell: SpeedCell) -> float | None:
    """The share of the processor's time that others had while a cell was timed, in the median repeat; None: not known.

    Runs without a record of every repeat have one of every process.
    """
    repeats: Sequence[Mapping[str, Any]] = [run.get("machine") or {} for run in cell.get("runs") or []]
    processes: Sequence[Mapping[str, Any]] = [one.get("cpu") or {} for one in cell.get("machine") or []]
    told = [one for one in repeats if one.get("foreign_share") is not None] or processes
    known = [(f, one.get("steal_share") or 0.0) for one in told if (f := one.get("foreign_share")) is not None]
    return statistics.median(foreign + steal for foreign, steal in known) if known else None


def _not_comparable(cell: SpeedCell | None, full: SpeedCell | None, *, is_full: bool) -> str:
    """Why a cell cannot stand beside the full model's at all; empty where it can."""
    if cell is None:
        return "not measured"
    if cell["status"] != "ok":
        return f"failed: {cell.get('error')}"
    if not fixed_length(cell):
        return "timed to a natural end, which is no speed"
    if is_full:
        return ""
    if full is None:
        return "no full model was timed at this batch size"
    if full["status"] != "ok":
        return f"the full model failed at this batch size: {full.get('error')}"
    if full.get("conditions_hash") != cell.get("conditions_hash"):
        return "timed under other conditions than full"
    return ""


def _judged(
    full: SpeedCell, cell: SpeedCell, beside: Beside, limits: Limits, foreign: float | None, *, is_full: bool
) -> Judged:
    speedup, geomean = beside.ratio_of_totals(), beside.geometric_mean()
    if not beside.planned:
        return Judged(Usability(UNUSABLE, "no repeat was timed together with the full model"))
    if len(beside.lost) > LOST * beside.planned or speedup is None:
        return Judged(Usability(UNUSABLE, _stalls(beside, is_full=is_full)))
    if not speedup.known:
        one = f"one repeat says nothing about how far it can be trusted; {intervals.MIN_PAIRS} do"
        return Judged(Usability(UNUSABLE, one))
    for each in quantities.limited():
        limit = getattr(limits, each.limit) if isinstance(each.limit, str) else each.limit
        worst = max((value for of in (full, cell) if (value := each.value(of)) is not None), default=None)
        if worst is not None and limit is not None and worst > limit:
            said = each.above or f"its {each.name} is {{:.3g}}, more than {limit:g}"
            return Judged(Usability(UNUSABLE, said.format(worst)))
    if speedup.high > TOO_WIDE * speedup.low:
        ends = f"[{speedup.low:.2f}, {speedup.high:.2f}]"
        return Judged(Usability(UNUSABLE, f"its interval spans a factor of {speedup.high / speedup.low:.1f}, {ends}"))
    prediction = None if is_full else believable.predicted(full, cell, speedup)
    if prediction is not None and prediction.unusable:
        return Judged(Usability(UNUSABLE, prediction.unusable), prediction=prediction)
    reasons = []
    if speedup.n < intervals.MIN_PAIRS:
        reasons.append(f"{speedup.n} repeats count, a verdict needs {intervals.MIN_PAIRS}")
    if speedup.high > intervals.WIDE * speedup.low:
        reasons.append(f"its interval spans a factor of {speedup.high / speedup.low:.2f}")
    sides = [("", beside.method)] + ([] if is_full else [(" of the full model", beside.full)])
    for whose, clock in sides:
        worst = max(clock.slow_repeats(), default=1.0)
        if worst > UNEVEN:
            reasons.append(f"one repeat{whose} took {_times(worst)} times the median")
    busy = foreign is not None and foreign > limits.foreign_cpu_share
    if foreign is not None and busy:
        reasons.append(f"other programs had {100 * foreign:.0f} % of the processor meanwhile")
    usability = Usability(WIDE if reasons else USABLE, "; ".join(reasons))
    return Judged(usability, speedup, geomean, prediction, busy)


def _stalls(beside: Beside, *, is_full: bool) -> str:
    """Which repeats were lost, in words."""
    slow = beside.method.slow(beside.lost)
    whose, worst = "", max(slow, default=1.0)
    if not is_full and (theirs := max(beside.full.slow(beside.lost), default=1.0)) > worst:
        whose, worst = " of the full model", theirs
    count = "one repeat" if len(beside.lost) == 1 else f"{len(beside.lost)} of {beside.planned} repeats"
    if worst > UNEVEN:
        return f"{count}{whose} took {'up to ' if len(beside.lost) > 1 else ''}{_times(worst)} times the median"
    reasons = [run.get("disturbed") for of in (beside.method, beside.full) for run in of.runs if run.get("disturbed")]
    return f"{count} {'was' if len(beside.lost) == 1 else 'were'} disturbed ({reasons[0] if reasons else 'stalled'})"


def _times(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
