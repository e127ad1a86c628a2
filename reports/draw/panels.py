"""What the figures share: panels with data coordinates of their own, lines, signs with hover words, ticks and legends.

Everything stands in points from the lower left of the figure. matplotlib's Axes are not used: making one takes longer than
drawing all that stands in it (6 to 9 ms), and a figure may have forty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, IdentityTransform

from reports.draw.drawing import Signs, Words
from reports.draw.style import Sheet, look
from reports.draw.svg import colour, fit, text_width
from reports.view.parts import Swatch

Point = tuple[float, float]
_HERE = IdentityTransform()  # type: ignore[no-untyped-call]
CAP = 0.74
"""Height of a capital letter, and of a digit, as a share of the type size."""


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of so many points, on paper: a file of its own is readable on a dark page too."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=colour("paper"))


def size_of(figure: Figure) -> Point:
    """Return a figure's width and height in points."""
    width, height = figure.get_size_inches()
    return float(72 * width), float(72 * height)


@dataclass
class Panel:
    """A rectangle of a figure with data coordinates of its own.

    Attributes:
        x, y: its lower left corner, in points from the figure's.
        width, height: in points.
        xs, ys: the data values at its edges; a falling pair turns an axis round.
    """

    figure: Figure
    x: float
    y: float
    width: float
    height: float
    xs: Point = (0.0, 1.0)
    ys: Point = (0.0, 1.0)

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x + self.width

    @property
    def top(self) -> float:
        """The upper edge."""
        return self.y + self.height

    def across(self, value: float) -> float:
        """Return where a data value stands, in points from the figure's left edge."""
        return self.x + self.width * (value - self.xs[0]) / (self.xs[1] - self.xs[0])

    def up(self, value: float) -> float:
        """Return where a data value stands, in points from the figure's lower edge."""
        return self.y + self.height * (value - self.ys[0]) / (self.ys[1] - self.ys[0])

    def at(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        """Return data points [..., 2] as points of the figure."""
        (x0, x1), (y0, y1) = self.xs, self.ys
        scale = np.array([self.width / (x1 - x0), self.height / (y1 - y0)])
        moved: np.ndarray = (np.asarray(points, dtype=float) - (x0, y0)) * scale + (self.x, self.y)
        return moved


def panel(figure: Figure, x: float, y: float, width: float, height: float) -> Panel:
    """Return a panel whose upper left corner is `x` points from the left and `y` from the top."""
    return Panel(figure, x, size_of(figure)[1] - y - height, width, height)


def grid(
    sheet: Sheet, count: int, *, height: float, left: float = 34, right: float = 8, top: float = 20,
    bottom: float = 32, gap_x: float = 13, gap_y: float = 24, above: Sequence[float] = (),
) -> tuple[Figure, list[Panel], int]:  # fmt: skip
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
        made.append(panel(figure, left + column * (each + gap_x), y, each, height))
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
    on: Panel, xs: Point, ys: Point, xticks: Sequence[float], yticks: Sequence[float], *,
    xlabels: Sequence[str] | None = None, ylabels: Sequence[str] | None = None, small: float,
    left: bool = True, below: bool = True, xgrid: bool = False, ygrid: bool = True, lines: str = "muted",
    around: bool = False, labels: str = "muted",
) -> None:  # fmt: skip
    """Set a panel's bounds (a falling pair turns it round) and draw its grid, its edges and its tick labels.

    `left` and `below` say whether the tick labels are written, `labels` the colour of those at the left. Edges have the
    colour `lines`, none where it is empty; `around` draws all four.
    """
    on.xs, on.ys = xs, ys
    rules = [[(v, ys[0]), (v, ys[1])] for v in xticks] if xgrid else []
    rules += [[(xs[0], v), (xs[1], v)] for v in yticks] if ygrid else []
    bars(on, rules, "rule", 0.5, zorder=0.4)
    if lines:
        corners = [(on.x, on.top), (on.x, on.y), (on.right, on.y)]
        corners += [(on.right, on.top), (on.x, on.top)] if around else []
        strokes(on.figure, [corners], lines, 0.7, zorder=2.5)
    if below:
        for value, words in zip(xticks, xlabels or [plain(v) for v in xticks], strict=True):
            write(on.figure, on.across(value), on.y - 4 - CAP * small, words, small, "muted", anchor="middle")
    if left:
        for value, words in zip(yticks, ylabels or [plain(v) for v in yticks], strict=True):
            write(on.figure, on.x - 4, on.up(value) - CAP / 2 * small, words, small, labels, anchor="end")


def title(on: Panel, sheet: Sheet, words: str, at_right: str = "") -> None:
    """Write a title above, cut to the width, and a smaller word at the right end."""
    room = on.width - (text_width(at_right, sheet.size) + 6 if at_right else 0)
    write(on.figure, on.x, on.top + 5, fit(words, sheet.size, room), sheet.size)
    if at_right:
        write(on.figure, on.right, on.top + 5, at_right, sheet.size - 0.8, "muted", anchor="end")


