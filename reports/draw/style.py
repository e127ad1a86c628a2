"""How figures look: one colour and marker per method in every figure, and the sheets they are drawn for.

Colours follow the Okabe-Ito set, darkened until each has a contrast of 3 to 1 on white; markers tell methods apart
where colour does not (grey print, colour blindness). Methods of one kind share a colour.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

# name -> (light, dark). Drawings name colours; the page, or the file, says what they are.
COLOURS = {
    "ink": ("#1b1f23", "#e6e8ea"),
    "muted": ("#5c666f", "#9aa4ad"),
    "rule": ("#d5dadf", "#363c42"),
    "band": ("#e8edf2", "#262c33"),
    "faint": ("#c3cad1", "#4a525a"),
    "paper": ("#ffffff", "#15181b"),
    "blue": ("#0a6cb0", "#5fb0ea"),
    "orange": ("#cc5200", "#ff9257"),
    "green": ("#00805e", "#45cfa3"),
    "pink": ("#ad4a87", "#e59cc8"),
    "amber": ("#a06a00", "#efb54f"),
    "sky": ("#2f8fc4", "#95d4f7"),
    "grey": ("#737b82", "#a9b1b8"),
    "olive": ("#6a6424", "#cdc47b"),
}


def colour(name: str) -> str:
    """Return the light value of a named colour, which the page replaces by its own."""
    return COLOURS[name][0]


SHARE_RGB = (41, 120, 194)
"""The one hue of shaded maps; how opaque it is says how much, so it reads on white, on black and in grey."""

_METHODS = {
    "full": ("ink", "D"),
    "skipdecode": ("blue", "o"),
    "calm": ("orange", "^"),
    "ee_recompute": ("orange", "v"),
    "fixed_exit": ("grey", "s"),
    "random_skip": ("grey", "X"),
    "unified_skip": ("green", "v"),
    "d3": ("sky", "P"),
    "layerskip": ("pink", "p"),
    "draft_verify": ("pink", "h"),
    "swift": ("pink", "<"),
    "ngram": ("pink", ">"),
    "sleb": ("amber", "s"),
    "shortgpt": ("amber", "d"),
    "shortened": ("amber", "8"),
    "ffn_skip": ("olive", "^"),
    "adaskip": ("olive", "v"),
    "first": ("olive", ">"),
    "mod": ("sky", "H"),
}
_SPARE_COLOURS = ("green", "amber", "olive", "sky", "pink")
_SPARE_MARKERS = ("<", ">", "h", "8", "P", "d")


@dataclass(frozen=True)
class Look:
    """How a method is drawn: the name of its colour and its marker."""

    colour: str
    marker: str


def look(method: str) -> Look:
    """Return the look of a method; one that is not in the list gets a look that depends on its name alone."""
    if method in _METHODS:
        return Look(*_METHODS[method])
    draw = zlib.crc32(method.encode("utf-8", "replace"))
    colour = _SPARE_COLOURS[draw % len(_SPARE_COLOURS)]
    return Look(colour, _SPARE_MARKERS[draw // 8 % len(_SPARE_MARKERS)])


@dataclass(frozen=True)
class Sheet:
    """What a figure is drawn for. Lengths are points.

    Attributes:
        width: of a figure with many panels or rows.
        column: of a figure with one or two panels.
        per_row: panels beside each other on the full width.
        size, small: type sizes of titles and of everything else.
        tall: factor on the height of panels.
        font: the families named in a drawing that stands alone.
    """

    width: float
    column: float
    per_row: int
    size: float
    small: float
    tall: float
    font: str


SERIF = "Libertinus Serif, Linux Libertine, Times, serif"
PAGE = Sheet(560, 340, 3, 7.8, 7.0, 1.0, "system-ui, Helvetica, Arial, sans-serif")
"""The HTML page and the PDF."""
PAPER = Sheet(497, 241, 3, 7.4, 6.6, 0.85, SERIF)
"""A two-column paper: simple figures in a column of 3.35 inches, those with many panels across both, 6.9 inches."""
SHEETS = {"page": PAGE, "paper": PAPER}
