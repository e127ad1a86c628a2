"""What the figures share on matplotlib's Axes: panels at places given in points, signs with hover words, legends; and the SVG.

A figure is drawn once, in the light colours. What is said about a point is its artist's url, which becomes the words shown
when the pointer rests on the point.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports.draw.style import DASHES, Sheet, colour, look
from reports.draw.svg import TYPEFACE, Drawing, fit, text_width
from reports.view.parts import Swatch

Point = tuple[float, float]


@contextmanager
def settings(sheet: Sheet, salt: str) -> Iterator[None]:
    """Draw for a sheet, whatever the reader's matplotlibrc says, and leave matplotlib as it was; `salt` makes ids unique."""
    muted, rule, ink = colour("muted"), colour("rule"), colour("ink")
    chosen: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "svg.image_inline": True, "image.composite_image": False,
        "text.parse_math": False, "text.color": ink, "font.family": [TYPEFACE], "font.size": sheet.small,
        "figure.facecolor": colour("paper"), "figure.dpi": 72, "savefig.facecolor": "auto", "path.simplify": False,
        "lines.scale_dashes": False, "lines.solid_capstyle": "butt", "lines.linewidth": 1.2,
        "axes.facecolor": "none", "axes.edgecolor": muted, "axes.linewidth": 0.7, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True,
        "grid.color": rule, "grid.linewidth": 0.5, "axes.titlesize": sheet.size, "axes.titley": 1.0, "axes.titlepad": 5,
        "xtick.color": muted, "ytick.color": muted, "xtick.major.size": 0, "ytick.major.size": 0,
        "xtick.major.pad": 4, "ytick.major.pad": 4, "legend.frameon": False, "legend.fontsize": sheet.small,
        "legend.handlelength": 2.4, "legend.handletextpad": 0.5, "legend.columnspacing": 1.4,
        "legend.labelspacing": 0.35, "legend.borderpad": 0.0, "legend.borderaxespad": 0.0,
    }  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(chosen)
        yield


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of so many points, on paper: a file of its own is readable on a dark page too."""
    return Figure(figsize=(width / 72, height / 72))


def size_of(figure: Figure | SubFigure) -> Point:
    """Return a figure's width and height in points."""
    box = figure.bbox
    return float(box.width), float(box.height)


def panel(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return Axes whose upper left corner is `x` points from the left and `y` from the top."""
    wide, tall = size_of(figure)
    return figure.add_axes((x / wide, (tall - y - height) / tall, width / wide, height / tall))


def grid(
    sheet: Sheet, count: int, *, height: float, left: float = 34, top: float = 20, gap_y: float = 24,
    above: Sequence[float] = (), shared: bool = True,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Return a figure with `count` panels `height` points tall (before the sheet's factor).

    `above` is room kept over each panel for what stands there; a row has the most that one of its panels needs. Where the
    scales are `shared`, tick labels stand at the first panel of a row and the lowest of a column only.
    """
    width, right, bottom, gap_x = sheet.column if count <= 2 else sheet.width, 8, 32, 13
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
        if shared:
            made[-1].tick_params(labelleft=column == 0, labelbottom=i + columns >= count)
    return figure, made


def named_rows(names: Sequence[str], sheet: Sheet, *, pitch: float, top: float, right: float) -> tuple[Figure, Axes]:
    """Return a figure with one named line for each row, the first at the top, and `right` points free beside the Axes."""
    width = sheet.column
    room = min(0.42 * width, 8 + max(text_width(name, sheet.small) for name in names))
    tall = pitch * (0.5 + 0.5 * sheet.tall) * len(names)
    figure = blank(width, top + tall + 34)
    on = panel(figure, room, top, width - room - right, tall)
    on.set_ylim(len(names) - 0.5, -0.5)
    on.set_yticks(range(len(names)), [fit(name, sheet.small, room - 8) for name in names])
    on.tick_params(axis="y", labelcolor=colour("ink"))
    on.spines[:].set_visible(False)
    on.grid(axis="x")
    on.grid(visible=False, axis="y")
    return figure, on


def plain(value: float) -> str:
    """Format a tick: no needless zeros, a true minus sign."""
    return f"{value:g}".replace("-", "\u2212")


def scale(axis: Any, low: float, high: float, most: int = 6, words: Callable[[float], str] = plain) -> None:
    """Set the bounds of `Axes.xaxis` or `Axes.yaxis` (a falling pair turns it round), and at most `most` round ticks.

    Equal bounds, where all values are one, give an axis one unit long.
    """
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high + (low == high))})
    axis.set_major_locator(MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: words(value))


