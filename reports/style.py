"""How figures look: one colour and marker per method in every figure, in colours a page may swap for its dark ones.

Colours follow the Okabe-Ito set, darkened until each has a contrast of 3 to 1 on white; markers tell methods apart
where colour does not (grey print, colour blindness). Methods of one kind share a colour.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.parts import Swatch

# name -> (light, dark); every light value is used for one thing only, so that it can be found again in the drawing.
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
SHARE_RGB = (0.16, 0.47, 0.76)

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
DASHES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.4, 1.2, 1.4)),
    (0, (9, 2.4)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
)

SIZE = 8.6
SMALL = 7.8
WIDTH = 10.8  # inches: the text width of the page at 96 pixels an inch

Tips = dict[str, str]
"""Id of a drawn group -> what to show when the pointer rests on it."""

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": SIZE,
    "text.parse_math": False,  # a label with two dollar signs is a label
    "axes.labelsize": SIZE,
    "axes.titlesize": SIZE,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["muted"][0],
    "axes.labelcolor": COLOURS["ink"][0],
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": COLOURS["rule"][0],
    "grid.linewidth": 0.5,
    "text.color": COLOURS["ink"][0],
    "xtick.color": COLOURS["muted"][0],
    "ytick.color": COLOURS["muted"][0],
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "depthbench",
    "svg.image_inline": True,
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn: the name of its colour, the colour itself, and its marker."""

    name: str
    colour: str
    marker: str


def look(method: str) -> Look:
    """Return the look of a method; one that is not in the list gets a look that depends on its name alone."""
    if method in _METHODS:
        name, marker = _METHODS[method]
    else:
        draw = zlib.crc32(method.encode("utf-8", "replace"))
        name = _SPARE_COLOURS[draw % len(_SPARE_COLOURS)]
        marker = _SPARE_MARKERS[draw // 8 % len(_SPARE_MARKERS)]
    return Look(name, COLOURS[name][0], marker)


def ink(name: str) -> str:
    """Return the light value of a named colour, as figures are drawn."""
    return COLOURS[name][0]


def marker_options(swatch: Swatch, size: float = 7.0) -> dict[str, Any]:
    """Return the plot options that draw a method's sign, hollow where the schedule was not trained for."""
    drawn = look(swatch.method)
    face = ink("paper") if swatch.hollow else drawn.colour
    return {
        "color": drawn.colour,
        "linestyle": "none",
        "marker": drawn.marker,
        "markersize": size,
        "markerfacecolor": face,
        "markeredgecolor": drawn.colour,
        "markeredgewidth": 1.3 if swatch.hollow else 0.8,
    }


def plain(value: float, _: object = None) -> str:
    """Format a tick: no needless zeros, a true minus sign."""
    return f"{value:g}".replace("-", "\u2212")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with the settings of this module and nothing of the user's own matplotlib configuration."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def panels(
    count: int, columns: int, *, width: float, height: float, left: float = 0.55, right: float = 0.1,
    top: float = 0.3, bottom: float = 0.5, gap_x: float = 0.2, gap_y: float = 0.34, above: Sequence[float] = (),
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Return a figure `width` inches wide with `count` axes of `height` inches in rows of `columns`.

    Margins and gaps are inches; `above` is room kept over each row for what stands there, beyond `top` and `gap_y`.
    """
    rows = -(-count // columns)
    extra = [*above, *[0.0] * (rows - len(above))]
    total = top + bottom + rows * height + (rows - 1) * gap_y + sum(extra)
    each = (width - left - right - (columns - 1) * gap_x) / columns
    figure = Figure(figsize=(width, total))
    axes = []
    for i in range(count):
        row, column = divmod(i, columns)
        x, y = left + column * (each + gap_x), total - top - sum(extra[: row + 1]) - row * (height + gap_y) - height
        axes.append(figure.add_axes((x / width, y / total, each / width, height / total)))
    return figure, axes


def outer_labels_only(axes: list[Axes], columns: int) -> None:
    """Keep tick labels on the left column and on the lowest axes of each column."""
    for i, ax in enumerate(axes):
        ax.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(axes))
