"""Finished drawings as SVG: an element whose colours follow the page it stands in, or a file of its own; and the signs of arms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from html import escape

import numpy as np
from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.markers import MarkerStyle

from reports.draw.style import COLOURS, colour, look
from reports.view.parts import Swatch

TYPEFACE = "DejaVu Sans"
"""Comes with matplotlib, and is wider than what pages and papers are set in: what has room in it has room everywhere."""

_TOKENS = {light: name for name, (light, _) in COLOURS.items()}
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


def text_width(text: str, size: float) -> float:
    """Return how wide `text` is in points; rather too much than too little in most typefaces."""
    return size * sum(map(_width, text))


@lru_cache(maxsize=4096)
def _width(character: str) -> float:
    """The width of a character as a share of the type size; an em where the typeface lacks it."""
    font = get_font(findfont(TYPEFACE))
    font.set_size(100, 72)
    if not font.get_char_index(ord(character)):
        return 1.0
    return float(font.load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / 100


def fit(text: str, size: float, room: float) -> str:
    """Return `text`, cut so that it is at most `room` points wide."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1].rstrip()
    return text + "…"


def inline(drawing: Drawing, alt: str) -> str:
    """Return the drawing as an `<svg>` element; `alt` says in words what can be seen and is read out instead."""
    natural = f"{drawing.width * 1.8:.0f}px"
    # On a narrow screen a wide one scrolls before it is too small to read.
    least = f"min-width:min({natural},40rem)" if drawing.width > 400 else ""
    style = f"max-width:{natural};{least}"
    body = _on_page(f"{_attributes(drawing)}>\n{drawing.body}")
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


def _on_page(body: str) -> str:
    """With the colours of the page in place of the light ones."""
    return _COLOUR.sub(lambda m: f"{m[1]}var(--{_TOKENS[m[2]]})", body)


def sign(swatch: Swatch) -> str:
    """Return an arm's sign as a small `<svg>` for tables; `signs` gives the shape it shows."""
    return f'<svg class="sign" viewBox="-7.2 -7.2 14.4 14.4" aria-hidden="true"><use href="#{_name(swatch)}"/></svg>'


def signs(swatches: Iterable[Swatch]) -> str:
    """Return an element that is not seen and holds the shapes of these signs once."""
    each = {_name(swatch): _on_page(_shape(swatch)) for swatch in swatches}
    shapes = "".join(f'<g id="{name}">{shape}</g>' for name, shape in sorted(each.items()))
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{shapes}</defs></svg>'


def _name(swatch: Swatch) -> str:
    """The id of a sign's shape: what it looks like, so that no name a method has comes into it."""
    drawn = look(swatch.method)
    return f"sign-{drawn.colour}-{ord(drawn.marker):x}{'-hollow' * swatch.hollow}"


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
    marker = MarkerStyle(drawn.marker)
    corners = marker.get_path().transformed(marker.get_transform()).to_polygons()
    points = " ".join(f"{10 * x:.1f},{-10 * y:.1f}" for x, y in np.asarray(corners[0]))
    return f'<polygon points="{points}" {style}/>'
