"""The cells that tables share: names with their sign, numbers with even decimals, values over their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.stats import intervals
from reports.facts.facts import Arm
from reports.text import MISSING, decimals_for, fixed, real, signed, span
from reports.view.answer import KEEPS, LOSES
from reports.view.parts import Cell, Swatch

TONES = {"faster": "good", KEEPS: "good", "slower": "bad", LOSES: "bad"}
EMPTY = Cell(MISSING)


def swatch(arm: Arm) -> Swatch:
    """The sign of an arm."""
    return Swatch(arm.method, arm.untrained)


def name_cell(arm: Arm, detail: str = "") -> Cell:
    """The cell that heads an arm's row."""
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


def word_cell(text: str, tone: str = "", detail: str = "") -> Cell:
    """A cell of words."""
    return Cell(text or MISSING, detail, sort=text or None, tone=tone)


def tone_of(verdict: str) -> str:
    """The tone a verdict is shown in; `open` for one that decides nothing."""
    return TONES.get(verdict, "open" if verdict else "")