def name_axes(figure: Figure, panels: Sequence[Panel], below: str, beside: str, sheet: Sheet) -> None:
    """Name the two axes once for all panels."""
    left, right = min(p.x for p in panels), max(p.right for p in panels)
    bottom, top = min(p.y for p in panels), max(p.top for p in panels)
    half = text_width(below, sheet.size) / 2
    centre = max(min((left + right) / 2, size_of(figure)[0] - half - 2), half)
    write(figure, centre, 3, below, sheet.size, anchor="middle")
    if beside:
        words = fit(beside, sheet.size, top - bottom + 40)
        write(figure, 0.9 * sheet.size, (top + bottom) / 2, words, sheet.size, anchor="middle", turned=True)


def write(
    figure: Figure, x: float, y: float, words: str, size: float, name: str = "ink", *, anchor: str = "start",
    turned: bool = False,
) -> None:  # fmt: skip
    """Write words whose baseline begins at (x, y), or ends or has its middle there; `turned` runs upwards."""
    figure.add_artist(Words(x, y, words, size, colour(name), anchor, turned))


def line(
    on: Panel, points: Sequence[Point], name: str, width: float = 1.2, dash: str = "", tip: str = "",
    clip: bool = False,
) -> None:  # fmt: skip
    """Draw a line through data values; `clip` cuts it at the edges."""
    if len(points) > 1:
        made = strokes(on.figure, [on.at(points)], name, width, dash=dash)
        made.set_url(tip or None)
        _clipped(made, on, clip)


def bars(
    on: Panel, segments: Sequence[Sequence[Point]], name: str, width: float, alpha: float = 1.0, zorder: float = 2,
    clip: bool = False,
) -> None:  # fmt: skip
    """Draw separate lines that look alike, such as intervals; `clip` cuts them at the edges."""
    if segments:
        _clipped(strokes(on.figure, [on.at(s) for s in segments], name, width, alpha, zorder), on, clip)


def boxes(
    on: Panel, sides: Sequence[tuple[float, float, float, float]], name: str, alpha: float = 1.0,
    tips: Sequence[str] = (), zorder: float = 2, clip: bool = False,
) -> None:  # fmt: skip
    """Fill rectangles given by their left, lower, right and upper edge in data values."""
    if sides:
        corners = [on.at([(x0, y0), (x0, y1), (x1, y1), (x1, y0)]) for x0, y0, x1, y1 in sides]
        made = areas(on.figure, corners, name, alpha, zorder)
        made.set_urls(list(tips))
        _clipped(made, on, clip)


def signs(on: Panel, points: Sequence[Point], swatch: Swatch, tips: Sequence[str], size: float) -> None:
    """Draw an arm's sign at each point, hollow where it was not trained for; each shows its words under the pointer."""
    drawn = look(swatch.method)
    edge = 0.18 * size if swatch.hollow else 0.06 * size
    shapes(on, points, drawn.marker, drawn.colour, "paper" if swatch.hollow else drawn.colour, tips, size, edge)


def shapes(
    on: Panel, points: Sequence[Point], marker: str, edge: str, inside: str, tips: Sequence[str], size: float,
    width: float = 1,
) -> None:  # fmt: skip
    """Draw a marker at each point."""
    if points:
        marks(on.figure, on.at(points), marker, edge, inside, size, width, tips)


def _clipped(made: Artist, on: Panel, clip: bool) -> None:
    if clip:
        made.set_clip_box(Bbox.from_bounds(on.x, on.y, on.width, on.height))


def strokes(
    figure: Figure, segments: Sequence[Any], name: str, width: float, alpha: float = 1.0, zorder: float = 2,
    dash: str = "",
) -> Artist:  # fmt: skip
    """Draw lines through points of the figure, all as one path, which is smaller and sooner drawn than one path each."""
    codes = np.full(sum(map(len, segments)), Path.LINETO, Path.code_type)
    codes[np.cumsum([0, *map(len, segments[:-1])])] = Path.MOVETO
    pattern: Any = (0, tuple(map(float, dash.split()))) if dash else "solid"
    made = PathPatch(
        Path(np.concatenate(segments), codes), fill=False, edgecolor=colour(name), linewidth=width, linestyle=pattern,
        capstyle="butt", joinstyle="round", alpha=alpha, zorder=zorder, transform=_HERE,
    )  # fmt: skip
    figure.add_artist(made)
    return made


def areas(figure: Figure, corners: Sequence[Any], name: str, alpha: float = 1.0, zorder: float = 2) -> PolyCollection:
    """Fill polygons whose corners are points of the figure."""
    made = PolyCollection(corners, facecolors=colour(name), linewidths=0, alpha=alpha, zorder=zorder, transform=_HERE)
    figure.add_artist(made)
    return made


def marks(
    figure: Figure,
    points: Any,
    marker: str,
    edge: str,
    inside: str,
    size: float,
    width: float,
    tips: Sequence[str] = (),
) -> None:
    """Draw a marker at points of the figure, `size` wide; each shows its words under the pointer."""
    known = tips or [""] * len(points)
    figure.add_artist(Signs(points, marker, colour(edge), colour(inside), size, width, known))
