"""From stored runs to the report as plain data: how runs relate, and the sections of each in reading order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.records.cells import Cell
from harness.records.run import Run
from reports.facts import merge
from reports.facts.facts import Facts, gather
from reports.facts.wanted import Wanted, check, narrow
from reports.text import counted, label, listed
from reports.view import told
from reports.view.board import board
from reports.view.parts import Block, Figure, Fold, Hero, ReportView, RunView, Section, Table, Warnings
from reports.view.settings import machine, values
from reports.write import sections


def build(runs: Sequence[Run], wanted: Wanted | None = None) -> ReportView:
    """Return the view of a report on what is wanted of runs: those under the same conditions joined, others in parts of their own.

    Raises:
        BadInput: something wanted that no run has; see `reports.facts.wanted`.
    """
    joined, wanted = merge.join(runs), wanted or Wanted()
    every = [gather(run) for run in joined]
    check(wanted, every)
    facts = [narrow(one, wanted) for one in every]
    names = [_name(run) for run in joined]
    titles = dict.fromkeys(_title(run, name) for run, name in zip(joined, names, strict=True))
    title = listed(titles, 1) if len(titles) == 1 else f"{len(titles)} runs: {listed(dict.fromkeys(names), 6)}"
    views = tuple(_run_view(f, name, i, len(joined)) for i, (f, name) in enumerate(zip(facts, names, strict=True)))
    several = board(facts) if len(joined) > 1 else None
    return ReportView(title, _relation(runs, joined, [v.title for v in views]), views, several)


def _name(run: Run) -> str:
    return listed(dict.fromkeys(label(r.get("name") or "unnamed run") for r in run.sources or (run.record,)), 4)


def _title(run: Run, name: str) -> str:
    """The suite's own title, else its name with what it is about."""
    given = run.suite.get("title")
    return label(given, 120) if given else f"{name}: depth-adaptive decoding against the full model"


def _relation(runs: Sequence[Run], joined: Sequence[Run], titles: Sequence[str]) -> tuple[str, ...]:
    """What became of several runs: which were joined, and what keeps the others apart; nothing for one."""
    lead = []
    for run, title in zip(joined, titles, strict=True):
        if len(run.sources) > 1:
            which = "" if len(joined) == 1 else f"{title}: "
            lead.append(
                f"{which}{counted(len(run.sources), 'run')} under the same conditions, on the same machine and code, are "
                "joined; each arm is paired with the full model of its own run."
            )
    if len(joined) < 2:
        return tuple(lead)
    lead.insert(0, f"This report holds {counted(len(runs), 'run')} in {len(joined)} parts. No table mixes them.")
    for other, title in zip(joined[1:], titles[1:], strict=True):
        why = merge.apart(joined[0], other) or ("measured in another state of the runs before",)
        lead.append(f"{title}, beside {titles[0]}: {'; '.join(why)}.")
    return tuple(lead)


def _run_view(facts: Facts, name: str, index: int, count: int) -> RunView:
    prefix = f"r{index + 1}-" if count > 1 else ""
    title = f"Part {index + 1}: {name}" if count > 1 else name
    cells: list[Cell] = [*facts.speed_cells]
    cells = cells or [*facts.scored.values()]
    started = [label(r.get("started") or "")[:10] for r in facts.data.sources or (facts.data.record,)]
    about = [
        values(cells, "model"),
        values(cells, "dtype"),
        machine(facts),
        listed(dict.fromkeys(filter(None, started))),
    ]
    return RunView(
        prefix + "run",
        title,
        " · ".join(a for a in about if a),
        tuple(_prefixed(s, prefix) for s in sections.sections(facts)),
        told.setting(facts),
        "samples.jsonl" if facts.data.folder and (facts.data.folder / "samples.jsonl").is_file() else "",
    )


def _prefixed(section: Section, prefix: str) -> Section:
    """The section with ids that are unique among several runs."""
    if not prefix:
        return section

    def renamed(block: Block) -> Block:
        if isinstance(block, (Table, Figure)):
            return dataclasses.replace(block, id=prefix + block.id)
        if isinstance(block, Fold):
            return dataclasses.replace(block, blocks=tuple(map(renamed, block.blocks)))
        if isinstance(block, Hero):
            figures = tuple((name, dataclasses.replace(f, id=prefix + f.id)) for name, f in block.figures)
            return dataclasses.replace(block, figures=figures)
        if isinstance(block, Warnings) and block.more[1]:
            return dataclasses.replace(block, more=(block.more[0], prefix + block.more[1]))
        return block

    return Section(prefix + section.id, section.title, tuple(map(renamed, section.blocks)))
