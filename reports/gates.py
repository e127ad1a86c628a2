"""Gates: what must hold before a number is believed, each passed, failed or not checked, from what the run stored."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from harness.store import Run
from reports.cells import word_cell
from reports.facts import Arm, Facts, Speed
from reports.parts import Column, Table, table
from reports.text import clean, counted, label, listed, real

PASSED, FAILED, UNKNOWN = "passed", "failed", "not checked"


@dataclass(frozen=True)
class Gate:
    """One condition: `found` says what was looked at, and where it failed who failed it."""

    name: str
    result: str
    found: str


def gates(facts: Facts) -> tuple[Gate, ...]:
    """Return every gate of a run."""
    judged = _judged(facts)
    if judged is not None:
        return judged
    timed = [(arm, batch, s) for (name, batch), s in facts.speed.items() for arm in facts.arms if arm.label == name]
    shown = [
        _prompts(facts, timed),
        _counts(timed),
        _nothing_empty(facts),
        _flag(timed, "finite", "Logits are finite", "gave logits that are not finite"),
        _flag(timed, "repeatable", "Repeats give the same tokens", "gave other tokens when repeated"),
        _exact(facts, timed),
        _dispersion(facts),
        _conditions(facts),
        _complete(facts),
    ]
    return tuple(shown)


def _judged(facts: Facts) -> tuple[Gate, ...] | None:
    """What `harness.gates` makes of the stored cells; None where this version has no such module."""
    if importlib.util.find_spec("harness.gates") is None:
        return None
    evaluate = importlib.import_module("harness.gates").evaluate
    found = []
    for gate in evaluate(Run(facts.data.run, list(facts.data.cells))):
        limit = (
            ""
            if gate.value is None or gate.limit is None
            else f"{gate.value:.3g} {gate.unit}, limit {gate.limit:.3g}. "
        )
        name = gate.name if gate.counts else f"{gate.name} (noted only)"
        found.append(Gate(label(name[:1].upper() + name[1:], 80), gate.status, clean(f"{limit}{gate.detail}")))
    return tuple(found)


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


Timed = tuple[Arm, int, Speed]


def _gate(name: str, bad: list[str], looked: int, what: str) -> Gate:
    """A gate over `looked` things of which `bad` names those that fail."""
    if bad:
        return Gate(name, FAILED, f"{listed(bad, 4)}.")
    return Gate(name, PASSED, what) if looked else Gate(name, UNKNOWN, "No cell of this run says.")


def _prompts(facts: Facts, timed: list[Timed]) -> Gate:
    groups: dict[str, set[Any]] = {}
    for _, batch, s in timed:
        groups.setdefault(f"batch size {batch}", set()).add(s.cell.get("prompts_hash"))
    for (_, task), cell in facts.scored.items():
        groups.setdefault(label(task), set()).add((cell.get("conditions") or {}).get("prompts_hash"))
    known = {name: found for name, found in groups.items() if found != {None}}
    bad = [f"arms got different prompts at {name}" for name, found in known.items() if len(found) > 1]
    what = f"One hash of the prompts over all arms at each of {counted(len(known), 'batch size or task', 'batch sizes and tasks')}."
    return _gate("Prompts are identical across arms", bad, len(known), what)


def _counts(timed: list[Timed]) -> Gate:
    bad, looked = [], 0
    for arm, batch, s in timed:
        new = s.raw("new_tokens")
        totals = {sum(r.get("step_tokens") or []) for r in s.runs if r.get("step_tokens")}
        if new is None or not totals:
            continue
        looked += 1
        wanted = int(batch * (new - 1))  # token 0 comes from the prompt's pass
        if totals != {wanted}:
            got = ", ".join(f"{n:g}" for n in sorted(totals))
            bad.append(f"{arm.short} at batch size {batch} yielded {got} tokens in place of {wanted}")
    return _gate(
        "Token counts are right",
        bad,
        looked,
        f"Every repeat of {counted(looked, 'timed cell')} yielded what was asked for.",
    )


def _nothing_empty(facts: Facts) -> Gate:
    bad, looked = [], 0
    for (name, task), examples in facts.examples.items():
        lengths = [n for e in examples.values() if (n := real(e.get("tokens"))) is not None]
        looked += len(lengths)
        if empty := sum(n < 1 for n in lengths):
            bad.append(f"{label(name)} generated no token for {counted(empty, 'example')} of {label(task)}")
    return _gate("No generation is empty", bad, looked, f"{counted(looked, 'scored output')}.")


def _flag(timed: list[Timed], key: str, name: str, words: str) -> Gate:
    found = [(arm, batch, s.cell[key]) for arm, batch, s in timed if isinstance(s.cell.get(key), bool)]
    bad = [f"{arm.short} at batch size {batch} {words}" for arm, batch, value in found if not value]
    return _gate(name, bad, len(found), f"{counted(len(found), 'timed cell')}.")


def _exact(facts: Facts, timed: list[Timed]) -> Gate:
    name = "Lossless methods give the full model's tokens"
    arms = [a for a in facts.others if a.exact and a.method != "full"]
    if not arms:
        return Gate(name, UNKNOWN, "No lossless method is in this run.")
    found = [(a, b, s.raw("tokens_unlike_full")) for a, b, s in timed if a in arms]
    known = [(a, b, n) for a, b, n in found if n is not None]
    bad = [f"{a.short} parts from it in {counted(int(n), 'token')} at batch size {b}" for a, b, n in known if n > 0]
    return _gate(
        name,
        bad,
        len(known),
        f"{listed(a.short for a in arms)}: every timed token is the full model's on the same weights.",
    )


def _dispersion(facts: Facts) -> Gate:
    known = [(row, str(row["noisy"])) for row in facts.data.rows if row.get("noisy")]
    bad = [
        f"{label(row.get('label'))} at batch size {row.get('batch_size')} is noisy"
        for row, word in known
        if word == "yes"
    ]
    return _gate("Dispersion is under its limit", bad, len(known), f"{counted(len(known), 'speed-up')} with intervals.")


def _conditions(facts: Facts) -> Gate:
    bad = [f"{counted(len(facts.refused), 'cell')} left out, named above"] if facts.refused else []
    looked = len(facts.speed) + len(facts.scored)
    return _gate(
        "Conditions are equal within every table",
        bad,
        looked,
        f"One hash of the conditions per kind, batch size and task, over {counted(looked, 'cell')}.",
    )


def _complete(facts: Facts) -> Gate:
    total, failed, broken = len(facts.data.cells), len(facts.failed), len(facts.data.problems)
    bad = [f"{counted(failed, 'cell')} failed"] if failed else []
    bad += [f"{counted(broken, 'cell file')} could not be read"] if broken else []
    return _gate("Every cell was measured", bad, total, f"{counted(total, 'cell')}.")
