"""What stands beside the main tasks: lm-eval tasks with paired differences, and the tables of papers a suite names."""

from __future__ import annotations

from reports.facts import judge
from reports.facts.facts import Facts
from reports.text import label, real
from reports.view import papers
from reports.view.cells import EMPTY, interval_cell, name_cell, number_cells, tone_of
from reports.view.parts import Block, Cell, Column, Table, table
from reports.view.verdicts import LM_EVAL


def blocks(facts: Facts) -> tuple[Block, ...]:
    """The section's blocks; none where the run has nothing beside its main tasks."""
    names = [task for task in facts.tasks if task.startswith(LM_EVAL)]
    found: list[Block] = []
    if names:
        found.append(lm_eval_table(facts, names))
    found += papers.blocks(facts)
    return tuple(found)


def lm_eval_table(facts: Facts, names: list[str]) -> Table:
    """Every lm-eval task: the score, its paired difference to full, and the blocks that ran for a scored token."""
    arms = facts.arms
    columns: list[tuple[Column, list[Cell]]] = [(Column("Method", numeric=False), [name_cell(a) for a in arms])]
    for task in names:
        metric = facts.tasks[task][0]
        group = label(task.removeprefix(LM_EVAL)) + ("" if task in judge.informative(facts) else " (not informative)")
        found = [facts.quality.get((a.label, task, metric.name)) for a in arms]
        hint = "lower is better" if metric.better == "lower" else ""
        columns.append(
            (
                Column(metric.title, metric.unit, group=group, hint=hint),
                [EMPTY if q is None else interval_cell(q.value, 1) for q in found],
            )
        )
        seen = [judge.metric(facts, a, task, metric) for a in arms]
        tones = [tone_of(j.state) if j and task in judge.informative(facts) else "" for j in seen]
        gaps = [
            EMPTY if q is None else interval_cell(q.difference, 1, plus=True, tone=tone)
            for q, tone in zip(found, tones, strict=True)
        ]
        columns.append((Column("from full", "paired", group=group), gaps))
        rows = {str(r.get("label")): r for r in facts.data.summary}
        p_values = [real(rows.get(a.label, {}).get(f"{task}/{metric.name}_mcnemar_p")) for a in arms]
        columns.append((Column("McNemar", "p", group=group), number_cells(p_values, 3)))
        depth = [facts.scored_number(a, task, "layers_per_token") for a in arms]
        columns.append((Column("Layers", "per token", group=group), number_cells(depth, 1)))
    silent = [
        f"{label(task)} is not informative: {why}." for task, why in judge.uninformative(facts).items() if task in names
    ]
    note = " ".join(("Differences are paired over the examples of a task.", *silent))
    return table("lm-eval", "lm-eval tasks, scored under each method", columns, note)