def title(on: Axes, sheet: Sheet, words: str, at_right: str = "") -> None:
    """Write a title above, cut to the width, and a smaller word at the right end."""
    room = on.get_position().width * size_of(on.figure)[0]
    on.set_title(fit(words, sheet.size, room - text_width(at_right + " ", sheet.size)), loc="left")
    if at_right:
        on.set_title(at_right, loc="right", fontsize=sheet.size - 0.8, color=colour("muted"))


def name_axes(figure: Figure, below: str, beside: str, sheet: Sheet) -> None:
    """Name the two axes once for all panels."""
    places = [on.get_position() for on in figure.axes]
    wide, tall = size_of(figure)
    x, half = (min(p.x0 for p in places) + max(p.x1 for p in places)) / 2, text_width(below, sheet.size) / 2 / wide
    figure.text(max(min(x, 1 - half - 2 / wide), half), 3 / tall, below, ha="center", va="baseline", size=sheet.size)
    low, high = min(p.y0 for p in places), max(p.y1 for p in places)
    words = fit(beside, sheet.size, (high - low) * tall + 40)
    figure.text(
        0.9 * sheet.size / wide, (low + high) / 2, words, ha="center", va="baseline", rotation=90,
        rotation_mode="anchor", size=sheet.size,
    )  # fmt: skip


def line(
    on: Axes, points: Sequence[Point], name: str, width: float, dash: str = "", tip: str = "", clip: bool = False
) -> None:
    """Draw a line through data values; `clip` cuts it at the edges."""
    if points:
        (made,) = on.plot(*zip(*points, strict=True), color=colour(name), lw=width, ls=_pattern(dash), clip_on=clip)
        made.set_url(tip or None)


def segments(on: Axes, ends: Sequence[Sequence[Point]], name: str, width: float, alpha: float = 1.0) -> None:
    """Draw lines that look alike, such as intervals; one without a point is left out."""
    made = LineCollection(list(filter(None, ends)), colors=colour(name), linewidths=width, alpha=alpha, clip_on=False)
    on.add_collection(made, autolim=False)


def _pattern(dash: str) -> Any:
    return (0, tuple(map(float, dash.split()))) if dash else "-"


def signs(on: Axes, points: Sequence[Point], swatch: Swatch, tips: Sequence[str], size: float) -> None:
    """Draw an arm's sign at each point, hollow where it was not trained for; each shows its words under the pointer."""
    drawn = look(swatch.method)
    edge = 0.18 * size if swatch.hollow else 0.06 * size
    shapes(on, points, drawn.marker, drawn.colour, "paper" if swatch.hollow else drawn.colour, tips, size, edge)


def shapes(
    on: Axes, points: Sequence[Point], marker: str, edge: str, inside: str, tips: Sequence[str], size: float,
    width: float = 1,
) -> None:  # fmt: skip
    """Draw a marker `size` points wide at each point."""
    if points:
        made = on.scatter(
            [x for x, _ in points], [y for _, y in points], s=size**2, marker=marker, facecolors=colour(inside),
            edgecolors=colour(edge), linewidths=width, zorder=3, clip_on=False,
        )  # fmt: skip
        made.set_urls(list(tips))


def key(words: str, name: str = "ink", width: float = 0, dash: str = "", marker: str = "", inside: str = "") -> Line2D:
    """Return a legend's entry: a line (none at width 0), a marker or both."""
    return Line2D(
        [], [], label=words, color=colour(name), lw=width, ls=_pattern(dash) if width else "", marker=marker,
        markersize=5.5, markeredgewidth=1, markerfacecolor=colour(inside or "paper"),
    )  # fmt: skip


def box_key(words: str, name: str, alpha: float = 1.0) -> Patch:
    """Return a legend's entry: a filled box."""
    return Patch(label=words, facecolor=colour(name), alpha=alpha, linewidth=0)


