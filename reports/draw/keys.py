"""Legends: what lines, markers and boxes of a figure mean, above the figure or above one of its panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from reports.draw.panels import CAP, Panel, areas, marks, size_of, strokes, write
from reports.draw.style import Sheet
from reports.draw.svg import fit, text_width


@dataclass(frozen=True)
class Key:
    """A legend's entry: a line, a marker, both or a filled box, and what they mean.

    Attributes:
        width, dash: of the line; none at width 0.
        marker, inside: of the marker; none where it is empty.
        block: how opaque the box is; none at 0.
    """

    words: str
    name: str = "ink"
    width: float = 0.0
    dash: str = ""
    marker: str = ""
    inside: str = "paper"
    block: float = 0.0

    def draw(self, figure: Figure, x: float, y: float, length: float, size: float, room: float = 1e9) -> None:
        """Draw the entry from `x` on, its middle at height `y`; words are cut where they would be wider than `room`."""
        if self.block:
            half = 0.35 * size
            sides = [(x, y - half), (x, y + half), (x + length, y + half), (x + length, y - half)]
            areas(figure, [sides], self.name, self.block)
        if self.width:
            strokes(figure, [[(x, y), (x + length, y)]], self.name, self.width, dash=self.dash)
        if self.marker:
            marks(figure, np.array([[x + length / 2, y]]), self.marker, self.name, self.inside, 5.5, 1)
        words = fit(self.words, size, room)
        write(figure, x + length + 0.5 * size, y - CAP / 2 * size, words, size)


def legend_height(keys: Sequence[Key], sheet: Sheet, x: float, full: float) -> float:
    """Return how tall a legend is that begins `x` points from the left of a figure `full` points wide."""
    return -(-len(keys) // _columns(keys, sheet, full - x - 4)) * 1.55 * sheet.small


def legend(figure: Figure, keys: Sequence[Key], sheet: Sheet, x: float, y: float = 4) -> None:
    """Write the keys from `x` points from the left and `y` from the top on, in as many columns as fit beside each other."""
    width, height = size_of(figure)
    columns = _columns(keys, sheet, width - x - 4)
    per_column = -(-len(keys) // columns)
    for first in range(0, len(keys), per_column):
        column = keys[first : first + per_column]
        for i, entry in enumerate(column):
            entry.draw(figure, x, height - y - (0.6 + 1.55 * i) * sheet.small, 2.4 * sheet.small, sheet.small)
        x += max(_entry_width(entry, sheet) for entry in column)


def _columns(keys: Sequence[Key], sheet: Sheet, room: float) -> int:
    """The most columns, filled from the top down, that fit beside each other."""
    widths = [_entry_width(entry, sheet) for entry in keys]
    for columns in range(len(keys), 1, -1):
        rows = -(-len(keys) // columns)
        if sum(max(widths[first : first + rows]) for first in range(0, len(keys), rows)) <= room:
            return columns
    return 1


def _entry_width(entry: Key, sheet: Sheet) -> float:
    return 4.3 * sheet.small + text_width(entry.words, sheet.small)


KEYED = 1.3
"""Height of a line of the keys above a panel, as a multiple of the type size."""


def keyed(on: Panel, sheet: Sheet, keys: Sequence[Key]) -> None:
    """Write the keys above a panel, one under the other, names cut to its width."""
    for i, entry in enumerate(reversed(keys)):
        y = on.top + 3 + (0.5 + KEYED * i) * sheet.small
        entry.draw(on.figure, on.x, y, 2 * sheet.small, sheet.small, on.width - 2.6 * sheet.small)
