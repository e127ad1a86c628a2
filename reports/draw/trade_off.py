"""Quality against speed: every arm as a point with its name beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from harness.stats.intervals import Interval
from reports.draw.arms import PLOT_LABEL, ends, plot_name
from reports.draw.canvas import blank, line, name_axes, panel, scale, segments, signs, size_of, title
from reports.draw.place import LEADER, Box, place
from reports.draw.style import Sheet, colour, look
from reports.draw.svg import text_width
from reports.facts.facts import Arm, Facts
from reports.text import counted, fixed, label, listed, span
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch
from reports.view.settings import quality_setting, speed_setting

CROWD = 8
"""More arms than this do not fit a column of a paper."""


@dataclass(frozen=True)
class Point:
    """One arm in the quality-speed plane."""

    name: str
    swatch: Swatch
    speed: Interval
    quality: Interval
    front: bool


@dataclass(frozen=True)
class TradeOff:
    """Quality against realised speed-up at one batch size."""

    batch: int
    quality_axis: str
    higher_is_better: bool
    points: tuple[Point, ...]
    full_quality: float
    margin: float


def trade_offs(facts: Facts) -> Iterator[Figure]:
    """Every task at the smallest timed batch size, then at the largest."""
    for batch in ends(facts):
        for task in facts.tasks:
            if figure := trade_off(facts, task, batch):
                yield figure


def trade_off(facts: Facts, task: str, batch: int) -> Figure | None:
    """Quality against speed for one task at one batch size; None with no arm but full to show."""
    full, metric = facts.baseline, facts.tasks[task][0]
    base = facts.quality.get((full.label, task, metric.name)) if full else None
    if full is None or base is None or not base.value.known or (full.label, batch) not in facts.speed:
        return None
    found: list[tuple[Arm, Interval, Interval]] = []
    for arm in facts.arms:
        speed = Interval(1.0, 1.0, 1.0, 0) if arm is full else facts.ratio(arm, batch)
        quality = facts.quality.get((arm.label, task, metric.name))
        if speed and quality and quality.value.known:
            found.append((arm, speed, quality.value))
    if len(found) < 2:
        return None
    up = metric.better != "lower"
    places = [(s.value, q.value if up else -q.value) for _, s, q in found]
    front = [not any(o != p and o[0] >= p[0] and o[1] >= p[1] for o in places) for p in places]
    points = tuple(Point(plot_name(a), swatch(a), s, q, f) for (a, s, q), f in zip(found, front, strict=True))
    unit = f" ({metric.unit})" if metric.unit and metric.unit.lower() != metric.title.lower() else ""
    best = [p for p in points if p.front]
    alt = (
        f"Scatter plot of {metric.title} on {label(task)} against realised speed-up at batch size {batch} "
        f"for {counted(len(points), 'arm')}. "
        "On the Pareto front: "
        f"{listed([f'{p.name} ({fixed(p.speed.value)} times, {fixed(p.quality.value, 1)})' for p in best], 20)}."
    )
    caption = (
        f"Upper right is better{'' if up else ' turned over: lower values are better'}. Bars are 95% "
        "intervals on both axes; the line is the "
        f"Pareto front; the band is the margin of {fixed(facts.margin, 1)} around the full model; "
        "hollow signs are schedules on weights "
        f"not trained for them. {speed_setting(facts)} {quality_setting(facts, task)}"
    )
    plot = TradeOff(
        batch, f"{metric.title} on {label(task, PLOT_LABEL)}{unit}", up, points, base.value.value, facts.margin
    )
    ident = f"fig-trade-{task_id(task)}-{batch}"
    return Figure(ident, f"{metric.title} on {label(task)} against speed, batch size {batch}", caption, alt, plot)


def task_id(task: str) -> str:
    """Return a task's name as an id may hold it."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in task)[:40]


