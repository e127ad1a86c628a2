"""Golden files: what a page, a drawing and a table look like in source, byte for byte.

A wanted change is taken over by `python -m tests.reports.test_golden`; read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.stats.intervals import Interval
from reports.draw import trade_off
from reports.draw.figures import draw
from reports.draw.style import PAPER
from reports.draw.svg import standalone
from reports.view.parts import (
    Cell,
    Code,
    Column,
    Definitions,
    Figure,
    Fold,
    Hero,
    Output,
    Prose,
    ReportView,
    RunView,
    Sample,
    Section,
    Swatch,
    Table,
    Warnings,
)
from reports.write.export import as_csv, as_latex, as_markdown
from reports.write.html import html

GOLDEN = Path(__file__).parent / "golden"

TABLE = Table(
    "t",
    "A title with 100% & more",
    (
        Column("Method", numeric=False),
        Column("batch 1", "× full", group="Speed-up"),
        Column("batch 8", "× full", group="Speed-up"),
        Column("Layers"),
    ),
    (
        (
            Cell("Full model", sort=0.0, swatch=Swatch("full")),
            Cell("1", "baseline", 1.0),
            Cell("1", "baseline", 1.0),
            Cell("24.0", sort=24.0),
        ),
        (
            Cell("=cmd|'<b>_$x$\\end{tabular} 日", "trained", sort=1.0),
            Cell("2.57", "2.34 to 2.91", 2.5708, "good", ends=(2.3381, 2.9149)),
            Cell("–"),
            Cell("\u22120.5", sort=-0.5),
        ),
    ),
    "n = 5 repeats; opt_e2e.",
    frozenset({1}),
)
SCATTER = Figure(
    "fig-trade",
    "Quality against speed",
    "n = 9.",
    "Two <arms>.",
    trade_off.TradeOff(
        1,
        "BLEU on e2e (points)",
        True,
        (
            trade_off.Line(
                "a <b>",
                Swatch("calm", hollow=True),
                False,
                (
                    trade_off.Point("a <b> 1", "1", Interval(1.5, 1.4, 1.6, 9), Interval(59, 58, 60, 9)),
                    trade_off.Point("a <b> $x$", "$x$", Interval(2, 1.9, 2.1, 9), Interval(58, 57, 59, 9)),
                ),
            ),
        ),
        60.0,
        1.0,
    ),
)
VIEW = ReportView(
    "A report <title>",
    ("A lead.",),
    (
        RunView(
            "run",
            "quick",
            "model · float32",
            (
                Section(
                    "answer",
                    "The answer",
                    (
                        Hero(("One & two.",), (("batch 1", SCATTER),), ("Small <words>.",)),
                        TABLE,
                        Warnings(("Careful <now>.",)),
                    ),
                ),
                Section(
                    "rest",
                    "The rest",
                    (
                        Prose(("Three.",)),
                        Definitions((("Machine", (("cpu", "a <cpu>"),)),)),
                        Sample(
                            "e2e-1: changed most",
                            "name[x]",
                            ("A reference.",),
                            ("BLEU",),
                            (
                                Output("Full model", Swatch("full"), (("a text", False),), ("60",)),
                                Output("CALM", None, (("a", False), ("<b>", True)), ("1",)),
                                Output("Same", None, (), ("60",), same=True),
                            ),
                        ),
                        Fold("More", (Code("Command", "depthbench run --x '<y>'"),)),
                    ),
                ),
            ),
        ),
    ),
)


def _page() -> str:
    """The body of the page: style sheet and script are files of their own."""
    page = html(VIEW)
    return page[page.index("<body>") : page.index("<script>")] + "\n"


MADE = {
    "table.csv": lambda: as_csv(TABLE),
    "table.md": lambda: as_markdown(TABLE),
    "table.tex": lambda: as_latex(TABLE),
    "scatter.svg": lambda: standalone(draw(SCATTER, PAPER), SCATTER.alt, PAPER.font),
    "page.html": _page,
}


@pytest.mark.parametrize("name", MADE)
def test_golden(name: str) -> None:
    assert MADE[name]() == (GOLDEN / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    for file, make in MADE.items():
        (GOLDEN / file).write_text(make(), encoding="utf-8")
