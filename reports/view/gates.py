"""Gates: what must hold before a number is believed, as records.gates judges the stored cells; older runs are judged as well."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.records.cells import place
from harness.records.gate import Gate as Stored
from harness.records.gates import FAILED, PASSED
from reports.facts.facts import Facts
from reports.text import clean, counted, label
from reports.view.cells import word_cell
from reports.view.parts import Column, Table, table


@dataclass(frozen=True)
class Gate:
    """One condition: `found` says what was looked at, and where it failed who failed it."""

    name: str
    result: str
    found: str


def gates(facts: Facts) -> tuple[Gate, ...]:
    """Return every gate of a run."""
    found = []
    for gate in facts.data.gates:
        limit = (
            ""
            if gate.value is None or gate.limit is None
            else f"{gate.value:.3g} {gate.unit}, limit {gate.limit:.3g}. "
        )
        name = gate.name if gate.counts else f"{gate.name} (noted only)"
        found.append(
            Gate(label(name[:1].upper() + name[1:], 80), gate.status, clean(f"{limit}{_named(facts, gate.detail)}"))
        )
    return tuple(found)


def failed(facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A line for each gate that failed and stops a run, what to do included, and one for each that warns only."""
    found = [gate for gate in facts.data.gates if gate.status == FAILED]
    stops = tuple(_line(facts, gate) for gate in found if gate.counts)
    return stops, tuple(f"{_wrong(gate)}." for gate in found if not gate.counts)


def _line(facts: Facts, gate: Stored) -> str:
    """What is wrong, where, and what to do about it."""
    where = label(_named(facts, gate.detail), 150)
    return clean(f"{_wrong(gate)} ({where}). {_upper(gate.advice)}{'.' if gate.advice else ''}".rstrip(), None)


def _wrong(gate: Stored) -> str:
    return _upper(clean(gate.fault or f"not so: {gate.name}"))


def _upper(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"


def _named(facts: Facts, words: str) -> str:
    """Words about cells, with what each cell is in place of its id."""
    names = {
        cell["id"]: f"{cell['arm']['label']} {'on' if cell['kind'] == 'quality' else 'at batch'} {place(cell)}"
        for cell in facts.data.cells
    }
    found = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
    return found.sub(lambda match: names[match[0]], words)


def summary(facts: Facts) -> tuple[str, ...]:
    """How many checks passed, and what those say that did not."""
    found = facts.data.gates
    failed = [gate for gate in found if gate.status == FAILED]
    passed = sum(gate.status == PASSED for gate in found)
    unchecked = len(found) - passed - len(failed)
    rest = f"; {unchecked} had nothing to judge by" if unchecked else ""
    lines = [f"Of {counted(len(found), 'check')}, {passed} passed and {len(failed)} did not{rest}."]
    for gate in failed:
        wrong = f"{_wrong(gate)}{'' if gate.counts else ' (a warning)'}"
        lines.append(clean(f"{wrong}: {_named(facts, gate.detail)}. {_upper(gate.advice)}.", 700))
    return tuple(lines)


def gates_table(facts: Facts) -> Table:
    """The gates as a table, failed ones first."""
    rank = {FAILED: 0, PASSED: 1}
    found = sorted(gates(facts), key=lambda gate: rank.get(gate.result, 2))
    tone = {FAILED: "bad", PASSED: "good"}
    columns = [
        (Column("Gate", numeric=False), [word_cell(g.name) for g in found]),
        (Column("Result", numeric=False), [word_cell(g.result, tone.get(g.result, "open")) for g in found]),
        (Column("What was looked at", numeric=False), [word_cell(g.found) for g in found]),
    ]
    return table(
        "gates", "Gates", columns, "A gate is not checked where the run stored nothing to check it by.", wrap=True
    )
