"""From a matplotlib figure to SVG: an element whose colours follow the page it stands in, or a file of its own.

Figures are drawn once, in the light colours, with what is said about a point in its artist's url. Afterwards the colours become
those of the page, and the url the words shown when the pointer rests on the point. Other formats are made from the SVG.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from reports.parts import Swatch
from reports.style import COLOURS, Sheet, look

TYPEFACE = "DejaVu Sans"
"""Comes with matplotlib, and is wider than what pages and papers are set in: what has room in it has room everywhere."""

_TOKENS = {light: name for name, (light, _) in COLOURS.items()}
_HEAD = re.compile(r".*?</metadata>\s*<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL)
_TIP = re.compile(r"""<a xlink:href=(?:"([^"]*)"|'([^']*)') target="_blank">""")  # quoted as the words allow
_NUMBERS = re.compile(r' (?:d|x|y)="[^"]*"')
_IMAGE = re.compile(r' id="image[0-9a-f]+"')  # after the pixels alone: two equal images have one name
_FINE = re.compile(r"(\.\d)\d+")
_COLOUR = re.compile(r'((?:fill|stroke)(?:: |="))(#[0-9a-f]{6})')


@dataclass(frozen=True)
class Drawing:
    """A finished drawing in the light colours.

    Attributes:
        width, height: in points.
        size: type size of what names no other.
        body: the elements inside `<svg>`.
    """

    width: float
    height: float
    size: float
    body: str


def colour(name: str) -> str:
    """Return the light value of a named colour, which the page replaces by its own."""
    return COLOURS[name][0]


@contextmanager
def settings(sheet: Sheet, salt: str) -> Iterator[None]:
    """Draw for a sheet: what matplotlib is set to inside, and no longer after. `salt` makes the ids of a drawing its own."""
    ink, muted = colour("ink"), colour("muted")
    chosen: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.family": TYPEFACE,
        "font.size": sheet.size, "text.color": ink, "axes.facecolor": "none", "axes.edgecolor": muted,
        "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "axes.labelcolor": ink, "axes.labelsize": sheet.size, "axes.titlesize": sheet.size, "axes.titlelocation": "left",
        "axes.titlepad": 5, "axes.titley": 1.0, "grid.color": colour("rule"), "grid.linewidth": 0.5,
        "lines.scale_dashes": False, "lines.dash_capstyle": "butt", "lines.solid_capstyle": "butt",
        "legend.frameon": False, "legend.fontsize": sheet.small, "legend.borderpad": 0, "legend.borderaxespad": 0,
        "legend.handlelength": 2.4, "legend.handletextpad": 0.5, "legend.columnspacing": 1.4, "legend.labelspacing": 0.4,
    }  # fmt: skip
    for axis in ("xtick", "ytick"):
        chosen |= {f"{axis}.major.size": 0, f"{axis}.major.pad": 4, f"{axis}.color": muted}
        chosen |= {f"{axis}.labelsize": sheet.small, f"{axis}.minor.visible": False}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's typeface may well have what ours lacks
        matplotlib.rcParams.update(chosen)
        yield


def finish(figure: Figure, sheet: Sheet) -> Drawing:
    """Return the drawing of a figure whose size is in points at 72 dots per inch; call it within `settings`."""
    width, height = (float(72 * v) for v in figure.get_size_inches())
    out = io.StringIO()
    renderer: Any = _Renderer(width, height, out, image_dpi=72)  # type: ignore[no-untyped-call]
    figure.draw(renderer)
    renderer.finalize()
    body = _HEAD.sub("", out.getvalue(), count=1).rpartition("</svg>")[0]
    body = _TIP.sub(lambda m: f"<g><title>{m[1] or m[2]}</title>", body).replace("</a>", "</g>")
    body = _IMAGE.sub("", body)
    body = _NUMBERS.sub(lambda m: _FINE.sub(r"\1", m[0].replace(" \n", "").replace("\n", "")), body)
    return Drawing(width, height, sheet.size, re.sub(r"\n\s*", "\n", body).strip())


