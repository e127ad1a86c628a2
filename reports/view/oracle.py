"""The table of the oracle over recorded budgets: what could be gained if one knew beforehand which budget suffices."""

from __future__ import annotations

from reports.facts.arms import parted
from reports.facts.facts import Facts
from reports.facts.oracle import Found, oracles
from reports.text import label
from reports.view.cells import EMPTY, interval_cell, word_cell
from reports.view.parts import Cell, Column, Table, table

NOTE = (
    "Analysis, not a method: for every example the cheapest recorded budget whose score is no worse than the full model's there, "
    "the full model among them (after Glavas et al. 2024). Selection bias: it chooses by the scores it is judged by, so its score "
    "is too good and its share too small, the more so the more budgets there are; the intervals speak of the examples alone. The "
    "metric of the last columns took no part in the choice, though related metrics share its bias in part."
)


def oracle_table(facts: Facts) -> Table | None:
    """One row for each method and task where several budgets of one method were scored; None where none were."""
    found = oracles(facts)
    if not found:
        return None
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Method", numeric=False), [word_cell(_name(one), detail=_settings(one)) for one in found]),
        (Column("Task", numeric=False), [word_cell(label(one.task)) for one in found]),
        (Column("Blocks run", "% of all", key=True), [interval_cell(one.oracle.share, 1) for one in found]),
        (Column("Full model needed", "% of examples"), [_share_of_full(one) for one in found]),
        (Column("metric", numeric=False, group="Chosen by"), [word_cell(one.metric.title) for one in found]),
        (Column("score", group="Chosen by", key=True), [interval_cell(one.oracle.score, 1) for one in found]),
        (Column("from full", group="Chosen by"), [interval_cell(one.oracle.gap, 1, plus=True) for one in found]),
    ]
    if any(one.other for one in found):
        others = [(one.other, one.oracle.other) for one in found]
        columns += [
            (
                Column("metric", numeric=False, group="Not chosen by"),
                [word_cell(o.title) if o else EMPTY for o, _ in others],
            ),
            (
                Column("from full", group="Not chosen by"),
                [interval_cell(seen[1], 1, plus=True) if seen else EMPTY for _, seen in others],
            ),
        ]
    return table("oracle", "An oracle that knew the budget each example needs", columns, NOTE, wrap=True)


def _name(one: Found) -> str:
    return label(one.arms[1].title)


def _settings(one: Found) -> str:
    counts = one.oracle.counts(len(one.arms))
    names = parted([arm.short for arm in one.arms[1:]])[1]
    said = [f"{name or arm.short}: {count}" for name, arm, count in zip(names, one.arms[1:], counts[1:], strict=True)]
    return f"examples by budget: full {counts[0]}, {', '.join(said)}"


def _share_of_full(one: Found) -> Cell:
    counts = one.oracle.counts(len(one.arms))
    share = 100 * counts[0] / sum(counts)
    return Cell(f"{share:.0f}", sort=share)
