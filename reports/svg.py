"""Turn drawings into SVG that may stand inside a page: no ids that clash, no dates, colours that follow the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from html import escape

import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline

from reports.parts import Swatch
from reports.style import COLOURS, drawing, look

_VARIABLES = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
_FONT = re.compile(r"font: ?(?:(\d+|bold) )?([\d.]+)px [^;\"]*")
_FAMILY = re.compile(r" ?font-family: [^;\"]*;?")


def standalone(figure: Figure) -> str:
    """Return the figure as an SVG document without date or creator."""
    out = io.StringIO()
    with drawing():
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return out.getvalue()


def inline(figure: Figure, ident: str, alt: str, tips: Mapping[str, str] | None = None) -> str:
    """Return the figure as an `<svg>` element.

    Args:
        figure: the drawing, in the light colours of reports.style.
        ident: prefix that makes the ids of this drawing unique within the page.
        alt: what can be seen, in words; read out instead of the drawing.
        tips: group id -> text shown when the pointer rests on that group.
    """
    text = standalone(figure)
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda m: _VARIABLES.get(m[0], m[0]), text)
    text = _FONT.sub(lambda m: f"font-size: {m[2]}px" + (f"; font-weight: {m[1]}" if m[1] else ""), text)
    text = _FAMILY.sub("", text)
    for group, tip in (tips or {}).items():
        text = text.replace(f'<g id="{group}">', f'<g id="{group}"><title>{escape(tip)}</title>', 1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{ident}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{ident}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{ident}-\1)", text)
    text = re.sub(r'(<image [^>]*?) id="[^"]+"', r"\1", text)  # equal images would get equal ids
    # The page styles every drawing alike; what is left of the drawing's own style sheet would leak out of it.
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>", "", text)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])  # type: ignore[index]
    natural = f"{width * 4 / 3:.0f}px"
    style = (
        f"max-width:{natural};min-width:min({natural},38rem)"  # on a narrow screen it scrolls before it is unreadable
    )
    head = f'<svg role="img" aria-label="{escape(alt)}" style="{style}" '
    text = re.sub(r'<svg (?:.*?)(viewBox="[^"]+")[^>]*>', lambda m: head + m[1] + ">", text, count=1, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", text).strip()


@lru_cache(maxsize=128)
def sign(swatch: Swatch) -> str:
    """Return an arm's sign as a small `<svg>` for tables."""
    drawn = look(swatch.method)
    marker = MarkerStyle(drawn.marker)
    outline = marker.get_path().transformed(marker.get_transform())
    colour = f"var(--{drawn.name})"
    fill = "var(--paper)" if swatch.hollow else colour
    return (
        '<svg class="sign" viewBox="-0.72 -0.72 1.44 1.44" aria-hidden="true">'
        f'<path d="{_d(outline)}" fill="{fill}" stroke="{colour}" '
        f'stroke-width="{0.16 if swatch.hollow else 0.04}"/></svg>'
    )


def _d(outline: Outline) -> str:
    letters = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
    parts = []
    for vertices, code in outline.iter_segments(simplify=False, curves=True):
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            continue
        values = np.asarray(vertices).reshape(-1, 2) * np.array([1.0, -1.0])  # SVG counts y downwards
        parts.append(letters[code] + " ".join(f"{v:.3f}".rstrip("0").rstrip(".") for v in values.ravel()))
    return "".join(parts)
