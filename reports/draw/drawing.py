"""From a matplotlib figure to the elements of an SVG.

Figures are drawn once, in the light colours, with what is said about a point in its artist's url, which here becomes the words
shown when the pointer rests on the point.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from reports.draw.style import Sheet
from reports.draw.svg import Drawing, colour

_HEAD = re.compile(r".*?</metadata>\s*<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL)
_TIP = re.compile(r"""<a xlink:href=(?:"([^"]*)"|'([^']*)') target="_blank">""")  # quoted as the words allow
_NUMBERS = re.compile(r' (?:d|x|y)="[^"]*"')
_IMAGE = re.compile(r' id="image[0-9a-f]+"')  # after the pixels alone: two equal images have one name
_FINE = re.compile(r"(?<=\.\d)\d+")


@contextmanager
def settings(sheet: Sheet, salt: str) -> Iterator[None]:
    """Draw for a sheet: what matplotlib is set to inside, and no longer after. `salt` makes the ids of a drawing its own."""
    chosen: dict[Any, Any] = {
        "svg.hashsalt": salt, "svg.image_inline": True, "path.simplify": False, "path.sketch": None,
        "lines.scale_dashes": False,
    }  # fmt: skip
    with matplotlib.rc_context(chosen):
        yield


def finish(figure: Figure, sheet: Sheet) -> Drawing:
    """Return the drawing of a figure whose size is in points at 72 dots per inch; call it within `settings`."""
    width, height = (float(72 * v) for v in figure.get_size_inches())
    out = io.StringIO()
    renderer: Any = _Renderer(width, height, out)
    figure.draw(renderer)
    renderer.finalize()
    body = _HEAD.sub("", out.getvalue(), count=1).rpartition("</svg>")[0]
    body = _TIP.sub(lambda m: f"<g><title>{m[1] or m[2]}</title>", body).replace("</a>", "</g>")
    body = _IMAGE.sub("", body)
    body = _NUMBERS.sub(lambda m: _FINE.sub("", m[0].replace(" \n", "").replace("\n", "")), body)
    return Drawing(width, height, sheet.size, re.sub(r"\n\s*", "\n", body).strip())


class _Renderer(RendererSVG):  # type: ignore[misc]
    """matplotlib's, with bare groups left out and text in the typeface of whatever the drawing stands in."""

    def __init__(self, width: float, height: float, out: io.StringIO) -> None:
        super().__init__(width, height, out, image_dpi=72)  # type: ignore[no-untyped-call]
        self._shapes: set[str] = set()

    def open_group(self, s: str, gid: str | None = None) -> None:
        """Groups only carry ids, which several drawings on a page would share."""

    def close_group(self, s: str) -> None:
        """See open_group."""

    def write(self, words: Words) -> None:
        """Write text as text, anchored where it was asked to be, so that another typeface leaves it in its place."""
        x, y = f"{words.x:.1f}", f"{self.height - words.y:.1f}"
        attributes = {"x": x, "y": y, "font-size": f"{words.size:g}"}
        if words.anchor != "start":
            attributes["text-anchor"] = words.anchor
        if words.ink != colour("ink"):
            attributes["fill"] = words.ink
        if words.turned:
            attributes["transform"] = f"rotate(-90 {x} {y})"
        self.writer.element("text", words.words, attrib=attributes)

    def mark(self, signs: Signs) -> None:
        """Write markers as uses of one shape, which is written where it is first used."""
        matplotlibs = cast(Any, self)  # the two have no types
        upright = Affine2D().scale(signs.size).scale(1.0, -1.0)
        path = matplotlibs._convert_path(marker_path(signs.marker), upright, simplify=False)
        name = matplotlibs._make_id("m", path)
        if name not in self._shapes:
            self._shapes.add(name)
            self.writer.start("defs")
            self.writer.element("path", id=name, d=path)
            self.writer.end("defs")
        look = {"fill": signs.fill, "stroke": signs.edge, "stroke-width": f"{signs.width:g}"}
        self.writer.start("g", attrib=look)
        for (x, y), tip in zip(signs.points, signs.tips, strict=True):
            place = {"xlink:href": f"#{name}", "x": f"{x:.1f}", "y": f"{self.height - y:.1f}"}
            if tip:
                self.writer.start("g")
                self.writer.element("title", tip)
            self.writer.element("use", attrib=place)
            if tip:
                self.writer.end("g")
        self.writer.end("g")


class Signs(Artist):
    """Markers that look alike, at points from the lower left; each shows its words under the pointer, none where they are empty.

    Attributes:
        points: [n, 2].
        edge, fill: light values of colours.
        size, width: across and of the edge, in points.
    """

    def __init__(
        self, points: np.ndarray, marker: str, edge: str, fill: str, size: float, width: float, tips: Sequence[str]
    ) -> None:
        super().__init__()
        self.points, self.marker, self.tips = points, marker, tips
        self.edge, self.fill, self.size, self.width = edge, fill, size, width
        self.set_zorder(3)

    def draw(self, renderer: Any) -> None:
        """Hand the markers to the renderer, which must be this module's."""
        renderer.mark(self)


class Words(Artist):
    """A line of text, in points from the lower left; matplotlib's Text would be measured first, and `anchor` makes that needless.

    Attributes:
        x, y: where the baseline begins, ends or has its middle, as `anchor` (start, end, middle) says.
        ink: the light value of a colour.
        turned: whether it runs upwards.
    """

    def __init__(self, x: float, y: float, words: str, size: float, ink: str, anchor: str, turned: bool) -> None:
        super().__init__()
        self.x, self.y, self.words, self.size = x, y, words, size
        self.ink, self.anchor, self.turned = ink, anchor, turned
        self.set_zorder(3)

    def draw(self, renderer: Any) -> None:
        """Hand the text to the renderer, which must be this module's."""
        renderer.write(self)


class Pixels(Artist):
    """A picture [rows, columns, 4], the first row at the bottom, that fills a rectangle given in points from the lower left."""

    def __init__(self, pixels: np.ndarray, x: float, y: float, width: float, height: float) -> None:
        super().__init__()
        self.pixels, self.place = pixels, (x, y, width, height)

    def draw(self, renderer: Any) -> None:
        """Hand the picture to the renderer, which scales it."""
        x, y, width, height = self.place
        context = renderer.new_gc()
        renderer.draw_image(context, x, y, self.pixels, Affine2D().scale(width, height))
        context.restore()


@lru_cache(maxsize=32)
def marker_path(marker: str) -> Path:
    """Return matplotlib's marker of diameter 1."""
    style = MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform())