def draw(plot: TradeOff, sheet: Sheet) -> Canvas:
    """All arms; beside them a close-up of those near full where the others would squeeze them together."""
    near = 4 * plot.margin
    close = [p for p in plot.points if abs(p.quality.value - plot.full_quality) <= near]
    reach = max(abs(p.quality.value - plot.full_quality) for p in plot.points)
    width = sheet.column if len(plot.points) <= CROWD else sheet.width
    tall = sheet.tall**2 * (240 if len(plot.points) <= 12 else 310)
    figure = blank(width, tall + 22 + 36)
    if reach > 3 * near and len(close) >= 3 and width > 300:
        share = 0.42 * width
        whole, detail = panel(figure, 42, 22, share - 42, tall), panel(figure, share + 30, 22, width - share - 38, tall)
        _scatter(whole, plot, plot.points, [p for p in plot.points if p not in close], sheet)
        title(whole, sheet, "All arms")
        _scatter(detail, plot, close, close, sheet)
        title(detail, sheet, f"Close-up: arms within {fixed(near, 0)} points of the full model")
        (x0, x1), (y0, y1) = detail.get_xlim(), detail.get_ylim()
        line(whole, [(x0, y0), (x0, y1), (x1, y1), (x1, y0), (x0, y0)], "muted", 0.7, "2 2", clip=True)
    else:
        _scatter(panel(figure, 42, 10, width - 50, tall + 12), plot, plot.points, plot.points, sheet)
    words = f"Realised speed-up of decoding, batch size {plot.batch} (× full model)"
    name_axes(figure, words, plot.quality_axis, sheet)
    return figure


def _scatter(on: Axes, plot: TradeOff, shown: Sequence[Point], named: Sequence[Point], sheet: Sheet) -> None:
    xs = [v for p in shown for v in (p.speed.low, p.speed.high)] + [1.0]
    ys = [v for p in shown for v in (p.quality.low, p.quality.high)]
    pad_x, pad_y = 0.09 * (max(xs) - min(xs) or 1), 0.09 * (max(ys) - min(ys) or 1)
    left, right, low, high = min(xs) - pad_x, max(xs) + 1.6 * pad_x, min(ys) - pad_y, max(ys) + pad_y
    scale(on.xaxis, left, right, 8)
    scale(on.yaxis, *((low, high) if plot.higher_is_better else (high, low)), 8)
    on.grid(axis="x")
    on.axhspan(plot.full_quality - plot.margin, plot.full_quality + plot.margin, color=colour("band"), lw=0, zorder=0.2)
    on.axhline(plot.full_quality, color=colour("faint"), lw=0.8)
    on.axvline(1.0, color=colour("faint"), lw=0.8)
    front = sorted((p for p in plot.points if p.front), key=lambda p: p.speed.value)
    line(on, [(p.speed.value, p.quality.value) for p in front], "muted", 0.9, "4 2", clip=True)
    alike: dict[Swatch, list[Point]] = {}
    for p in shown:
        alike.setdefault(p.swatch, []).append(p)
    for sign, group in alike.items():
        crosses = []
        for p in group:
            crosses.append([(p.speed.low, p.quality.value), (p.speed.high, p.quality.value)])
            crosses.append([(p.speed.value, p.quality.low), (p.speed.value, p.quality.high)])
        segments(on, crosses, look(sign.method).colour, 1.0, 0.65)
        tips = [
            f"{p.name}: {fixed(p.speed.value)} times ({span(p.speed.low, p.speed.high)}), {plot.quality_axis} "
            f"{fixed(p.quality.value, 1)} ({span(p.quality.low, p.quality.high, 1)})"
            for p in group
        ]
        signs(on, [(p.speed.value, p.quality.value) for p in group], sign, tips, 7)
    _name(on, named, shown, sheet)


def _name(on: Axes, named: Sequence[Point], shown: Sequence[Point], sheet: Sheet) -> None:
    """Write the arms' names beside their points so that nothing overlaps."""
    low, mid, high = (
        on.transData.transform([(getattr(p.speed, end), getattr(p.quality, end)) for p in shown])
        for end in ("low", "value", "high")
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
    wide, tall = size_of(on.figure)
    area = on.get_position()
    bounds = Box(area.x0 * wide + 2, area.y0 * tall + 2, area.x1 * wide, area.y1 * tall - 2)
    sizes = [(text_width(p.name, sheet.small), sheet.small * 1.15) for p in named]
    for p, placed in zip(named, place([at[id(p)] for p in named], sizes, obstacles, bounds), strict=True):
        box, (x, y) = placed.box, at[id(p)]
        on.figure.text(box.x0 / wide, (box.y0 + box.y1) / 2 / tall, p.name, va="center_baseline")
        if placed.distance > LEADER:
            end = (min(max(x, box.x0), box.x1), min(max(y, box.y0 + 1), box.y1 - 1))
            on.annotate("", (x, y), end, xycoords="figure points", textcoords="figure points", arrowprops=_LEADER)


_LEADER = {"arrowstyle": "-", "color": colour("muted"), "lw": 0.5, "shrinkA": 0, "shrinkB": 0}
