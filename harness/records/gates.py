"""Gates: what must hold before a run's numbers are believed, each passed or failed with its value and its limit. Torch-free.

Computed from the cells alone, so that an old run can be judged again (`Run.gates`). `gates.json` of a run folder holds the
judgement at its end, for readers of the folder. A failed gate that counts gives `depthbench run` the exit status 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import gates_timing as timing
from harness.records import standing
from harness.records.cells import Cell, place
from harness.records.differences import differences
from harness.records.folder import SCHEMA_VERSION, RunStore
from harness.records.gate import FAILED as FAILED
from harness.records.gate import NOT_APPLICABLE as NOT_APPLICABLE
from harness.records.gate import NOT_MEASURED as NOT_MEASURED
from harness.records.gate import PASSED as PASSED
from harness.records.gate import Facts, Finding, cells_of, counted
from harness.records.gate import Gate as Gate
from harness.records.limits import BASELINE, Limits

if TYPE_CHECKING:
    from harness.records.run import Run

FILE = "gates.json"
_AGAIN = "the same command with --resume --remeasure measures those cells again"
FAULTS = {
    "timed cells are usable": (
        "some timed cells are unusable",
        f"let nothing else run on the machine (depthbench doctor says what does), then {_AGAIN}",
    ),
    "no speed-up outruns its work": (
        "a speed-up lies above what its work allows",
        f"do not quote these speed-ups; look for what slows the full model here, then {_AGAIN}",
    ),
    "conditions identical across arms": (
        "arms were measured under different conditions",
        "do not compare the cells named; run the suite again in one go, into another folder",
    ),
    "prompts identical across arms": (
        "arms were given different prompts",
        "do not compare the cells named; a method that writes into its prompts shows here",
    ),
    "token counts right": (
        "a number of tokens is wrong",
        "look at the cells named: a method stopped early or ran too long",
    ),
    "no empty generation": (
        "some generations are empty",
        "read the outputs named in samples.jsonl; they are scored as they are",
    ),
    "finite logits": ("some logits are not finite", "the method or the dtype breaks down; try dtype float32"),
    "lossless methods match the full model": (
        "a method that promises the full model's tokens gives others",
        "the method is not what it says; depthbench check names the case",
    ),
    "timed outputs equal scored outputs": (
        "timed outputs are not the scored ones",
        "the method gives other tokens when it is timed; depthbench check names the case",
    ),
    "no foreign process on the GPU": (
        "other processes were on the GPU",
        "end the processes named, or choose another GPU",
    ),
    "throttled samples": (
        "the device was slowed down while it measured",
        "cool the machine, or raise its power or quota limit, and run again",
    ),
    "blocks of the full model take alike": (
        "one block of the full model takes longer than its like",
        "methods that skip the slow block look faster than they are; run again when it is quiet",
    ),
    "arms that do the same work take the same time": (
        "arms that do the same work were timed apart",
        "read nothing into differences of that size",
    ),
    "other work on the processor": (
        "other programs had the processor too",
        f"end the other programs, then {_AGAIN}",
    ),
    "the full model can do the tasks": (
        "on some tasks the full model does no better than guessing",
        "leave these tasks out; they decide no verdict, whatever the methods score there",
    ),
    "one version of the code": (
        "several versions of the code measured this run",
        "measure all of it with one version, into another folder",
    ),
}
"""What is wrong where a gate fails, and what to do about it, by its name."""


def evaluate(run: Run) -> tuple[Gate, ...]:
    """Judge a run by its cells; always the same gates in the same order."""
    limits = Limits.model_validate(run.suite.get("limits") or {})
    facts = Facts(run, limits)
    found = (gate(facts) for gate in _GATES)
    return tuple(_told(one) if one.status == FAILED else one for one in found)


def _told(gate: Gate) -> Gate:
    fault, advice = FAULTS.get(gate.name, ("", ""))
    return replace(gate, fault=fault, advice=advice)


def write_gates(store: RunStore, run: Run) -> Path:
    """Keep the judgement of a run in gates.json of its folder and return the file."""
    cells = [
        {"label": label, "batch_size": batch, "usable": found.state, "reason": found.reason or None}
        for (label, batch), found in run.usability.items()
    ]
    record = {"schema_version": SCHEMA_VERSION, "gates": [asdict(gate) for gate in run.gates], "timed_cells": cells}
    return store.write_text(FILE, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def lines(gates: Sequence[Gate]) -> list[str]:
    """What to say of a run before anything else: one line per failed gate, those that count first, or that all passed."""
    failed = sorted((gate for gate in gates if gate.status == FAILED), key=lambda gate: not gate.counts)
    said = [
        f"gate {'failed' if gate.counts else 'noted'}: {gate.fault or gate.name}: {gate.value:g} {gate.unit}, "
        f"limit {gate.limit:g} ({gate.detail}){f'. What to do: {gate.advice}' if gate.advice else ''}"
        for gate in failed
    ]
    judged = sum(gate.status == PASSED for gate in gates)
    return said or [f"gates: {judged} passed, {len(gates) - judged} not applicable or not measured"]


def _beside(cells: Iterable[Cell]) -> list[tuple[Cell, Cell]]:
    """Every cell with the one it stands beside in a table: the full model's of the same kind, batch size and task."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["kind"], place(cell)), []).append(cell)
    references = (next((c for c in g if c["arm"].get("method") == BASELINE), g[0]) for g in groups.values())
    return [(cell, first) for first, group in zip(references, groups.values(), strict=True) for cell in group]


