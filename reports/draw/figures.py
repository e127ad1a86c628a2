"""Every kind of figure in one table: the section it stands in, what it gathers from the facts, and how it is drawn.

A figure is a pair of functions: `data` takes the facts and gives numbers with a caption and a description in words, or
nothing where there is nothing to show; `draw` takes those numbers. A new one is the pair, in one file, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Canvas

from reports.draw import speed, spreads, trade_off
from reports.draw.canvas import finish, settings
from reports.draw.style import Sheet
from reports.draw.svg import Drawing
from reports.facts.facts import Facts
from reports.view.parts import Figure, ReportView, walk


@dataclass(frozen=True)
class Kind:
    """A kind of figure; `section` is the id of the section at whose end it stands, unless that one places it among its tables."""

    section: str
    data: Callable[[Facts], Iterable[Figure | None]]
    draw: Callable[[Any, Sheet], Canvas]


def _one(data: Callable[[Facts], Figure | None]) -> Callable[[Facts], Iterable[Figure | None]]:
    return lambda facts: (data(facts),)


FIGURES: dict[type, Kind] = {
    trade_off.TradeOff: Kind("quality", trade_off.trade_offs, trade_off.draw),
    speed.Promises: Kind("speed", _one(speed.promises), speed.draw_promises),
    speed.Breakdown: Kind("speed", speed.breakdowns, speed.draw_breakdown),
    speed.ByBatch: Kind("speed", _one(speed.by_batch), speed.draw_by_batch),
    speed.Tax: Kind("speed", _one(speed.tax), speed.draw_tax),
    spreads.Heat: Kind("layers", _one(spreads.heat), spreads.draw_heat),
    spreads.Depths: Kind("layers", _one(spreads.depths), spreads.draw_depths),
    spreads.StepTimes: Kind("speed", spreads.all_step_times, spreads.draw_step_times),
}


def gather(facts: Facts) -> dict[type, tuple[Figure, ...]]:
    """Return the figures that a run has something to show in, by kind; a kind without one has an empty tuple."""
    return {plot: tuple(filter(None, kind.data(facts))) for plot, kind in FIGURES.items()}


def draw(part: Figure, sheet: Sheet) -> Drawing:
    """Return the drawing of a figure for a sheet.

    Raises:
        TypeError: there is no drawing for this kind of plot.
    """
    if (kind := FIGURES.get(type(part.plot))) is None:
        raise TypeError(f"no drawing for {type(part.plot).__name__}")
    with settings(sheet, part.id):
        return finish(kind.draw(part.plot, sheet), sheet)


def draw_all(view: ReportView, sheet: Sheet) -> dict[str, Drawing]:
    """Return the drawing of every figure of a report by the figure's id."""
    return {part.id: draw(part, sheet) for part in walk(view) if isinstance(part, Figure)}
