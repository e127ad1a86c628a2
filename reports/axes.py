"""Panels: a rectangle of a drawing with a scale on each side, its ticks, and rows of panels that share their scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reports.canvas import Canvas, Point
from reports.parts import Swatch
from reports.style import Sheet


def plain(value: float) -> str:
    """Format a tick: no needless zeros, a true minus sign."""
    return f"{value:g}".replace("-", "\u2212")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round values between two bounds."""
    span = high - low
    if not span > 0:
        return [low]
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * size for m in (1, 2, 2.5, 5, 10, 20) if span / (m * size) <= most - 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Panel:
    """A rectangle of a canvas (points, y downwards) that shows the data between two bounds on each axis.

    Attributes:
        x0, y0: upper left corner.
        xs, ys: (left, right) and (bottom, top) bounds of the data; a falling pair turns an axis round.
    """

    canvas: Canvas
    x0: float
    y0: float
    width: float
    height: float
    xs: tuple[float, float] = (0.0, 1.0)
    ys: tuple[float, float] = (0.0, 1.0)

    def within(self, xs: tuple[float, float], ys: tuple[float, float]) -> Panel:
        """Return the same rectangle with other bounds."""
        return replace(self, xs=xs, ys=ys)

    def x(self, value: float) -> float:
        """Where a value stands on the canvas."""
        return self.x0 + self.width * (value - self.xs[0]) / (self.xs[1] - self.xs[0])

    def y(self, value: float) -> float:
        """Where a value stands on the canvas."""
        return self.y0 + self.height * (self.ys[1] - value) / (self.ys[1] - self.ys[0])

    def points(self, values: Sequence[tuple[float, float]]) -> list[Point]:
        """Where (x, y) values stand."""
        return [(self.x(x), self.y(y)) for x, y in values]

    def line(self, values: Sequence[tuple[float, float]], colour: str, width: float = 1.2, dash: str = "") -> None:
        """Draw a line through data values."""
        self.canvas.path([self.points(values)], colour, width, dash=dash)

    def across(self, value: float, colour: str, width: float = 0.8) -> None:
        """A horizontal line at a value."""
        y = self.y(value)
        self.canvas.path([[(self.x0, y), (self.x0 + self.width, y)]], colour, width)

    def down(self, value: float, colour: str, width: float = 0.8) -> None:
        """A vertical line at a value."""
        x = self.x(value)
        self.canvas.path([[(x, self.y0), (x, self.y0 + self.height)]], colour, width)

    def frame(
        self, xticks: Sequence[float], yticks: Sequence[float], small: float, *,
        xlabels: Sequence[str] | None = None, left: bool = True, below: bool = True, xgrid: bool = True,
        ygrid: bool = True, format_y: Callable[[float], str] = plain, axes: bool = True,
    ) -> None:  # fmt: skip
        """Draw grid lines, the two axes and the tick labels."""
        right, bottom = self.x0 + self.width, self.y0 + self.height
        lines = [[(self.x(v), self.y0), (self.x(v), bottom)] for v in xticks] if xgrid else []
        lines += [[(self.x0, self.y(v)), (right, self.y(v))] for v in yticks] if ygrid else []
        self.canvas.path(lines, "rule", 0.5)
        if axes:
            self.canvas.path([[(self.x0, self.y0), (self.x0, bottom), (right, bottom)]], "muted", 0.7)
        if below:
            for value, words in zip(xticks, xlabels or [plain(v) for v in xticks], strict=True):
                self.canvas.text(
                    self.x(value), bottom + small + 2.5, words, size=small, colour="muted", anchor="middle"
                )
        if left:
            for value in yticks:
                y = self.y(value) + 0.34 * small
                self.canvas.text(self.x0 - 4, y, format_y(value), size=small, colour="muted", anchor="end")

    def title(self, words: str, at_right: str = "") -> None:
        """Write a title above, cut to the width, and a smaller word at the right end."""
        size = self.canvas.size
        room = self.width - (self.canvas.wide(at_right, size) + 6 if at_right else 0)
        self.canvas.text(self.x0, self.y0 - 5, self.canvas.fit(words, size, room))
        if at_right:
            self.canvas.text(self.x0 + self.width, self.y0 - 5, at_right, size=size - 0.8, colour="muted", anchor="end")


