"""Draw into SVG: lines, signs, texts and images in points, colours by name.

A report has a hundred panels and five seconds: written out directly they cost milliseconds, where a plotting library
takes longer to load than the whole report may. Other formats are made from this one (see reports.export).
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from typing import Literal

import numpy as np

from reports.parts import Swatch
from reports.style import Sheet, look

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

# Advance widths of Helvetica for the characters 32 to 126, thousandths of the type size.
_WIDTHS = (
    "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278 "
    "584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 "
    "667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 "
    "278 556 500 722 500 500 500 334 260 334 584"
)
_ADVANCE = {chr(32 + i): int(w) / 1000 for i, w in enumerate(_WIDTHS.split())}


def text_width(text: str, size: float) -> float:
    """Return how wide `text` is in Helvetica, in points; close to it in most sans-serif typefaces."""
    return size * sum(_ADVANCE.get(c, 0.6 if ord(c) < 0x1100 else 1.0) for c in text)


def number(value: float) -> str:
    """Format a coordinate: a tenth of a point is finer than any screen."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


@lru_cache(maxsize=32)
def polygon(marker: str) -> tuple[Point, ...]:
    """Return the corners of a marker of diameter 1, y downwards; empty for the circle."""

    def regular(n: int, turn: float, radius: float = 0.5) -> tuple[Point, ...]:
        angles = [math.radians(turn + 360 * i / n) for i in range(n)]
        return tuple((radius * math.cos(a), radius * math.sin(a)) for a in angles)

    def cross(turn: float) -> tuple[Point, ...]:
        w, r = 0.17, 0.52
        arms = [
            (w, -r),
            (w, -w),
            (r, -w),
            (r, w),
            (w, w),
            (w, r),
            (-w, r),
            (-w, w),
            (-r, w),
            (-r, -w),
            (-w, -w),
            (-w, -r),
        ]
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        return tuple((c * x - s * y, s * x + c * y) for x, y in arms)

    shapes = {
        "s": regular(4, 45, 0.6),
        "D": regular(4, 0, 0.58),
        "d": ((0.0, -0.6), (0.34, 0.0), (0.0, 0.6), (-0.34, 0.0)),
        "^": regular(3, -90, 0.6),
        "v": regular(3, 90, 0.6),
        "<": regular(3, 180, 0.6),
        ">": regular(3, 0, 0.6),
        "p": regular(5, -90, 0.54),
        "h": regular(6, -90, 0.54),
        "H": regular(6, 0, 0.54),
        "8": regular(8, 22.5, 0.52),
        "P": cross(0),
        "X": cross(45),
    }
    return shapes.get(marker, ())


