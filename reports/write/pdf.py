"""Lay a report view out as a PDF: the same parts as on the page, typeset by Typst from data, never from markup."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from reports.draw.figures import draw_all
from reports.draw.style import PAGE, SERIF
from reports.draw.svg import Drawing, sign_document, standalone, text_width
from reports.text import listed
from reports.view.parts import Block, Definitions, Figure, Fold, Hero, ReportView, RunView, Section, Swatch, Table

FONTS = ("Libertinus Serif", "New Computer Modern", "DejaVu Sans Mono")
"""Typst carries these, so the document does not depend on what is installed."""
SHRINK = 0.78
"""A table that fits its page this much smaller is set smaller; a wider one is set in parts."""
WIDTH, TABLE_SIZE, GAP, NARROW = 505.0, 7.2, 4.0, 76.0  # as in the template; words are broken no narrower

_LONG = re.compile(r"\S{30,}")
_FOREIGN = re.compile("[^\u0000-\u024f\u0370-\u052f\u1e00-\u22ff\u2400-\u2426\u27e8\u27e9\ufffd]")


def available() -> bool:
    """Whether Typst, which sets documents and turns figures into PDF and PNG, is installed."""
    return importlib.util.find_spec("typst") is not None


def pdf(view: ReportView, drawings: Mapping[str, Drawing] | None = None) -> bytes:
    """Return the report as a PDF document. The same view gives the same bytes.

    `drawings` holds the figures as drawn for the page, by id, where the caller has them already.

    Only where a text holds characters that the carried typefaces lack (other scripts, emoji) are those of the machine
    looked at.
    """
    sources = document(view, drawings)
    return compile_typst(sources, system_fonts=foreign(sources["data.json"].decode()))[0]


def compile_typst(
    sources: dict[str, bytes], *, system_fonts: bool = False, png_dpi: float | None = None, tags: bool = True
) -> list[bytes]:
    """Return what Typst makes of `main.typ` among the sources: one PDF, or with `png_dpi` a PNG of every page.

    `tags` give a PDF the structure that screen readers use.
    """
    import typst  # here: only those who want a PDF pay for loading it

    options: dict[str, Any] = {"ignore_system_fonts": not system_fonts, "timestamp": 0, "pdf_tags": tags}
    if png_dpi is not None:
        options |= {"format": "png", "ppi": png_dpi}
    made = typst.compile(dict(sources), **options)
    return list(made) if isinstance(made, list) else [made]


def foreign(text: str) -> bool:
    """Whether a text holds characters that the typefaces Typst carries lack."""
    return bool(_FOREIGN.search(text))


def document(view: ReportView, drawings: Mapping[str, Drawing] | None = None) -> dict[str, bytes]:
    """Return the files that Typst reads."""
    if drawings is None:
        drawings = draw_all(view, PAGE)
    packer = _Packer(drawings)
    data = {
        "title": _soft(view.title),
        "lead": [_soft(line) for line in view.lead],
        "board": packer.block(view.board) if view.board else None,
        "fonts": list(FONTS),
        "runs": [
            {
                "title": _soft(run.title),
                "subtitle": _soft(run.subtitle),
                "sections": [{"title": s.title, "blocks": shown} for s in run.sections if (shown := packer.blocks(s))],
                "rest": _rest(run),
            }
            for run in view.runs
        ],
    }
    text = json.dumps(data, ensure_ascii=False)
    source = (files("reports") / "templates" / "report.typ").read_bytes()
    return {"main.typ": source, "data.json": text.encode("utf-8", "replace"), **packer.files}


class _Packer:
    """Turns blocks into JSON values and keeps the drawings they name."""

    def __init__(self, drawings: Mapping[str, Drawing]) -> None:
        self.files: dict[str, bytes] = {}
        self._drawings = drawings

    def blocks(self, section: Section) -> list[dict[str, Any]]:
        """What of a section is printed: what is folded on the page is not."""
        return [self.block(block) for block in section.blocks if not isinstance(block, Fold)]

    def block(self, block: Block) -> dict[str, Any]:
        if isinstance(block, Figure):
            return self._figure(block)
        if isinstance(block, Hero):
            ends = block.figures[:1] + block.figures[1:][-1:]
            words = {key: [_soft(line) for line in getattr(block, key)] for key in ("paragraphs", "small")}
            return {"kind": "Hero", **words, "figures": [self._figure(figure) for _, figure in ends]}
        measured: dict[str, Any] = {}
        if isinstance(block, Table):
            needed = widths(block)
            total = sum(needed) + 2 * GAP * len(needed)
            shrink = min(1.0, WIDTH / total)
            measured = {"widths": needed, "shrink": shrink if shrink > SHRINK else 1.0}
        if isinstance(block, Definitions):
            measured = {"columns": self._values(_columns(block))}
        return {"kind": type(block).__name__, **measured, **self._values(block)}

    def _figure(self, block: Figure) -> dict[str, Any]:
        drawing = self._drawings[block.id]
        name = f"{block.id}.svg"
        self.files[name] = standalone(drawing, block.alt, SERIF).encode()
        words = {key: _soft(getattr(block, key)) for key in ("title", "caption", "alt")}
        return {"kind": "Figure", "file": name, "width": drawing.width, "height": drawing.height, **words}

    def _values(self, item: Any) -> Any:
        """Dataclasses as mappings, sets as sorted lists, every text with places to break it, signs as file names."""
        if isinstance(item, str):
            return _soft(item)
        if isinstance(item, (frozenset, set)):
            return sorted(item)
        if isinstance(item, (tuple, list)):
            return [self._values(v) for v in item]
        if dataclasses.is_dataclass(item):
            found = {}
            for field in dataclasses.fields(item):
                value = getattr(item, field.name)
                if field.name == "swatch":
                    found["sign"] = self._sign(value)
                elif field.name not in ("sort", "ends", "more"):
                    found[field.name] = self._values(value)
            return found
        return item

    def _sign(self, swatch: Swatch | None) -> str | None:
        if swatch is None:
            return None
        drawing = sign_document(swatch).encode()
        name = f"sign-{swatch.hollow:d}-{len(self.files)}.svg"
        name = next((n for n, d in self.files.items() if n.startswith("sign-") and d == drawing), name)
        self.files[name] = drawing
        return name


def _columns(block: Definitions) -> list[list[tuple[str, tuple[tuple[str, str], ...]]]]:
    """The groups of definitions in three columns about as long as each other."""
    found: list[list[tuple[str, tuple[tuple[str, str], ...]]]] = [[], [], []]
    length = [0.0, 0.0, 0.0]
    for title, pairs in sorted(block.groups, key=lambda group: -len(group[1])):
        shortest = length.index(min(length))
        found[shortest].append((title, pairs))
        length[shortest] += 2 + sum(max(1.0, len(words) / 26) for _, words in pairs)
    return found


def _rest(run: RunView) -> str:
    """What only the page has, in a sentence."""
    titles = [b.title for s in run.sections for b in s.blocks if isinstance(b, Fold)]
    return f"report.html has more: {listed([t[:1].lower() + t[1:] for t in titles], 40)}." if titles else ""


def widths(block: Table) -> list[float]:
    """Points each column needs: its widest cell, words and headers broken where they would be too wide."""
    most = 250.0 if block.wrap else 112.0
    found = []
    for i, column in enumerate(block.columns):
        cells = [row[i] for row in block.rows]
        sign = 9.0 if any(c.swatch for c in cells) else 0.0
        widest = max((max(_wide(c.text), 0.84 * _wide(c.detail)) for c in cells), default=0.0) + sign
        if not column.numeric or i == 0:
            widest = min(widest, most)
        word = max(
            (_wide(w) for w in _soft(f"{column.title} {column.unit}").replace("\u200b", " ").split()), default=0.0
        )
        head = max(_wide(column.title), 0.84 * _wide(column.unit))
        found.append(round(max(widest, min(head, 52.0), word, 12.0), 1))
    over = sum(found) + 2 * GAP * len(found) - WIDTH
    if block.wrap and over > 0:
        found[-1] = max(found[-1] - over, 90.0)
    words = [i for i, column in enumerate(block.columns) if not column.numeric and found[i] > NARROW]
    if not block.wrap and 0 < over <= sum(found[i] - NARROW for i in words):  # narrower words save a second part
        for i in words:
            found[i] -= over / len(words) if len(words) == 1 else min(over / len(words), found[i] - NARROW)
    return found


def _wide(text: str) -> float:
    return 0.86 * text_width(text, TABLE_SIZE)  # set in a narrower typeface than is measured


def _soft(text: str) -> str:
    """Give long unbroken words places where a line may end."""
    return _LONG.sub(lambda m: "\u200b".join(m[0][i : i + 12] for i in range(0, len(m[0]), 12)), text)
