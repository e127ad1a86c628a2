"""The parts a report is made of: plain data with finished text, which any renderer can lay out.

Text in them is cleaned (see reports.text) and not escaped: a renderer escapes for its own format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Swatch:
    """The sign of an arm: the method decides colour and marker; hollow means schedule only. Rows are filtered by the family."""

    method: str
    hollow: bool = False
    family: str = ""


@dataclass(frozen=True)
class Column:
    """A table column.

    Attributes:
        title: its header, without the unit.
        unit: shown under the title; empty for words and pure ratios.
        numeric: aligned right, sorted by value.
        group: columns next to each other with the same group share a header above theirs.
        hint: what the column means, one sentence.
        key: stays on a narrow screen; where no column of a table says so, the first two of numbers do.
    """

    title: str
    unit: str = ""
    numeric: bool = True
    group: str = ""
    hint: str = ""
    key: bool = False


@dataclass(frozen=True)
class Cell:
    """One table cell.

    Attributes:
        text: what is shown.
        detail: a smaller second line.
        sort: the value to sort by, unrounded; None where there is nothing to show.
        tone: of a verdict: `good`, `bad` or `open`.
        swatch: the sign of an arm, before the text.
        ends: the interval around the value, which `detail` shows rounded.
    """

    text: str
    detail: str = ""
    sort: float | str | None = None
    tone: str = ""
    swatch: Swatch | None = None
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """A table; `starts` are the indices of rows that begin a group, and `note` states n, machine and conditions."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    starts: frozenset[int] = frozenset()
    wrap: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure: `plot` holds the numbers, `alt` says in words what can be seen."""

    id: str
    title: str
    caption: str
    alt: str
    plot: object


@dataclass(frozen=True)
class Prose:
    """Paragraphs."""

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Warnings:
    """What a reader must know before believing a number; `grave`: what failed, `brief`: one line before the answer."""

    items: tuple[str, ...]
    title: str = "Before you believe a number"
    grave: bool = False
    more: tuple[str, str] = ("", "")
    brief: bool = False


@dataclass(frozen=True)
class Hero:
    """The answer, what is said smaller under it, and beside it the figures, one of which is seen at a time: (name, figure)."""

    paragraphs: tuple[str, ...]
    figures: tuple[tuple[str, Figure], ...]
    small: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definitions:
    """Groups of name-value pairs."""

    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    title: str
    text: str


@dataclass(frozen=True)
class Output:
    """One arm's text for a sample: runs of words with whether they differ from the full model's, and its scores.

    `same` says that the text is the full model's to the letter.
    """

    name: str
    swatch: Swatch | None
    words: tuple[tuple[str, bool], ...]
    scores: tuple[str, ...]
    same: bool = False


@dataclass(frozen=True)
class Sample:
    """One prompt with what every arm made of it."""

    title: str
    prompt: str
    references: tuple[str, ...]
    score_names: tuple[str, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Fold:
    """Parts that start closed on screen, and are left out of what is printed."""

    title: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Hero | Table | Figure | Prose | Warnings | Definitions | Code | Sample | Fold


@dataclass(frozen=True)
class Section:
    """A titled run of parts."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class RunView:
    """One run: its name, the line under it, its sections in reading order, and how its numbers came about, in sentences.

    `samples` is the path of the file with all texts beside the page; empty where there is none.
    """

    id: str
    title: str
    subtitle: str
    sections: tuple[Section, ...]
    setting: tuple[str, ...] = ()
    samples: str = ""


@dataclass(frozen=True)
class ReportView:
    """The whole report; `lead` says how its runs relate when there are several, and `board` puts them in one table."""

    title: str
    lead: tuple[str, ...]
    runs: tuple[RunView, ...]
    board: Table | None = None


def table(
    ident: str,
    title: str,
    columns: Sequence[tuple[Column, Sequence[Cell]]],
    note: str = "",
    starts: Sequence[int] = (),
    wrap: bool = False,
) -> Table:
    """Return a table from its columns; but for the first, columns in which no row has anything to show are left out."""
    kept = [columns[0], *((c, cells) for c, cells in columns[1:] if any(cell.sort is not None for cell in cells))]
    rows = tuple(zip(*(cells for _, cells in kept), strict=True))
    return Table(ident, title, tuple(c for c, _ in kept), rows, note, frozenset(starts), wrap)


def walk(view: ReportView) -> Iterator[Block]:
    """Every part of a report in reading order, folded ones included."""

    def inside(blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            yield block
            if isinstance(block, Fold):
                yield from inside(block.blocks)
            if isinstance(block, Hero):
                yield from (figure for _, figure in block.figures)

    yield from inside((view.board,) if view.board else ())
    for run in view.runs:
        for section in run.sections:
            yield from inside(section.blocks)
