"""What the figures share: rows of panels, lines, signs with hover words, ticks and legends, all of them matplotlib's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import IdentityTransform

from reports.drawing import colour, fit, marker_path, text_width
from reports.parts import Swatch
from reports.style import Sheet, look

Point = tuple[float, float]


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of so many points."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def width_of(ax: Axes) -> float:
    """Return how wide axes are, in points."""
    return float(ax.bbox.width)


def axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return new axes whose upper left corner is `x` points from the left and `y` from the top."""
    full, tall = (72 * v for v in figure.get_size_inches())
    ax = figure.add_axes((x / full, 1 - (y + height) / tall, width / full, height / tall))
    ax.patch.set_visible(False)
    return ax


def grid(
    sheet: Sheet, count: int, *, height: float, left: float = 34, right: float = 8, top: float = 20,
    bottom: float = 32, gap_x: float = 13, gap_y: float = 24, above: Sequence[float] = (),
) -> tuple[Figure, list[Axes], int]:  # fmt: skip
    """Return a figure with `count` panels `height` points tall (before the sheet's factor), and how many stand in a row.

    `above` is room kept over each panel for what stands there; a row has the most that one of its panels needs.
    """
    width = sheet.column if count <= 2 else sheet.width
    columns = min(sheet.per_row if width > 300 else max(1, sheet.per_row // 2), count)
    rows = -(-count // columns)
    extra = [max(above[r * columns : (r + 1) * columns], default=0.0) for r in range(rows)]
    height *= sheet.tall
    if count < 3:  # one or two panels would be stretched over the whole width
        width = min(width, left + right + count * 240)
    figure = blank(width, top + bottom + rows * height + (rows - 1) * gap_y + sum(extra))
    each = (width - left - right - (columns - 1) * gap_x) / columns
    made = []
    for i in range(count):
        row, column = divmod(i, columns)
        y = top + sum(extra[: row + 1]) + row * (height + gap_y)
        made.append(axes(figure, left + column * (each + gap_x), y, each, height))
    return figure, made, columns


def outer(index: int, count: int, columns: int) -> tuple[bool, bool]:
    """Whether a panel is the first of its row and the lowest of its column: those carry the tick labels."""
    return index % columns == 0, index + columns >= count


def plain(value: float) -> str:
    """Format a tick: no needless zeros, a true minus sign."""
    return f"{value:g}".replace("-", "\u2212")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round values between two bounds."""
    found = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    reach = 1e-9 * (high - low)
    return [round(float(v), 10) + 0.0 for v in found if low - reach <= v <= high + reach] or [low]


def frame(
    ax: Axes, xs: Point, ys: Point, xticks: Sequence[float], yticks: Sequence[float], *,
    xlabels: Sequence[str] | None = None, left: bool = True, below: bool = True, xgrid: bool = False,
    ygrid: bool = True, format_y: Callable[[float], str] = plain,
) -> None:  # fmt: skip
    """Set an axes' bounds (a falling pair turns it round), ticks, tick labels and grid."""
    ax.set(xlim=xs, ylim=ys)
    # Ticks are what costs most: an axis that shows none has none.
    for axis, shown, lines, at, words in (
        (ax.xaxis, below, xgrid, xticks, xlabels or [plain(v) for v in xticks]),
        (ax.yaxis, left, ygrid, yticks, [format_y(v) for v in yticks]),
    ):
        if not shown or not len(at):
            axis.set_visible(False)
            if lines:
                across = [[(v, ys[0]), (v, ys[1])] if axis is ax.xaxis else [(xs[0], v), (xs[1], v)] for v in at]
                bars(ax, across, "rule", 0.5, zorder=0.4)
            continue
        if lines:
            axis.grid(True)
        axis.set_ticks(at, words)


def title(ax: Axes, sheet: Sheet, words: str, at_right: str = "") -> None:
    """Write a title above, cut to the width, and a smaller word at the right end."""
    wide = width_of(ax)
    room = wide - (text_width(at_right, sheet.size) + 6 if at_right else 0)
    ax.set_title(fit(words, sheet.size, room))
    if at_right:
        ax.set_title(at_right, loc="right", color=colour("muted"), fontsize=sheet.size - 0.8)


def name_axes(figure: Figure, panels: Sequence[Axes], below: str, beside: str, sheet: Sheet) -> None:
    """Name the two axes once for all panels."""
    boxes = [ax.get_position() for ax in panels]
    left, right = min(b.x0 for b in boxes), max(b.x1 for b in boxes)
    bottom, top = min(b.y0 for b in boxes), max(b.y1 for b in boxes)
    width, height = (72 * v for v in figure.get_size_inches())
    half = text_width(below, sheet.size) / 2
    centre = max(min((left + right) / 2 * width, width - half - 2), half)
    figure.text(centre / width, 3 / height, below, ha="center", va="baseline")
    if beside:
        words = fit(beside, sheet.size, (top - bottom) * height + 40)
        figure.text((sheet.size + 1) / width, (top + bottom) / 2, words, ha="right", va="center", rotation=90)


def line(ax: Axes, points: Sequence[Point], name: str, width: float = 1.2, dash: str = "", tip: str = "") -> None:
    """Draw a line through data values."""
    if len(points) > 1:
        xs, ys = zip(*points, strict=True)
        ax.add_artist(
            Line2D(xs, ys, color=colour(name), linewidth=width, linestyle=dashed(dash), url=tip or None, zorder=2)
        )


def dashed(dash: str) -> Any:
    """Return a pattern such as `4 2` as matplotlib takes it; solid for none."""
    return (0, tuple(map(float, dash.split()))) if dash else "solid"


def bars(
    ax: Axes, segments: Sequence[Sequence[Point]], name: str, width: float, alpha: float = 1.0, zorder: float = 2
) -> None:
    """Draw separate lines that look alike, such as intervals."""
    if segments:
        drawn = LineCollection(segments, colors=colour(name), linewidths=width, alpha=alpha, zorder=zorder)
        ax.add_collection(drawn, autolim=False)


def signs(ax: Axes, points: Sequence[Point], swatch: Swatch, tips: Sequence[str], size: float) -> None:
    """Draw an arm's sign at each point, hollow where it was not trained for; each shows its words under the pointer."""
    drawn = look(swatch.method)
    edge = 0.18 * size if swatch.hollow else 0.06 * size
    shapes(ax, points, drawn.marker, drawn.colour, "paper" if swatch.hollow else drawn.colour, tips, size, edge)


def shapes(
    ax: Axes,
    points: Sequence[Point],
    marker: str,
    edge: str,
    fill: str,
    tips: Sequence[str],
    size: float,
    width: float = 1,
) -> None:
    """Draw a marker at each point."""
    if not points:
        return
    made = PathCollection(
        (marker_path(marker),), (size**2,), offsets=np.asarray(points), offset_transform=ax.transData,
        facecolors=colour(fill), edgecolors=colour(edge), linewidths=width, urls=list(tips), clip_on=False, zorder=3,
    )  # fmt: skip
    made.set_transform(IdentityTransform())
    ax.add_collection(made, autolim=False)


def key(
    words: str, name: str = "ink", width: float = 0.0, dash: str = "", marker: str = "", fill: str = "paper"
) -> Line2D:
    """Return a legend's entry: a line, a marker or both, and what they mean."""
    how: dict[str, Any] = {"linestyle": dashed(dash) if width else "none"}
    if marker:
        how |= {"marker": marker, "markersize": 5.5, "markerfacecolor": colour(fill), "markeredgewidth": 1}
    return Line2D([], [], color=colour(name), linewidth=width, label=words, **how)


def legend(figure: Figure, keys: Sequence[Line2D | Patch], sheet: Sheet, x: float, y: float = 4) -> float:
    """Write the keys from (x, y) on, in as many columns as fit beside each other; return how tall they are."""
    room = 72 * figure.get_size_inches()[0] - x - 4
    widths = [4.3 * sheet.small + text_width(str(k.get_label()), sheet.small) for k in keys]
    columns = next((n for n in range(len(keys), 1, -1) if _wide(widths, n) <= room), 1)
    width, height = (72 * v for v in figure.get_size_inches())
    figure.legend(handles=list(keys), loc="upper left", bbox_to_anchor=(x / width, 1 - y / height), ncols=columns)
    return -(-len(keys) // columns) * 1.55 * sheet.small


def _wide(widths: Sequence[float], columns: int) -> float:
    """How wide a legend of so many columns is; columns are filled from the top down."""
    rows, more = divmod(len(widths), columns)
    total, at = 0.0, 0
    for i in range(columns):
        count = rows + (i < more)
        total += max(widths[at : at + count])
        at += count
    return total


def keyed(ax: Axes, sheet: Sheet, keys: Sequence[tuple[str, Line2D]]) -> None:
    """Write the keys above the axes, one under the other, names cut to its width."""
    room = width_of(ax) - 2.6 * sheet.small
    for name, entry in keys:
        entry.set_label(fit(name, sheet.small, room))
    entries = [entry for _, entry in keys]
    ax.legend(handles=entries, loc="lower left", bbox_to_anchor=(0, 1.02), handlelength=2, labelspacing=0.25)
