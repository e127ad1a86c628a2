"""Several runs in one table: a row for each method and model, the newest run first, each with the machine it was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness.records.limits import BASELINE
from reports.facts import judge
from reports.facts.arms import Arm, curves
from reports.facts.facts import Facts
from reports.text import label
from reports.view.answer import timed
from reports.view.cells import EMPTY, MARK, interval_cell, name_cell, ratio_cell, state_cell, word_cell
from reports.view.parts import Cell, Column, Table, table
from reports.view.settings import machine, values


def board(runs: Sequence[Facts]) -> Table | None:
    """Return the leaderboard of several runs; None where none of them holds a method beside the full model."""
    rows: list[tuple[str, Facts, Arm]] = []
    for facts in runs:
        started = max(
            (label(r.get("started") or "")[:10] for r in facts.data.sources or (facts.data.record,)), default=""
        )
        for curve in curves(facts.others):
            if curve.arms[0].method != BASELINE:
                rows.append((started, facts, min(curve.arms, key=partial(judge.worth, facts))))
    if not rows:
        return None
    rows.sort(key=lambda row: row[0], reverse=True)
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Method", "its best setting", numeric=False), [name_cell(arm) for _, _, arm in rows]),
        (Column("Model", numeric=False), [word_cell(_model(facts)) for _, facts, _ in rows]),
        (Column("Run", numeric=False), [word_cell(day) for day, _, _ in rows]),
        (
            Column("smallest batch", group="Speed-up, × full", key=True),
            [_speed(facts, arm, 0) for _, facts, arm in rows],
        ),
        (Column("largest batch", group="Speed-up, × full"), [_speed(facts, arm, -1) for _, facts, arm in rows]),
        (Column("Score", "first metric of the first task", key=True), [_score(facts, arm) for _, facts, arm in rows]),
        (Column("Quality", numeric=False), [_state(facts, arm) for _, facts, arm in rows]),
        (Column("Machine", numeric=False), [word_cell(machine(facts)) for _, facts, _ in rows]),
    ]
    note = (
        "Newest run first. Every number is against the full model of its own run and machine: rows of different machines or "
        "models do not rank each other."
    )
    if any(cell.text.endswith(MARK) for _, cells in columns for cell in cells):
        note += f" {MARK} Above its byte limit or the predicted speed-up: its run's own tables say why."
    return table("leaderboard", "All runs", columns, note)


def _model(facts: Facts) -> str:
    return values([*facts.speed_cells] or [*facts.scored.values()], "model") or label(
        facts.data.suite.get("model") or ""
    )


def _state(facts: Facts, arm: Arm) -> Cell:
    return state_cell(judge.arm(facts, arm), len(facts.tasks) > 1) if facts.tasks else EMPTY


def _speed(facts: Facts, arm: Arm, which: int) -> Cell:
    sizes = timed(facts)
    if not sizes or (which and len(sizes) < 2):
        return EMPTY
    cell = ratio_cell(arm, facts.speed.get((arm.label, sizes[which])))
    detail = f"{cell.detail}, batch {sizes[which]}" if cell.detail else f"batch {sizes[which]}"
    return Cell(cell.text, detail, cell.sort, cell.tone, ends=cell.ends) if cell.sort is not None else EMPTY


def _score(facts: Facts, arm: Arm) -> Cell:
    for task in judge.informative(facts)[:1]:
        metric = facts.tasks[task][0]
        if found := facts.quality.get((arm.label, task, metric.name)):
            cell = interval_cell(found.value, 1)
            return Cell(cell.text, f"{metric.title} on {label(task)}", cell.sort, ends=None)
    return EMPTY
