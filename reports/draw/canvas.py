"""What the figures share on matplotlib's Axes: panels, axes of ratios, intervals cut at the edge, names at lines; and the SVG.

A figure is drawn once, in the light colours. What is said about a point is its artist's url, which becomes the words shown
when the pointer or the keyboard rests on it; an artist's gid names its method, by which the page picks it out.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, NullLocator

from reports.draw.style import Sheet, colour, look
from reports.draw.svg import TYPEFACE, Drawing, text_width
from reports.view.parts import Swatch

Point = tuple[float, float]
ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Where an axis of ratios may have ticks, and these times powers of ten."""


@contextmanager
def settings(sheet: Sheet, salt: str) -> Iterator[None]:
    """Draw for a sheet, whatever the reader's matplotlibrc says, and leave matplotlib as it was; `salt` makes ids unique."""
    muted, ink = colour("muted"), colour("ink")
    chosen: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "svg.image_inline": True, "image.composite_image": False,
        "text.parse_math": False, "text.hinting": "none", "text.color": ink, "font.family": [TYPEFACE], "font.size": sheet.small,
        "figure.facecolor": colour("paper"), "figure.dpi": 72, "figure.labelsize": sheet.size, "savefig.facecolor": "auto",
        "path.simplify": False, "lines.scale_dashes": False, "lines.solid_capstyle": "butt", "lines.linewidth": 1.3,
        "figure.constrained_layout.use": True, "figure.constrained_layout.h_pad": 2 / 72,
        "figure.constrained_layout.w_pad": 3 / 72, "figure.constrained_layout.hspace": 0.04,
        "axes.facecolor": "none", "axes.edgecolor": muted, "axes.linewidth": 0.7, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "axes.titlesize": sheet.small,
        "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlepad": 4, "axes.labelsize": sheet.size,
        "grid.color": colour("rule"), "grid.linewidth": 0.5, "xtick.color": muted, "ytick.color": muted,
        "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False, "legend.fontsize": sheet.small,
        "legend.handlelength": 2, "legend.columnspacing": 1.4, "legend.borderpad": 0.0, "legend.borderaxespad": 0.0,
    }  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(chosen)
        yield


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of so many points, on paper: a file of its own is readable on a dark page too."""
    return Figure(figsize=(width / 72, height / 72))


def panels(sheet: Sheet, count: int, height: float, *, wide: bool = False, **share: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels `height` points tall (before the sheet's factor), as many in a row as fit."""
    width = sheet.column if count < 2 and not wide else sheet.width
    rows = -(-count // sheet.per_row)
    columns = -(-count // rows)  # as even as can be
    figure = blank(width, rows * (height * sheet.tall + 18) + 24)
    made = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for spare in made[count:]:
        spare.remove()
    return figure, list(made[:count])


def named_rows(names: Sequence[str], sheet: Sheet, pitch: float, above: float) -> tuple[Figure, Axes]:
    """Return a figure with one named line for each row, the first at the top, and `above` points free for a legend."""
    width = sheet.column if len(names) <= 8 and sheet.column < 300 else sheet.width
    figure = blank(width, pitch * len(names) + above + 34)
    on = figure.subplots()
    on.set_ylim(len(names) - 0.5, -0.5)
    on.set_yticks(range(len(names)), [wrapped(name, sheet, 150) for name in names])
    on.tick_params(axis="y", labelcolor=colour("ink"))
    on.spines[:].set_visible(False)
    on.grid(visible=False, axis="y")
    return figure, on


def wrapped(words: str, sheet: Sheet, room: float) -> str:
    """Return words in lines that are about `room` points wide; nothing of them is lost."""
    each = text_width(words, sheet.small) / max(len(words), 1)
    return "\n".join(textwrap.wrap(words, max(8, int(room / max(each, 1))))) or words


def title(on: Axes, words: str, sheet: Sheet) -> None:
    """Write a title over a panel, in as many lines as it needs."""
    grid = on.get_subplotspec()
    columns = grid.get_gridspec().ncols if grid else 1
    on.set_title(wrapped(words, sheet, 72 * float(on.figure.get_figwidth()) / columns - 40))  # type: ignore[union-attr]


def ratio_axis(axis: Any, values: Iterable[float], most: int = 7, words: Callable[[float], str] | None = None) -> None:
    """Make `Axes.xaxis` or `Axes.yaxis` logarithmic over the values, points and no intervals, with round ticks."""
    found = [v for v in values if v > 0] or [1.0]
    low, high = min(found), max(found)
    if high < 1.25 * low:
        low, high = low / 1.12, high * 1.12
    pad = (high / low) ** 0.07
    low, high = low / pad, high * pad
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    exponents = range(-6, 7)
    ticks = [t for e in exponents for m in ROUND if low <= (t := m * 10.0**e) <= high]
    for fewer in ((1.0, 1.5, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        if len(ticks) > most:
            ticks = [t for e in exponents for m in fewer if low <= (t := m * 10.0**e) <= high]
    if len(ticks) < 2:  # a narrow range: even steps
        ticks = [t for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]
    axis.set_ticks(ticks, [(words or plain)(t) for t in ticks])
    axis.set_minor_locator(NullLocator())


def plain(value: float) -> str:
    """Format a tick: no needless zeros, a true minus sign."""
    return f"{value:.6g}".replace("-", "\u2212")


def spans(on: Axes, ends: Sequence[tuple[Point, Point]], name: str, width: float = 1.0, alpha: float = 0.6) -> None:
    """Draw intervals in data values, cut at the edges of the panel, with an arrow where one goes on beyond."""
    (x0, x1), (y0, y1) = sorted(on.get_xlim()), sorted(on.get_ylim())
    made = LineCollection(list(ends), colors=colour(name), linewidths=width, alpha=alpha)
    on.add_collection(made, autolim=False)
    turned = on.yaxis_inverted()
    for start, end in ends:
        for x, y in (start, end):
            flat = start[1] == end[1]
            beyond = (">" if x > x1 else "<" if x < x0 else "") if flat else ("^" if y > y1 else "v" if y < y0 else "")
            inside = y0 <= y <= y1 if flat else x0 <= x <= x1
            if beyond and inside:
                beyond = {"^": "v", "v": "^"}.get(beyond, beyond) if turned else beyond
                at = min(max(x, x0), x1), min(max(y, y0), y1)
                on.plot(*at, beyond, color=colour(name), ms=3.2, mew=0, alpha=alpha, clip_on=False)


def line(on: Axes, points: Sequence[Point], swatch: Swatch | None, name: str = "", **how: Any) -> None:
    """Draw a line through data values in the colour of a method, or the one named."""
    if points:
        shade = colour(name or (look(swatch.method).colour if swatch else "muted"))
        (made,) = on.plot(*zip(*points, strict=True), **{"color": shade, **how})
        made.set_gid(method_id(swatch))


def signs(on: Axes, points: Sequence[Point], swatch: Swatch, tips: Sequence[str], size: float = 5, **how: Any) -> None:
    """Draw an arm's sign at each point, hollow where it was not trained for; each shows its words when asked."""
    drawn = look(swatch.method)
    edge = 0.18 * size if swatch.hollow else 0.06 * size
    inside = "paper" if swatch.hollow else drawn.colour
    shapes(on, points, drawn.marker, drawn.colour, inside, tips, size, edge, swatch=swatch, **how)


def shapes(
    on: Axes, points: Sequence[Point], marker: str, edge: str, inside: str, tips: Sequence[str], size: float,
    width: float = 1, swatch: Swatch | None = None, **how: Any,
) -> None:  # fmt: skip
    """Draw a marker `size` points wide at each point."""
    if points:
        filled: dict[str, Any] = {} if marker == "|" else {"edgecolors": colour(edge)}
        made = on.scatter(
            [x for x, _ in points], [y for _, y in points], s=size**2, marker=marker, linewidths=width, zorder=3,
            facecolors=colour(inside if filled else edge), clip_on=False, **filled, **how,
        )  # fmt: skip
        made.set_urls(list(tips))
        made.set_gid(method_id(swatch))


def method_id(swatch: Swatch | None) -> str | None:
    """The mark by which the page finds what belongs to a method."""
    return f"method:{swatch.method}" if swatch else None


_MISSING = "Glyph .* missing from"
"""What matplotlib says of characters its typeface lacks: the reader's has them."""


def lay_out(figure: Figure) -> None:
    """Give panels and what stands around them their places, once: what is written afterwards moves nothing."""
    engine = figure.get_layout_engine()
    if engine is not None and isinstance(engine, ConstrainedLayoutEngine):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _MISSING, UserWarning)
            for _ in range(2):  # ticks know what they need room for only where the panel has its size
                engine.execute(figure)
        figure.set_layout_engine("none")


def named_ends(figure: Figure, ends: Sequence[tuple[Axes, Point, str, Swatch]], sheet: Sheet) -> None:
    """Write each line's name at its end, in each panel pushed apart until none covers another. Call it when all else is drawn."""
    by_panel: dict[Axes, list[tuple[Point, Annotation]]] = {}
    for on, point, words, swatch in ends:
        made = on.annotate(
            words, point, (5, 0), textcoords="offset points", va="center_baseline", annotation_clip=False,
            color=colour(look(swatch.method).colour),
        )  # fmt: skip
        made.set_gid(method_id(swatch))
        by_panel.setdefault(on, []).append((point, made))
    lay_out(figure)
    for on, some in by_panel.items():
        placed = sorted(
            ((float(on.transData.transform(point)[1]), made) for point, made in some), key=lambda end: end[0]
        )
        at: list[float] = []
        for y, _ in placed:
            at.append(max([y, *(last + 1.1 * sheet.small for last in at[-1:])]))
        over = max(0.0, at[-1] - float(on.bbox.y1) - sheet.small)
        for place, (y, made) in zip(at, placed, strict=True):
            made.xyann = (5, place - y - over)


def key(words: str, name: str = "ink", marker: str = "", inside: str = "", **how: Any) -> Line2D:
    """Return a legend's entry: a line (none at width 0), a marker or both."""
    chosen: dict[str, Any] = {
        "lw": 0,
        "ms": 5,
        "mew": 1,
        "mfc": colour(inside or "paper"),
        "color": colour(name),
        **how,
    }
    return Line2D([], [], label=words, marker=marker, **chosen)


def legend(figure: Figure, entries: Sequence[Artist], sheet: Sheet) -> None:
    """Write a legend above everything, in as many columns as fit beside each other."""
    room = 72 * float(figure.get_figwidth()) - 8
    widest = max(4.6 * sheet.small + text_width(str(entry.get_label()), sheet.small) for entry in entries)
    columns = max(1, min(len(entries), int(room / widest)))
    figure.legend(handles=list(entries), ncols=columns, loc="outside upper left")


def finish(figure: Figure, sheet: Sheet) -> Drawing:
    """Return the drawing of a figure; call it within `settings`."""
    lay_out(figure)
    width, height = (72 * float(v) for v in figure.get_size_inches())
    out = io.BytesIO()
    with warnings.catch_warnings():  # text stays text: the reader's typefaces have what this one lacks
        warnings.filterwarnings("ignore", _MISSING, UserWarning)
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
    if given.get("id", "").startswith("method:"):
        given["data-m"] = given.pop("id").removeprefix("method:")
    elif given.get("id") not in used:
        given.pop("id", None)
    for name in _NUMBERS & given.keys():
        given[name] = _FINE.sub("", " ".join(given[name].split()))
    if tag == "a":
        return f"<g><title>{escape(given['xlink:href'], quote=False)}</title>{inner}</g>\n"
    if tag == "text":
        style = dict(part.split(": ", 1) for part in given.pop("style").split("; "))
        given["font-size"] = style["font-size"].removesuffix("px")
        given |= {name: style[name] for name in ("fill", "text-anchor") if style.get(name, "start") not in _USUAL}
        if style.get("font-weight") or style.get("font", "").startswith(("bold", "700")):
            given["font-weight"] = "600"
        if given.get("transform", "").startswith("rotate(-0"):
            del given["transform"]
        inner = escape(element.text or "", quote=False)
    if not inner and tag in ("g", "defs") or tag == "g" and not given:
        return inner
    told = "".join(f' {name}="{escape(value)}"' for name, value in given.items() if value)
    return f"<{tag}{told}>{inner}</{tag}>\n" if inner else f"<{tag}{told}/>\n"
