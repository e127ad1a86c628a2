"""Draw quality against speed, every point named beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter

from reports import plots
from reports.place import LEADER, Box, place
from reports.style import SIZE, SMALL, WIDTH, Tips, ink, look, marker_options, plain
from reports.text import fixed, span


def trade_off(plot: plots.TradeOff) -> tuple[Figure, Tips]:
    """All arms; beside them a close-up of those near full where the others would squeeze them together."""
    near = 4 * plot.margin
    close = [p for p in plot.points if abs(p.quality.value - plot.full_quality) <= near]
    reach = max(abs(p.quality.value - plot.full_quality) for p in plot.points)
    zoom = reach > 3 * near and len(close) >= 3
    width, height = WIDTH, 4.6 if len(plot.points) <= 12 else 5.6
    figure = Figure(figsize=(width, height))
    figure.supxlabel(
        f"Realised speed-up of decoding, batch size {plot.batch} (× full model)", fontsize=SIZE, y=0.06 / height
    )
    y0, tall = 0.52 / height, (height - 0.52 - 0.3) / height
    tips: Tips = {}
    if not zoom:
        ax = figure.add_axes((0.62 / width, y0, (width - 0.75) / width, tall))
        _scatter(ax, plot, plot.points, plot.points, tips)
        ax.set_ylabel(plot.quality_axis)
        return figure, tips
    whole = figure.add_axes((0.62 / width, y0, 4.3 / width, tall))
    detail = figure.add_axes((5.5 / width, y0, (width - 5.6) / width, tall))
    _scatter(whole, plot, plot.points, [p for p in plot.points if p not in close], tips)
    whole.set_ylabel(plot.quality_axis)
    whole.set_title("All arms")
    _scatter(detail, plot, close, close, tips)
    detail.set_title(f"Close-up: arms within {fixed(near, 0)} points of the full model")
    (left, right), (low, high) = detail.get_xlim(), detail.get_ylim()
    whole.add_patch(
        Rectangle((left, low), right - left, high - low, fill=False, edgecolor=ink("muted"), lw=0.7, ls=(0, (2, 2)))
    )
    return figure, tips


def _scatter(
    ax: Axes, plot: plots.TradeOff, shown: Sequence[plots.Point], named: Sequence[plots.Point], tips: Tips
) -> None:
    xs = [v for p in shown for v in (p.speed.low, p.speed.high)] + [1.0]
    ys = [v for p in shown for v in (p.quality.low, p.quality.high)]
    pad_x, pad_y = 0.09 * (max(xs) - min(xs) or 1), 0.09 * (max(ys) - min(ys) or 1)
    ax.set_xlim(min(xs) - pad_x, max(xs) + 1.6 * pad_x)
    ax.set_ylim(min(ys) - pad_y, max(ys) + pad_y)
    if not plot.higher_is_better:
        ax.invert_yaxis()
    ax.axhspan(plot.full_quality - plot.margin, plot.full_quality + plot.margin, color=ink("band"), lw=0, zorder=0.4)
    ax.axhline(plot.full_quality, color=ink("faint"), lw=0.8, zorder=0.5)
    ax.axvline(1.0, color=ink("faint"), lw=0.8, zorder=0.5)
    front = sorted((p for p in plot.points if p.front), key=lambda p: p.speed.value)
    ax.plot(
        [p.speed.value for p in front],
        [p.quality.value for p in front],
        color=ink("muted"),
        lw=0.9,
        ls=(0, (4, 2)),
        zorder=1,
    )
    for p in shown:
        colour = look(p.swatch.method).colour
        bars: dict[str, Any] = {"color": colour, "lw": 1.0, "alpha": 0.65, "zorder": 2, "solid_capstyle": "butt"}
        ax.plot([p.speed.low, p.speed.high], [p.quality.value] * 2, **bars)
        ax.plot([p.speed.value] * 2, [p.quality.low, p.quality.high], **bars)
        (sign,) = ax.plot([p.speed.value], [p.quality.value], zorder=3, **marker_options(p.swatch))
        group = f"tip{len(tips)}"
        sign.set_gid(group)
        tips[group] = (
            f"{p.name}: {fixed(p.speed.value)} times ({span(p.speed.low, p.speed.high)}), {plot.quality_axis} "
            f"{fixed(p.quality.value, 1)} ({span(p.quality.low, p.quality.high, 1)})"
        )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(plain))
    _name(ax, named, shown)


def _name(ax: Axes, named: Sequence[plots.Point], shown: Sequence[plots.Point]) -> None:
    """Write the arms' names beside their points, in points of the page, so that nothing overlaps."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    scale = 72 / figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        px, py = ax.transData.transform((x, y))
        return float(px) * scale, float(py) * scale

    sizes = [(_text_width(p.name), SMALL * 1.15) for p in named]
    obstacles = []
    for p in shown:
        (x0, y), (x1, _) = at(p.speed.low, p.quality.value), at(p.speed.high, p.quality.value)
        (x, y0), (_, y1) = at(p.speed.value, p.quality.low), at(p.speed.value, p.quality.high)
        obstacles += [Box(x0, y - 1, x1, y + 1), Box(x - 1, min(y0, y1), x + 1, max(y0, y1))]
        obstacles.append(Box(x - 5, y - 5, x + 5, y + 5))
    front = [
        at(p.speed.value, p.quality.value) for p in sorted((p for p in shown if p.front), key=lambda p: p.speed.value)
    ]
    for (x0, y0), (x1, y1) in itertools.pairwise(front):  # the line, as a chain of small boxes
        steps = max(int(math.dist((x0, y0), (x1, y1)) / 4), 1)
        obstacles += [
            Box(x - 2, y - 2, x + 2, y + 2)
            for i in range(steps)
            for x, y in [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps)]
        ]
    corner = ax.get_window_extent()
    bounds = Box(*(float(v) * scale for v in (corner.x0 + 2, corner.y0 + 2, corner.x1, corner.y1)))
    points = [at(p.speed.value, p.quality.value) for p in named]
    inverse = ax.transData.inverted()
    for p, placed, (px, py) in zip(named, place(points, sizes, obstacles, bounds), points, strict=True):
        box = placed.box
        x, y = inverse.transform((box.x0 / scale, (box.y0 + box.y1) / 2 / scale))
        ax.text(x, y, p.name, fontsize=SMALL, va="center_baseline", ha="left", zorder=4)
        if placed.distance > LEADER:
            end = (min(max(px, box.x0), box.x1), min(max(py, box.y0 + 1), box.y1 - 1))
            tx, ty = inverse.transform((end[0] / scale, end[1] / scale))
            ax.plot([p.speed.value, tx], [p.quality.value, ty], color=ink("muted"), lw=0.5, zorder=1.5)


@lru_cache(maxsize=512)
def _text_width(text: str) -> float:
    """Width of a label in points, in a font that is wide: a narrower one on the reader's side leaves more room."""
    return float(TextPath((0, 0), text, size=SMALL).get_extents().width)