def panels(
    sheet: Sheet, count: int, *, height: float, left: float = 34, right: float = 8, top: float = 20,
    bottom: float = 32, gap_x: float = 15, gap_y: float = 26, above: Sequence[float] = (), columns: int | None = None,
) -> tuple[Canvas, list[Panel], int]:  # fmt: skip
    """Return a canvas with `count` panels `height` points tall (before the sheet's factor), and how many stand in a row.

    `above` is room kept over each panel for what stands there; a row has the most that one of its panels needs.
    """
    width = sheet.column if count <= 2 else sheet.width
    most = sheet.per_row if width > 300 else max(1, sheet.per_row // 2)
    columns = min(columns or most, count)
    rows = -(-count // columns)
    extra = [max(above[r * columns : (r + 1) * columns], default=0.0) for r in range(rows)]
    height *= sheet.tall
    if count < columns or width > 600 and count < 3:  # one or two panels would be stretched over a page's width
        width = min(width, left + right + count * 260)
    canvas = Canvas(width, top + bottom + rows * height + (rows - 1) * gap_y + sum(extra), sheet)
    each = (width - left - right - (columns - 1) * gap_x) / columns
    made = []
    for i in range(count):
        row, column = divmod(i, columns)
        y = top + sum(extra[: row + 1]) + row * (height + gap_y)
        made.append(Panel(canvas, left + column * (each + gap_x), y, each, height))
    return canvas, made, columns


def outer(index: int, count: int, columns: int) -> tuple[bool, bool]:
    """Whether a panel is the first of its row and the lowest of its column: those carry the tick labels."""
    return index % columns == 0, index + columns >= count


def below_axis(canvas: Canvas, centre: float, words: str) -> None:
    """Name the horizontal axis at the foot of the canvas, as near to `centre` as its width allows."""
    half = canvas.wide(words, canvas.size) / 2
    canvas.text(max(min(centre, canvas.width - half - 2), half), canvas.height - 3, words, anchor="middle")


def axis_words(canvas: Canvas, panels: Sequence[Panel], below: str, beside: str) -> None:
    """Name the two axes once for all panels."""
    left, right = min(p.x0 for p in panels), max(p.x0 + p.width for p in panels)
    top, bottom = min(p.y0 for p in panels), max(p.y0 + p.height for p in panels)
    below_axis(canvas, (left + right) / 2, below)
    room = bottom - top + 40
    canvas.text(
        canvas.size + 1, (top + bottom) / 2, canvas.fit(beside, canvas.size, room), anchor="middle", upright=True
    )


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a line, a sign or a shape, or several of them, and what they mean."""

    words: str
    colour: str = "ink"
    width: float = 0.0
    dash: str = ""
    shape: str = ""
    swatch: Swatch | None = None
    fill: str = "paper"
    patch: bool = False


def legend(canvas: Canvas, keys: Sequence[Key], x: float, y: float, small: float, room: float) -> float:
    """Write the entries from (x, y) on, in as many lines as `room` points of width need; return the lines' height."""
    at_x, line, step = x, 0, small + 3.5
    for key in keys:
        wide = 22 if key.width else 11
        needed = wide + canvas.wide(key.words, small) + 12
        if at_x > x and at_x + needed - 12 > x + room:
            at_x, line = x, line + 1
        middle = y + line * step - 0.33 * small
        if key.patch:
            canvas.rect(at_x, middle - 3, 8, 6, key.colour)
        if key.width:
            canvas.path([[(at_x, middle), (at_x + 18, middle)]], key.colour, key.width, dash=key.dash)
        centre = at_x + (9 if key.width else 4)
        if key.shape:
            canvas.shape(centre, middle, key.shape, 5.5, key.colour, key.fill)
        if key.swatch:
            canvas.sign(centre, middle, key.swatch, 5.5)
        canvas.text(at_x + wide, y + line * step, key.words, size=small)
        at_x += needed
    return (line + 1) * step