def arm_dashes(count: int, full: bool) -> list[str]:
    """Return the dashes that tell arms of one panel apart; with `full` the first is the full model, solid."""
    return ["" if full and not i else DASHES[(i - full) % len(DASHES)] for i in range(count)]


def legend_height(entries: Sequence[Artist], sheet: Sheet, x: float, width: float) -> float:
    """Return how tall a legend is that begins `x` points from the left of a figure `width` points wide."""
    return -(-len(entries) // _columns(entries, sheet, width - x - 4)) * 1.55 * sheet.small


def legend(figure: Figure, entries: Sequence[Artist], sheet: Sheet, x: float) -> None:
    """Write a legend from `x` points from the left on, at the top, in as many columns as fit beside each other."""
    width, height = size_of(figure)
    columns = _columns(entries, sheet, width - x - 4)
    figure.legend(handles=entries, ncols=columns, loc="upper left", bbox_to_anchor=(x / width, 1 - 4 / height))


def _columns(entries: Sequence[Artist], sheet: Sheet, room: float) -> int:
    """The most columns, filled from the top down, that fit beside each other."""
    widths = [4.3 * sheet.small + text_width(str(entry.get_label()), sheet.small) for entry in entries]
    for columns in range(len(entries), 1, -1):
        rows = -(-len(entries) // columns)
        if sum(max(widths[first : first + rows]) for first in range(0, len(entries), rows)) <= room:
            return -(-len(entries) // rows)
    return 1


KEYED = 1.45
"""Height of a line of the keys above a panel, as a multiple of the type size."""


def keyed(on: Axes, sheet: Sheet, entries: Sequence[Artist]) -> None:
    """Write the keys above a panel, one under the other, names cut to its width."""
    room = on.get_position().width * size_of(on.figure)[0] - 2.6 * sheet.small
    for entry in entries:
        entry.set_label(fit(str(entry.get_label()), sheet.small, room))
    on.legend(handles=entries, loc="lower left", bbox_to_anchor=(0, 1.03), handlelength=2)


def finish(figure: Figure, sheet: Sheet) -> Drawing:
    """Return the drawing of a figure; call it within `settings`."""
    width, height = size_of(figure)
    out = io.BytesIO()
    with warnings.catch_warnings():  # text stays text: the reader's typefaces have what this one lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(out, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    used = {name for e in root.iter() for value in e.attrib.values() for name in _REFERENCE.findall(value)}
    body = "".join(_markup(child, used) for child in root)
    return Drawing(width, height, sheet.size, body.strip())


_REFERENCE = re.compile(r"#([^\s)]+)")
_LINK = "{http://www.w3.org/1999/xlink}href"
_FINE = re.compile(r"(?<=\.\d)\d+")
_NUMBERS = ("d", "x", "y", "width", "height")
_USUAL = ("start", colour("ink"))


def _markup(element: ElementTree.Element, used: set[str]) -> str:
    """Matplotlib's SVG in fewer bytes: no groups without effect, links as titles, text in the typeface around it."""
    tag = element.tag.rpartition("}")[2]
    if tag in ("metadata", "style"):
        return ""
    inner = "".join(_markup(child, used) for child in element)
    given = {name.replace(_LINK, "xlink:href"): value for name, value in element.attrib.items()}
    if given.get("id") not in used:
        given.pop("id", None)
    for name in _NUMBERS & given.keys():
        given[name] = _FINE.sub("", " ".join(given[name].split()))
    if tag == "a":
        return f"<g><title>{escape(given['xlink:href'], quote=False)}</title>{inner}</g>\n"
    if tag == "text":
        style = dict(part.split(": ", 1) for part in given.pop("style").split("; "))
        given["font-size"] = style["font-size"].removesuffix("px")
        given |= {name: style[name] for name in ("fill", "text-anchor") if style.get(name, "start") not in _USUAL}
        if given.get("transform", "").startswith("rotate(-0"):
            del given["transform"]
        inner = escape(element.text or "", quote=False)
    if not inner and tag in ("g", "defs") or tag == "g" and not given:
        return inner
    told = "".join(f' {name}="{escape(value)}"' for name, value in given.items() if value)
    return f"<{tag}{told}>{inner}</{tag}>\n" if inner else f"<{tag}{told}/>\n"
