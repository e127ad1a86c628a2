"""From drawings to SVG: an element whose colours follow the page it stands in, or a file of its own."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape

from reports.canvas import Canvas, marker
from reports.parts import Swatch
from reports.style import COLOURS, Sheet

_NAMED = re.compile(r"var\(--([a-z]+)\)")


def inline(canvas: Canvas, alt: str) -> str:
    """Return the drawing as an `<svg>` element; `alt` says in words what can be seen and is read out instead."""
    natural = f"{canvas.width * 4 / 3:.0f}px"
    # On a narrow screen it scrolls before it is too small to read.
    style = f"max-width:{natural};min-width:min({natural},38rem)"
    return f'<svg role="img" aria-label="{escape(alt)}" style="{style}" {_attributes(canvas)}>\n{canvas.body}\n</svg>'


def standalone(canvas: Canvas, alt: str, sheet: Sheet) -> str:
    """Return the drawing as an SVG document in the light colours, `width` and `height` in points."""
    size = f'width="{canvas.width:g}pt" height="{canvas.height:g}pt"'
    body = _NAMED.sub(lambda m: COLOURS[m[1]][0], f"{_attributes(canvas)}>\n{canvas.body}")
    space = 'xmlns="http://www.w3.org/2000/svg"'
    return f'<svg {space} {size} role="img" font-family="{sheet.font}" {body}\n<desc>{escape(alt)}</desc>\n</svg>\n'


def _attributes(canvas: Canvas) -> str:
    return f'viewBox="0 0 {canvas.width:g} {canvas.height:g}" font-size="{canvas.size:g}" fill="var(--ink)"'


@lru_cache(maxsize=128)
def sign(swatch: Swatch) -> str:
    """Return an arm's sign as a small `<svg>` for tables."""
    return f'<svg class="sign" viewBox="-7.2 -7.2 14.4 14.4" aria-hidden="true">{marker(0, 0, swatch, 10)}</svg>'


@lru_cache(maxsize=128)
def sign_document(swatch: Swatch) -> str:
    """Return an arm's sign as an SVG document in the light colours."""
    drawn = _NAMED.sub(lambda m: COLOURS[m[1]][0], marker(0, 0, swatch, 10))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-7.2 -7.2 14.4 14.4" width="7" height="7">{drawn}</svg>'
