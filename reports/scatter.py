"""Draw quality against speed, every point named beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from reports import plots
from reports.axes import Panel, below_axis, ticks
from reports.canvas import Canvas
from reports.place import LEADER, Box, place
from reports.style import Sheet, look
from reports.text import fixed, span

CROWD = 8
"""More arms than this do not fit a column of a paper."""


def trade_off(plot: plots.TradeOff, sheet: Sheet) -> Canvas:
    """All arms; beside them a close-up of those near full where the others would squeeze them together."""
    near = 4 * plot.margin
    close = [p for p in plot.points if abs(p.quality.value - plot.full_quality) <= near]
    reach = max(abs(p.quality.value - plot.full_quality) for p in plot.points)
    width = sheet.column if len(plot.points) <= CROWD else sheet.width
    zoom = reach > 3 * near and len(close) >= 3 and width > 300
    tall = sheet.tall**2 * (270 if len(plot.points) <= 12 else 340)
    canvas = Canvas(width, tall + 22 + 36, sheet)
    words = f"Realised speed-up of decoding, batch size {plot.batch} (× full model)"
    below_axis(canvas, 40 + (width - 48) / 2, words)
    canvas.text(sheet.size + 1, 22 + tall / 2, plot.quality_axis, anchor="middle", upright=True)
    if not zoom:
        _scatter(Panel(canvas, 42, 10, width - 50, tall + 12), plot, plot.points, plot.points, sheet)
        return canvas
    share = 0.42 * width
    whole = Panel(canvas, 42, 22, share - 42, tall)
    detail = Panel(canvas, share + 30, 22, width - share - 38, tall)
    shown = _scatter(whole, plot, plot.points, [p for p in plot.points if p not in close], sheet)
    shown.title("All arms")
    zoomed = _scatter(detail, plot, close, close, sheet)
    zoomed.title(f"Close-up: arms within {fixed(near, 0)} points of the full model")
    x, y = shown.x(zoomed.xs[0]), shown.y(zoomed.ys[1])
    canvas.rect(x, y, shown.x(zoomed.xs[1]) - x, shown.y(zoomed.ys[0]) - y, "", edge="muted", dash="2 2")
    return canvas


def _scatter(
    frame: Panel, plot: plots.TradeOff, shown: Sequence[plots.Point], named: Sequence[plots.Point], sheet: Sheet
) -> Panel:
    xs = [v for p in shown for v in (p.speed.low, p.speed.high)] + [1.0]
    ys = [v for p in shown for v in (p.quality.low, p.quality.high)]
    pad_x, pad_y = 0.09 * (max(xs) - min(xs) or 1), 0.09 * (max(ys) - min(ys) or 1)
    bounds = (min(ys) - pad_y, max(ys) + pad_y)
    panel = frame.within(
        (min(xs) - pad_x, max(xs) + 1.6 * pad_x), bounds if plot.higher_is_better else (bounds[1], bounds[0])
    )
    canvas = panel.canvas
    ends = [
        min(max(panel.y(plot.full_quality + side * plot.margin), panel.y0), panel.y0 + panel.height) for side in (1, -1)
    ]
    canvas.rect(panel.x0, min(ends), panel.width, abs(ends[1] - ends[0]), "band")
    panel.frame(ticks(*panel.xs, 8), ticks(min(panel.ys), max(panel.ys), 8), sheet.small)
    panel.across(plot.full_quality, "faint")
    panel.down(1.0, "faint")
    front = sorted((p for p in plot.points if p.front), key=lambda p: p.speed.value)
    _clipped(panel, [(p.speed.value, p.quality.value) for p in front])
    for p in shown:
        colour = look(p.swatch.method).colour
        tip = (
            f"{p.name}: {fixed(p.speed.value)} times ({span(p.speed.low, p.speed.high)}), {plot.quality_axis} "
            f"{fixed(p.quality.value, 1)} ({span(p.quality.low, p.quality.high, 1)})"
        )
        with canvas.tip(tip):
            across = panel.points([(p.speed.low, p.quality.value), (p.speed.high, p.quality.value)])
            along = panel.points([(p.speed.value, p.quality.low), (p.speed.value, p.quality.high)])
            canvas.path([across, along], colour, 1.0, alpha=0.65)
            canvas.sign(panel.x(p.speed.value), panel.y(p.quality.value), p.swatch, 7)
    _name(panel, named, shown, sheet)
    return panel


def _clipped(panel: Panel, front: list[tuple[float, float]]) -> None:
    """The Pareto front, cut where it leaves the panel."""
    (left, right), (low, high) = panel.xs, sorted(panel.ys)

    def inside(x: float, y: float) -> bool:
        return left <= x <= right and low <= y <= high

    for (x0, y0), (x1, y1) in itertools.pairwise(front):
        steps = [i / 64 for i in range(65)]
        kept = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in steps]
        kept = [point for point in kept if inside(*point)]
        if len(kept) > 1:
            panel.line([kept[0], kept[-1]], "muted", 0.9, "4 2")


def _name(panel: Panel, named: Sequence[plots.Point], shown: Sequence[plots.Point], sheet: Sheet) -> None:
    """Write the arms' names beside their points so that nothing overlaps."""
    canvas = panel.canvas

    def at(p: plots.Point) -> tuple[float, float]:
        return panel.x(p.speed.value), panel.y(p.quality.value)

    sizes = [(canvas.wide(p.name, sheet.small), sheet.small * 1.15) for p in named]
    obstacles = []
    for p in shown:
        x, y = at(p)
        ends = sorted((panel.y(p.quality.low), panel.y(p.quality.high)))
        obstacles.append(Box(panel.x(p.speed.low), y - 1, panel.x(p.speed.high), y + 1))
        obstacles.append(Box(x - 1, ends[0], x + 1, ends[1]))
        obstacles.append(Box(x - 5, y - 5, x + 5, y + 5))
    front = [at(p) for p in sorted((p for p in shown if p.front), key=lambda p: p.speed.value)]
    for (x0, y0), (x1, y1) in itertools.pairwise(front):  # the line, as a chain of small boxes
        steps = max(int(math.dist((x0, y0), (x1, y1)) / 4), 1)
        along = [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps)]
        obstacles += [Box(x - 2, y - 2, x + 2, y + 2) for x, y in along]
    bounds = Box(panel.x0 + 2, panel.y0 + 2, panel.x0 + panel.width, panel.y0 + panel.height)
    points = [at(p) for p in named]
    for p, placed, (x, y) in zip(named, place(points, sizes, obstacles, bounds), points, strict=True):
        box = placed.box
        if placed.distance > LEADER:
            end = (min(max(x, box.x0), box.x1), min(max(y, box.y0 + 1), box.y1 - 1))
            canvas.path([[(x, y), end]], "muted", 0.5)
        canvas.text(box.x0, (box.y0 + box.y1) / 2 + 0.34 * sheet.small, p.name, size=sheet.small)
