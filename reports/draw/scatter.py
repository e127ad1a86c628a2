"""Draw quality against speed, every point named beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.draw.panels import (
    CAP,
    Panel,
    bars,
    blank,
    boxes,
    frame,
    line,
    name_axes,
    panel,
    signs,
    strokes,
    ticks,
    title,
    write,
)
from reports.draw.place import LEADER, Box, place
from reports.draw.style import Sheet, look
from reports.draw.svg import text_width
from reports.text import fixed, span
from reports.view import plots
from reports.view.parts import Swatch

CROWD = 8
"""More arms than this do not fit a column of a paper."""


def trade_off(plot: plots.TradeOff, sheet: Sheet) -> Figure:
    """All arms; beside them a close-up of those near full where the others would squeeze them together."""
    near = 4 * plot.margin
    close = [p for p in plot.points if abs(p.quality.value - plot.full_quality) <= near]
    reach = max(abs(p.quality.value - plot.full_quality) for p in plot.points)
    width = sheet.column if len(plot.points) <= CROWD else sheet.width
    zoom = reach > 3 * near and len(close) >= 3 and width > 300
    tall = sheet.tall**2 * (240 if len(plot.points) <= 12 else 310)
    figure = blank(width, tall + 22 + 36)
    if zoom:
        share = 0.42 * width
        whole, detail = panel(figure, 42, 22, share - 42, tall), panel(figure, share + 30, 22, width - share - 38, tall)
        _scatter(whole, plot, plot.points, [p for p in plot.points if p not in close], sheet)
        title(whole, sheet, "All arms")
        _scatter(detail, plot, close, close, sheet)
        title(detail, sheet, f"Close-up: arms within {fixed(near, 0)} points of the full model")
        (x0, x1), (y0, y1) = detail.xs, detail.ys
        line(whole, [(x0, y0), (x0, y1), (x1, y1), (x1, y0), (x0, y0)], "muted", 0.7, "2 2", clip=True)
        made = [whole, detail]
    else:
        made = [panel(figure, 42, 10, width - 50, tall + 12)]
        _scatter(made[0], plot, plot.points, plot.points, sheet)
    words = f"Realised speed-up of decoding, batch size {plot.batch} (× full model)"
    name_axes(figure, made, words, plot.quality_axis, sheet)
    return figure


def _scatter(
    on: Panel, plot: plots.TradeOff, shown: Sequence[plots.Point], named: Sequence[plots.Point], sheet: Sheet
) -> None:
    xs = [v for p in shown for v in (p.speed.low, p.speed.high)] + [1.0]
    ys = [v for p in shown for v in (p.quality.low, p.quality.high)]
    pad_x, pad_y = 0.09 * (max(xs) - min(xs) or 1), 0.09 * (max(ys) - min(ys) or 1)
    left, right = min(xs) - pad_x, max(xs) + 1.6 * pad_x
    up_down = (min(ys) - pad_y, max(ys) + pad_y)
    bounds = up_down if plot.higher_is_better else up_down[::-1]
    frame(on, (left, right), bounds, ticks(left, right, 8), ticks(*up_down, 8), xgrid=True, small=sheet.small)
    full, margin = plot.full_quality, plot.margin
    boxes(on, [(left, full - margin, right, full + margin)], "band", zorder=0.2, clip=True)
    bars(on, [[(left, full), (right, full)], [(1.0, bounds[0]), (1.0, bounds[1])]], "faint", 0.8, clip=True)
    front = sorted((p for p in plot.points if p.front), key=lambda p: p.speed.value)
    line(on, [(p.speed.value, p.quality.value) for p in front], "muted", 0.9, "4 2", clip=True)
    alike: dict[Swatch, list[plots.Point]] = {}
    for p in shown:
        alike.setdefault(p.swatch, []).append(p)
    for swatch, group in alike.items():
        crosses = []
        for p in group:
            crosses.append([(p.speed.low, p.quality.value), (p.speed.high, p.quality.value)])
            crosses.append([(p.speed.value, p.quality.low), (p.speed.value, p.quality.high)])
        bars(on, crosses, look(swatch.method).colour, 1.0, 0.65)
        tips = [
            f"{p.name}: {fixed(p.speed.value)} times ({span(p.speed.low, p.speed.high)}), {plot.quality_axis} "
            f"{fixed(p.quality.value, 1)} ({span(p.quality.low, p.quality.high, 1)})"
            for p in group
        ]
        signs(on, [(p.speed.value, p.quality.value) for p in group], swatch, tips, 7)
    _name(on, named, shown, sheet)


def _name(on: Panel, named: Sequence[plots.Point], shown: Sequence[plots.Point], sheet: Sheet) -> None:
    """Write the arms' names beside their points so that nothing overlaps."""
    if not named:
        return
    low, mid, high = (
        on.at([(getattr(p.speed, end), getattr(p.quality, end)) for p in shown]) for end in ("low", "value", "high")
    )
    obstacles = []
    for (x0, y0), (x, y), (x1, y1) in zip(low, mid, high, strict=True):
        y0, y1 = min(y0, y1), max(y0, y1)
        obstacles += [Box(x0, y - 1, x1, y + 1), Box(x - 1, y0, x + 1, y1), Box(x - 5, y - 5, x + 5, y + 5)]
    at = {id(p): (float(x), float(y)) for p, (x, y) in zip(shown, mid, strict=True)}
    front = [at[id(p)] for p in sorted((p for p in shown if p.front), key=lambda p: p.speed.value)]
    for (x0, y0), (x1, y1) in itertools.pairwise(front):  # the line, as a chain of small boxes
        steps = max(int(math.dist((x0, y0), (x1, y1)) / 4), 1)
        for x, y in zip(np.linspace(x0, x1, steps + 1), np.linspace(y0, y1, steps + 1), strict=True):
            obstacles.append(Box(x - 2, y - 2, x + 2, y + 2))
    sizes = [(text_width(p.name, sheet.small), sheet.small * 1.15) for p in named]
    points = [at[id(p)] for p in named]
    places = place(points, sizes, obstacles, Box(on.x + 2, on.y + 2, on.right, on.top - 2))
    leaders = []
    for p, placed, (x, y) in zip(named, places, points, strict=True):
        label = placed.box
        if placed.distance > LEADER:
            leaders.append([(x, y), (min(max(x, label.x0), label.x1), min(max(y, label.y0 + 1), label.y1 - 1))])
        write(on.figure, label.x0, (label.y0 + label.y1) / 2 - CAP / 2 * sheet.small, p.name, sheet.small)
    if leaders:
        strokes(on.figure, leaders, "muted", 0.5)