def _conditions(facts: Facts) -> Gate:
    pairs = _beside([*facts.measured, *facts.scored])
    findings = []
    for cell, first in pairs:
        if cell.get("conditions_hash") != first.get("conditions_hash"):
            found = differences(cell.get("conditions") or {}, first.get("conditions") or {})
            apart = "; ".join(f"{one.name} {one.ours!r}, not {one.theirs!r} as {first['id']}" for one in found)
            findings.append(Finding(cell["id"], apart or f"another hash than {first['id']}"))
    return counted("conditions identical across arms", "cells", len(pairs), findings, "cells")


def _prompts(facts: Facts) -> Gate:
    pairs = _beside([*facts.timed, *facts.scored])
    findings = [
        Finding(cell["id"], f"has other prompts than {first['id']}")
        for cell, first in pairs
        if _prompt_marks(cell) != _prompt_marks(first)
    ]
    checked = len(pairs)
    return counted("prompts identical across arms", "cells", checked, findings, "timed and scored cells")


def _prompt_marks(cell: Cell) -> tuple[Any, ...]:
    seen = cell.get("prompts_seen") if cell["kind"] == "speed" else None
    scored = [example["id"] for example in cell.get("examples") or []] if cell["kind"] == "quality" else []
    return (cell.get("conditions") or {}).get("prompts_hash"), seen, scored


def _token_counts(facts: Facts) -> Gate:
    findings, checked = [], 0
    for cell in facts.timed:
        batch, new = cell["batch_size"], cell["new_tokens"]
        for run in cell.get("runs") or []:
            checked += 1
            got = batch + sum(run.get("step_tokens") or [])
            if got != batch * new or len(run.get("step_tokens") or []) != len(run.get("step_s") or []):
                findings.append(Finding(cell["id"], f"{got} tokens in a repeat instead of {batch * new}"))
    for scored in facts.scored:
        limit = scored.get("max_new_tokens")
        for example in scored.get("examples") or []:
            checked += 1
            count, ids, ended, why = example.get("tokens"), example.get("token_ids"), example.get("ended"), ""
            if ids is not None and len(ids) != count:
                why = f"{len(ids)} tokens kept, {count} counted"
            elif limit and ended is False and count != limit:
                why = f"stopped after {count} tokens without an end"
            elif limit and (count or 0) > limit:
                why = f"{count} tokens, more than {limit}"
            if why:
                findings.append(Finding(scored["id"], f"{example['id']}: {why}"))
    return counted("token counts right", "generations", checked, findings, "repeats and scored generations")


def _empty(facts: Facts) -> Gate:
    """It counts where the full model or a lossless method wrote nothing; of the others an empty text is what they made of it."""
    findings, checked, counts = [], 0, False
    for cell in facts.scored:
        for example in cell.get("examples") or []:
            checked += 1
            text = example.get("output")
            if not example.get("tokens") or (text is not None and not text.strip()):
                findings.append(Finding(cell["id"], f"{example.get('id')} has no text; it is scored as such"))
                counts = counts or bool(cell["arm"].get("exact"))
    return counted(
        "no empty generation", "generations", checked, findings, "scored generations", counts=counts or not findings
    )


def _finite(facts: Facts) -> Gate:
    known = [cell for cell in facts.speed if cell.get("finite") is not None]
    findings = [Finding(c["id"], "logits that are not finite") for c in known if not c["finite"]]
    return counted("finite logits", "cells", len(known), findings, "timed cells")