class Canvas:
    """A drawing of `width` by `height` points, origin at the upper left.

    Attributes:
        parts: the elements so far, in drawing order.
    """

    def __init__(self, width: float, height: float, sheet: Sheet) -> None:
        self.width, self.height, self.size, self._letters = width, height, sheet.size, sheet.letters
        self.parts: list[str] = []

    def wide(self, text: str, size: float) -> float:
        """Return about how wide a text is on this sheet, rather too much than too little."""
        return self._letters * text_width(text, size)

    def fit(self, text: str, size: float, room: float) -> str:
        """Return `text`, cut so that it is at most `room` points wide."""
        if self.wide(text, size) <= room:
            return text
        while text and self.wide(text + "…", size) > room:
            text = text[:-1].rstrip()
        return text + "…"

    @property
    def body(self) -> str:
        """The elements of the drawing."""
        return "\n".join(self.parts)

    @contextmanager
    def tip(self, text: str) -> Iterator[None]:
        """Show `text` when the pointer rests on what is drawn inside."""
        self.parts.append(f"<g><title>{escape(text)}</title>")
        yield
        self.parts.append("</g>")

    def path(
        self, lines: Sequence[Sequence[Point]], colour: str, width: float = 1.0, *, dash: str = "", alpha: float = 1.0
    ) -> None:
        """Draw connected lines, each through its points; all have the same look."""
        d = "".join("M" + "L".join(f"{number(x)} {number(y)}" for x, y in line) for line in lines if len(line) > 1)
        if d:
            extra = f' stroke-dasharray="{dash}"' if dash else ""
            extra += f' stroke-opacity="{alpha:g}"' if alpha < 1 else ""
            self.parts.append(f'<path d="{d}" fill="none" stroke="var(--{colour})" stroke-width="{width:g}"{extra}/>')

    def rect(
        self, x: float, y: float, width: float, height: float, colour: str, *, edge: str = "", dash: str = "",
        alpha: float = 1.0,
    ) -> None:  # fmt: skip
        """Fill a rectangle; with `edge` it is outlined in that colour and not filled."""
        look = f'fill="none" stroke="var(--{edge})" stroke-width="0.7"' if edge else f'fill="var(--{colour})"'
        look += f' stroke-dasharray="{dash}"' if dash else ""
        look += f' fill-opacity="{alpha:g}"' if alpha < 1 else ""
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" {look}/>'
        )

    def text(
        self, x: float, y: float, text: str, *, size: float | None = None, colour: str = "ink",
        anchor: Anchor = "start", bold: bool = False, upright: bool = False,
    ) -> None:  # fmt: skip
        """Write `text` with its baseline at y; `upright` turns it to read from below."""
        size = self.size if size is None else size
        extra = f' font-size="{size:g}"' if size != self.size else ""
        extra += f' fill="var(--{colour})"' if colour != "ink" else ""
        extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
        extra += ' font-weight="bold"' if bold else ""
        extra += f' transform="rotate(-90 {number(x)} {number(y)})"' if upright else ""
        self.parts.append(f'<text x="{number(x)}" y="{number(y)}"{extra}>{escape(text, quote=False)}</text>')

    def sign(self, x: float, y: float, swatch: Swatch, size: float = 7.0) -> None:
        """Draw an arm's sign: hollow where the schedule was not trained for."""
        self.parts.append(marker(x, y, swatch, size))

    def shape(self, x: float, y: float, shape: str, size: float, colour: str, fill: str = "paper") -> None:
        """Draw a marker that stands for no arm."""
        self.parts.append(outline(x, y, shape, size, f'fill="var(--{fill})" stroke="var(--{colour})" stroke-width="1"'))

    def image(
        self, x: float, y: float, width: float, height: float, alpha: np.ndarray, rgb: tuple[int, int, int]
    ) -> None:
        """Place a map of shares [rows, columns] between 0 and 1, the first row on top, one hue more or less opaque."""
        png = base64.b64encode(_png(np.repeat(np.repeat(alpha, 4, axis=0), 4, axis=1), rgb)).decode()
        self.parts.append(
            f'<image x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" '
            f'preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,{png}"/>'
        )


def marker(x: float, y: float, swatch: Swatch, size: float) -> str:
    """Return an arm's sign as an SVG element."""
    drawn = look(swatch.method)
    fill = "paper" if swatch.hollow else drawn.colour
    edge = f"{0.18 * size:.2g}" if swatch.hollow else f"{0.06 * size:.2g}"
    style = f'fill="var(--{fill})" stroke="var(--{drawn.colour})" stroke-width="{edge}"'
    return outline(x, y, drawn.marker, size, style)


def outline(x: float, y: float, shape: str, size: float, style: str) -> str:
    """Return a marker of `size` points as an SVG element."""
    corners = polygon(shape)
    if not corners:
        return (
            f'<circle cx="{x:.3g}" cy="{y:.3g}" r="{size / 2:.3g}" {style}/>'
            if size < 3
            else (f'<circle cx="{number(x)}" cy="{number(y)}" r="{size / 2:.3g}" {style}/>')
        )
    points = "L".join(f"{x + size * px:.2f} {y + size * py:.2f}" for px, py in corners)
    return f'<path d="M{points}Z" {style}/>'


def _png(alpha: np.ndarray, rgb: tuple[int, int, int]) -> bytes:
    """Return a palette PNG of one hue whose 256 entries differ in opacity alone."""
    levels = np.rint(np.clip(alpha, 0.0, 1.0) * 255).astype(np.uint8)
    height, width = levels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), levels], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", header),
            chunk(b"PLTE", bytes(rgb) * 256),
            chunk(b"tRNS", bytes(range(256))),
            chunk(b"IDAT", zlib.compress(rows, 6)),
            chunk(b"IEND", b""),
        )
    )