class _Renderer(RendererSVG):  # type: ignore[misc]
    """matplotlib's, with bare groups left out and text in the typeface of whatever the drawing stands in."""

    def open_group(self, s: str, gid: str | None = None) -> None:
        """Groups only carry ids, which several drawings on a page would share."""

    def close_group(self, s: str) -> None:
        """See open_group."""

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        """Write text as text, anchored where it was asked to be, so that another typeface leaves it in its place."""
        attributes = {}
        if mtext is not None:
            at, _ = mtext.get_transform().transform(mtext.get_unitless_position())
            _, middle = mtext.get_transform().transform(mtext.get_unitless_position())
            if angle == 0:
                x = at
            else:
                y = self.height - middle
            attributes["text-anchor"] = {"left": "start", "right": "end", "center": "middle"}[
                mtext.get_ha() if angle == 0 else {"bottom": "left", "top": "right"}.get(mtext.get_va(), "center")
            ]
        ink = "#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in gc.get_rgb()[:3]))
        attributes |= {"x": f"{x:.1f}", "y": f"{y:.1f}", "font-size": f"{prop.get_size_in_points():g}", "fill": ink}
        if angle:
            attributes["transform"] = f"rotate({-angle:g} {x:.1f} {y:.1f})"
        if attributes.get("text-anchor") == "start":
            del attributes["text-anchor"]
        if ink == colour("ink"):
            del attributes["fill"]
        self.writer.element("text", s, attrib=attributes)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return how wide `text` is in points; rather too much than too little in most typefaces."""
    font = get_font(findfont(TYPEFACE))
    font.set_size(100, 72)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        font.set_text(text, 0.0, flags=LoadFlags.NO_HINTING)
    return float(font.get_width_height()[0]) / 64 * size / 100


def fit(text: str, size: float, room: float) -> str:
    """Return `text`, cut so that it is at most `room` points wide."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1].rstrip()
    return text + "…"


def inline(drawing: Drawing, alt: str) -> str:
    """Return the drawing as an `<svg>` element; `alt` says in words what can be seen and is read out instead."""
    natural = f"{drawing.width * 1.6:.0f}px"
    # On a narrow screen it scrolls before it is too small to read.
    style = f"max-width:{natural};min-width:min({natural},38rem)"
    body = _COLOUR.sub(lambda m: f"{m[1]}var(--{_TOKENS[m[2]]})", f"{_attributes(drawing)}>\n{drawing.body}")
    return f'<svg role="img" aria-label="{escape(alt)}" style="{style}" {body}\n</svg>'


def standalone(drawing: Drawing, alt: str, font: str) -> str:
    """Return the drawing as an SVG document in the light colours, `width` and `height` in points."""
    size = f'width="{drawing.width:g}pt" height="{drawing.height:g}pt"'
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = f"{_attributes(drawing)}>\n{drawing.body}\n<desc>{escape(alt)}</desc>"
    return f'<svg {space} {size} role="img" font-family="{font}" {body}\n</svg>\n'


def _attributes(drawing: Drawing) -> str:
    box = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    return f'{box} font-size="{drawing.size:g}" stroke-linejoin="round" fill="{colour("ink")}"'


@lru_cache(maxsize=32)
def marker_path(marker: str) -> Path:
    """Return matplotlib's marker of diameter 1."""
    style = MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform())


@lru_cache(maxsize=128)
def sign(swatch: Swatch) -> str:
    """Return an arm's sign as a small `<svg>` for tables."""
    body = _COLOUR.sub(lambda m: f"{m[1]}var(--{_TOKENS[m[2]]})", _shape(swatch))
    return f'<svg class="sign" viewBox="-7.2 -7.2 14.4 14.4" aria-hidden="true">{body}</svg>'


@lru_cache(maxsize=128)
def sign_document(swatch: Swatch) -> str:
    """Return an arm's sign as an SVG document in the light colours."""
    space = 'xmlns="http://www.w3.org/2000/svg"'
    return f'<svg {space} viewBox="-7.2 -7.2 14.4 14.4" width="7" height="7">{_shape(swatch)}</svg>'


def _shape(swatch: Swatch) -> str:
    drawn, edge = look(swatch.method), 1.8 if swatch.hollow else 0.6
    fill = colour("paper" if swatch.hollow else drawn.colour)
    style = f'fill="{fill}" stroke="{colour(drawn.colour)}" stroke-width="{edge}"'
    if drawn.marker == "o":
        return f'<circle r="5" {style}/>'
    (corners,) = 10 * np.asarray(marker_path(drawn.marker).to_polygons()[:1])
    points = " ".join(f"{x:.1f},{-y:.1f}" for x, y in corners)
    return f'<polygon points="{points}" {style}/>'
