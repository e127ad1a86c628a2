"""The cells that tables share: names with their sign, numbers with even decimals, values over their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from harness.records import beyond
from harness.records.usability import UNUSABLE
from harness.stats import intervals
from reports.facts.arms import Arm
from reports.facts.facts import Facts, Speed
from reports.facts.judge import BETTER, KEEPS, LOSES, SMALL, Judged
from reports.text import MISSING, counted, decimals_for, fixed, label, real, signed, span
from reports.view.parts import Cell, Swatch

TONES = {"faster": "good", BETTER: "good", KEEPS: "good", SMALL: "good", "slower": "bad", LOSES: "bad"}
EMPTY = Cell(MISSING)
MARK = "†"
"""After a speed-up above its byte limit or the predicted one; the note under the table says why."""


def swatch(arm: Arm) -> Swatch:
    """The sign of an arm."""
    return Swatch(arm.method, arm.untrained, "control" if arm.control and not arm.baseline else arm.family)


def name_cell(arm: Arm, detail: str = "") -> Cell:
    """The cell that heads an arm's row; what its weights and its parameters cost stands in every table."""
    detail = "; ".join(filter(None, (detail, arm.training, arm.learned)))
    return Cell(arm.short, detail, sort=float(arm.order), swatch=swatch(arm))


def number_cells(numbers: Sequence[Any], decimals: int | None = None, divisor: float = 1.0) -> list[Cell]:
    """Cells of one column: the same decimals throughout, a dash where there is no value."""
    found = [None if (n := real(v)) is None else n / divisor for v in numbers]
    places = decimals_for(found) if decimals is None else decimals
    return [EMPTY if n is None else Cell(fixed(n, places), sort=n) for n in found]


def interval_cell(interval: intervals.Interval | None, decimals: int, *, plus: bool = False, tone: str = "") -> Cell:
    """Value with its interval on the second line."""
    if interval is None or real(interval.value) is None:
        return EMPTY
    text = signed(interval.value, decimals) if plus else fixed(interval.value, decimals)
    low, high = real(interval.low), real(interval.high)
    ends = None if low is None or high is None else (low, high)
    return Cell(text, span(low, high, decimals, plus=plus), float(interval.value), tone, ends=ends)


def ratio_cell(arm: Arm, timed: Speed | None) -> Cell:
    """The realised speed-up of an arm at one batch size; what an unusable cell is unusable for, in place of a number."""
    if timed is None:
        return EMPTY
    if timed.unusable:
        return Cell(UNUSABLE, label(timed.unusable, 120), "~", "open")
    if arm.baseline:
        return Cell("1", "baseline", 1.0)
    if timed.interval is None:
        return EMPTY
    cell = interval_cell(timed.interval, 2, tone=tone_of(timed.verdict))
    return replace(cell, text=f"{cell.text}{MARK}") if timed.explanation and cell.sort is not None else cell


def marks(facts: Facts, pairs: Iterable[tuple[Arm, int]]) -> list[str]:
    """What MARK means in a table that shows the speed-ups of these arms at these batch sizes; empty where none has it."""
    timed = ((arm, batch, facts.speed.get((arm.label, batch))) for arm, batch in pairs)
    told = beyond.sentences(
        {"label": arm.short, "batch_size": batch, "explanation": s.explanation} for arm, batch, s in timed if s
    )
    return [f"{MARK} {told[0]}", *told[1:]] if told else []


def word_cell(text: str, tone: str = "", detail: str = "") -> Cell:
    """A cell of words."""
    return Cell(text or MISSING, detail, sort=text or None, tone=tone)


def tone_of(verdict: str) -> str:
    """The tone a verdict is shown in; `open` for one that decides nothing."""
    return TONES.get(verdict, "open" if verdict else "")


def state_cell(found: Judged | None, several: bool) -> Cell:
    """One of the five words, with the metric it is about (and its task where there are several) and what would settle it."""
    if found is None:
        return Cell("not measured", sort="~")
    where = f"{found.metric.title} on {label(found.task)}" if several else found.metric.title
    enough = f"; about {counted(found.needed, 'example')} would settle it" if found.needed else ""
    return Cell(found.state, f"{where}{enough}", found.state, tone_of(found.state))


def lost(facts: Facts, found: Judged) -> str:
    """What an arm's score is on a metric and what the full model's is, as `slot error rate 0.4 instead of 0.0 %`."""
    gain, how = found.gain[0], found.metric
    full = facts.quality.get((facts.baseline.label, found.task, how.name)) if facts.baseline else None
    base = full.value.value if full else 0.0
    mine = base + (gain if how.better != "lower" else -gain)
    return f"{inside(how.title)} {fixed(mine, 1)} instead of {fixed(base, 1)}{' %' if how.unit == '%' else ''}"


def inside(title: str) -> str:
    """A title as it stands inside a sentence; what is written in capitals keeps them."""
    return title if title[1:2].isupper() or title[1:2] == "-" else title[:1].lower() + title[1:]