def _lossless(facts: Facts) -> Gate:
    name, unit = "lossless methods match the full model", "generations that part and are no tie"
    findings, ties, checked, unknown = [], 0, 0, 0
    for cell in (*facts.timed, *facts.scored):
        arm = cell["arm"]
        if not arm.get("exact") or arm.get("method") == BASELINE:
            continue
        parted = cell.get("divergences")
        if parted is None:
            unknown += 1
            continue
        checked += 1
        for found in parted["first"]:
            where = found.get("example") or f"row {found.get('row')}"
            margin = found.get("margin")
            if facts.tie(margin, found.get("scale")):
                ties += 1
            else:
                said = "unknown" if margin is None else f"{margin:.3g}"
                findings.append(Finding(cell["id"], f"{where} parts at token {found['position']}, margin {said}"))
        unlisted = parted["count"] - len(parted["first"])
        findings += [Finding(cell["id"], "parts, not listed")] * unlisted
    gate = counted(name, unit, checked, findings, "cells of lossless methods")
    tied = f"; {ties} parted at a tie of the two best logits" if ties else ""
    lacking = f"; {unknown} could not be compared (no full model on the same checkpoint)" if unknown else ""
    return Gate(**{**asdict(gate), "detail": gate.detail + tied + lacking, "cells": gate.cells})


def _timed_equal_scored(facts: Facts) -> Gate:
    name, unit = "timed outputs equal scored outputs", "share of rows"
    task = next((t.get("name") for t in facts.suite.get("tasks") or [] if isinstance(t, dict)), None)
    scored = {c["arm"]["label"]: c.get("examples") or [] for c in facts.scored if c.get("task") == task}
    findings, rows, ties = [], 0, 0
    for cell in facts.timed:
        if cell.get("repeatable") is False:
            findings.append(Finding(cell["id"], "its repeats gave other tokens than its warm-up"))
        texts = {e["id"]: e.get("token_ids") for e in scored.get(cell["arm"]["label"], ())}
        for batch in cell.get("outputs") or []:
            for row, name_ in enumerate(batch.get("examples") or []):
                if (want := texts.get(name_)) is None:
                    continue
                rows += 1
                got = batch["tokens"][row]
                place = next((i for i, (a, b) in enumerate(zip(want, got, strict=False)) if a != b), None)
                if place is None:
                    continue
                margins, scales = batch.get("margins"), batch.get("scales")
                margin = margins[row][place] if margins else None
                if facts.tie(margin, scales[row] if scales else None):
                    ties += 1
                else:
                    said = "unknown" if margin is None else f"{margin:.3g}"
                    findings.append(Finding(cell["id"], f"{name_} parts at token {place}, margin {said}"))
    if not rows and not findings:
        why = "no timed row is a scored example (prompts cut to a length, made up, or nothing scored)"
        return Gate(name, NOT_APPLICABLE, None, facts.limits.differing_rows, unit, True, why)
    share = len(findings) / max(rows, 1)
    gate = counted(name, unit, max(rows, 1), findings, "timed rows")
    status = FAILED if share > facts.limits.differing_rows else PASSED
    tied = f"; {ties} parted at a tie of the two best logits" if ties else ""
    return Gate(name, status, round(share, 4), facts.limits.differing_rows, unit, True, gate.detail + tied, gate.cells)


def _tasks_tell(facts: Facts) -> Gate:
    known = standing.of_run(facts.run)
    cells = {
        c.get("task"): c["id"] for c in facts.scored if facts.run.full and c["arm"]["label"] == facts.run.full["label"]
    }
    findings = [Finding(str(cells.get(task, task)), f"{task}: {why}") for task, why in known.items() if why is not None]
    what = "tasks whose level of chance is known"
    return counted("the full model can do the tasks", "tasks", len(known), findings, what, counts=False)


def _one_version(facts: Facts) -> Gate:
    name, unit = "one version of the code", "versions"
    cells = [*facts.measured, *facts.scored]
    by: dict[tuple[Any, Any], list[str]] = {}
    for cell in cells:
        if (code := cell.get("code")) is not None:
            by.setdefault((code.get("commit"), code.get("dirty")), []).append(cell["id"])
    if not by:
        return Gate(name, NOT_MEASURED, None, 1, unit, True, "the cells do not say which commit measured them")
    ranked = sorted(by.items(), key=lambda pair: -len(pair[1]))
    said = ", ".join(f"{str(c)[:10]}{' with changes' if d else ''}: {len(ids)} cells" for (c, d), ids in ranked)
    others = cells_of(cell for _, ids in ranked[1:] for cell in ids)
    return Gate(name, PASSED if len(by) == 1 else FAILED, len(by), 1, unit, True, said, others)


_GATES: tuple[Callable[[Facts], Gate], ...] = (
    timing.usable, timing.within_work, _conditions, _prompts, _token_counts, _empty, _finite, _lossless, _timed_equal_scored,
    _tasks_tell, timing.foreign_gpu, timing.throttled, timing.even_blocks, timing.same_work, timing.quiet_cpu, _one_version,
)  # fmt: skip
