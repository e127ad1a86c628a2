"""Widths of characters and corners of markers: matplotlib's, or what a process that has loaded it gave to one that has not.

Loading matplotlib takes a good part of the time of a report, and a page needs no more of it than this.
"""

from __future__ import annotations

from collections.abc import Iterable

TYPEFACE = "DejaVu Sans"
"""Comes with matplotlib, and is wider than what pages and papers are set in: what has room in it has room everywhere."""

Corners = tuple[tuple[float, float], ...]
Known = tuple[dict[str, float], dict[str, Corners]]

_COMMON = (*map(chr, range(0x20, 0x250)), *map(chr, range(0x2000, 0x2300)))
"""Characters that most reports are written in."""

_widths: dict[str, float] = {}
_corners: dict[str, Corners] = {}


def width(character: str) -> float:
    """Return the width of a character as a share of the type size; an em where the typeface lacks it."""
    if character not in _widths:
        _measure([character])
    return _widths[character]


def corners(marker: str) -> Corners:
    """Return the corners of matplotlib's marker of size 1, y upwards; of a round one, points along it."""
    if marker not in _corners:
        import numpy as np
        from matplotlib.markers import MarkerStyle

        style = MarkerStyle(marker)
        found = np.asarray(style.get_path().transformed(style.get_transform()).to_polygons()[0])
        _corners[marker] = tuple((float(x), float(y)) for x, y in found)
    return _corners[marker]


def known(markers: Iterable[str]) -> Known:
    """Return what `learn` of another process takes: the widths of common characters, and the corners of the markers."""
    _measure(c for c in _COMMON if c not in _widths)
    return _widths, {marker: corners(marker) for marker in markers}


def learn(what: Known) -> None:
    """Take what another process has measured."""
    _widths.update(what[0])
    _corners.update(what[1])


def _measure(characters: Iterable[str]) -> None:
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.ft2font import LoadFlags

    font = get_font(findfont(TYPEFACE))
    font.set_size(100, 72)
    for character in characters:
        there = font.get_char_index(ord(character))
        glyph = font.load_char(ord(character), flags=LoadFlags.NO_HINTING) if there else None
        _widths[character] = 1.0 if glyph is None else float(glyph.linearHoriAdvance) / 65536 / 100
