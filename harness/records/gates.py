"""Gates: what must hold before a run's numbers are believed, each passed or failed with its value and its limit. Torch-free.

Computed from the cells alone, so that an old run can be judged again (`Run.gates`). `gates.json` of a run folder holds the
judgement at its end, for readers of the folder. A failed gate that counts gives `depthbench run` the exit status 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.machine.record import Gpu
from harness.records import believable, measures, quantities
from harness.records.cells import Cell, EnergyCell, MemoryCell, SpeedCell, place
from harness.records.differences import differences
from harness.records.folder import SCHEMA_VERSION, RunStore
from harness.records.limits import BASELINE, Limits
from harness.records.quantities import Quantity

if TYPE_CHECKING:
    from harness.records.run import Run

PASSED, FAILED, NOT_APPLICABLE, NOT_MEASURED = "passed", "failed", "not applicable", "not measured"
FILE = "gates.json"
LISTED = 10

TIE = {"float32": 2e-5, "bfloat16": 2.0**-6, "float16": 2.0**-9}
"""Two best logits that lie closer than this, relative to the largest of the row, are a tie: a few units of the last place of
the dtype's sums (2e-5 is what float32 keeps after tens of blocks), which another batch size or column count may turn over."""


@dataclass(frozen=True)
class Gate:
    """One gate of a run.

    Attributes:
        name: what must hold.
        status: passed, failed, not applicable (nothing it could judge), or not measured.
        value: the worst value found; None where there is none.
        limit: the most it may be.
        unit: what value and limit count.
        counts: whether failing it gives exit status 1; False: it is shown, and that is all.
        detail: one sentence: what was compared, and the first things that fell short.
        cells: ids of the cells that fell short, at most LISTED of them.
    """

    name: str
    status: str
    value: float | None
    limit: float | None
    unit: str
    counts: bool
    detail: str
    cells: tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether the run's exit status is 1 because of it."""
        return self.counts and self.status == FAILED


@dataclass(frozen=True)
class Finding:
    """A thing that fell short: where, and what, in a few words."""

    cell: str
    what: str


def evaluate(run: Run) -> tuple[Gate, ...]:
    """Judge a run by its cells; always the same gates in the same order."""
    limits = Limits.model_validate(run.suite.get("limits") or {})
    facts = _Facts(run, limits)
    limited = (_limited(facts, quantity) for quantity in quantities.limited())
    return (*(gate(facts) for gate in _SOUND), *limited, *(gate(facts) for gate in _BELIEVABLE))


def write_gates(store: RunStore, run: Run) -> Path:
    """Keep the judgement of a run in gates.json of its folder and return the file."""
    record = {"schema_version": SCHEMA_VERSION, "gates": [asdict(gate) for gate in run.gates]}
    return store.write_text(FILE, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def lines(gates: Sequence[Gate]) -> list[str]:
    """What to print after a run: one line per failed gate, or that all passed."""
    failed = [gate for gate in gates if gate.status == FAILED]
    said = [
        f"gate {'failed' if gate.counts else 'noted'}: {gate.name}: {gate.value:g} {gate.unit}, "
        f"limit {gate.limit:g} ({gate.detail})"
        for gate in failed
    ]
    judged = sum(gate.status == PASSED for gate in gates)
    return said or [f"gates: {judged} passed, {len(gates) - judged} not applicable or not measured"]


class _Facts:
    """A run's cells, sorted for the gates."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self.run, self.suite, self.limits = run, run.suite, limits
        self.speed = [c for c in run.cells if c["kind"] == "speed"]
        self.timed, self.scored = run.speed, run.quality
        self.measured = [c for c in run.cells if c["kind"] != "quality" and c["status"] == "ok"]
        self.dtype = str(run.suite.get("dtype") or "float32")
        self.cuda = str(run.suite.get("device") or "cpu").startswith("cuda")

    def tie(self, margin: float | None, scale: float | None) -> bool:
        """Whether two logits lie too close for the dtype to tell which is larger."""
        return margin is not None and scale is not None and margin <= TIE.get(self.dtype, 0.0) * max(scale, 1.0)


def _counted(
    name: str, unit: str, checked: int, findings: Sequence[Finding], what: str, *, counts: bool = True
) -> Gate:
    """A gate that allows nothing to fall short."""
    if not checked:
        return Gate(name, NOT_APPLICABLE, None, 0, unit, counts, f"there is nothing to compare: no {what}")
    detail = f"{checked} {what} compared"
    if findings:
        more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
        detail += ": " + "; ".join(f"{f.cell}: {f.what}" for f in findings[:3]) + more
    return Gate(
        name, FAILED if findings else PASSED, len(findings), 0, unit, counts, detail, _cells(f.cell for f in findings)
    )


def _cells(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:LISTED]


def _beside(cells: Iterable[Cell]) -> list[tuple[Cell, Cell]]:
    """Every cell with the one it stands beside in a table: the full model's of the same kind, batch size and task."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["kind"], place(cell)), []).append(cell)
    references = (next((c for c in g if c["arm"].get("method") == BASELINE), g[0]) for g in groups.values())
    return [(cell, first) for first, group in zip(references, groups.values(), strict=True) for cell in group]


def _conditions(facts: _Facts) -> Gate:
    pairs = _beside([*facts.measured, *facts.scored])
    findings = []
    for cell, first in pairs:
        if cell.get("conditions_hash") != first.get("conditions_hash"):
            found = differences(cell.get("conditions") or {}, first.get("conditions") or {})
            apart = "; ".join(f"{one.name} {one.ours!r}, not {one.theirs!r} as {first['id']}" for one in found)
            findings.append(Finding(cell["id"], apart or f"another hash than {first['id']}"))
    return _counted("conditions identical across arms", "cells", len(pairs), findings, "cells")


def _prompts(facts: _Facts) -> Gate:
    pairs = _beside([*facts.timed, *facts.scored])
    findings = [
        Finding(cell["id"], f"has other prompts than {first['id']}")
        for cell, first in pairs
        if _prompt_marks(cell) != _prompt_marks(first)
    ]
    checked = len(pairs)
    return _counted("prompts identical across arms", "cells", checked, findings, "timed and scored cells")


def _prompt_marks(cell: Cell) -> tuple[Any, ...]:
    seen = cell.get("prompts_seen") if cell["kind"] == "speed" else None
    scored = [example["id"] for example in cell.get("examples") or []] if cell["kind"] == "quality" else []
    return (cell.get("conditions") or {}).get("prompts_hash"), seen, scored


def _token_counts(facts: _Facts) -> Gate:
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
    return _counted("token counts right", "generations", checked, findings, "repeats and scored generations")


def _empty(facts: _Facts) -> Gate:
    findings, checked = [], 0
    for cell in facts.scored:
        for example in cell.get("examples") or []:
            checked += 1
            text = example.get("output")
            if not example.get("tokens") or (text is not None and not text.strip()):
                findings.append(Finding(cell["id"], f"{example.get('id')} has no text; it is scored as such"))
    return _counted("no empty generation", "generations", checked, findings, "scored generations")


def _finite(facts: _Facts) -> Gate:
    known = [cell for cell in facts.speed if cell.get("finite") is not None]
    findings = [Finding(c["id"], "logits that are not finite") for c in known if not c["finite"]]
    return _counted("finite logits", "cells", len(known), findings, "timed cells")


def _lossless(facts: _Facts) -> Gate:
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
    gate = _counted(name, unit, checked, findings, "cells of lossless methods")
    tied = f"; {ties} parted at a tie of the two best logits" if ties else ""
    lacking = f"; {unknown} could not be compared (no full model on the same checkpoint)" if unknown else ""
    return Gate(**{**asdict(gate), "detail": gate.detail + tied + lacking, "cells": gate.cells})


def _timed_equal_scored(facts: _Facts) -> Gate:
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
    gate = _counted(name, unit, max(rows, 1), findings, "timed rows")
    status = FAILED if share > facts.limits.differing_rows else PASSED
    tied = f"; {ties} parted at a tie of the two best logits" if ties else ""
    return Gate(name, status, round(share, 4), facts.limits.differing_rows, unit, True, gate.detail + tied, gate.cells)


def _gpus(cells: Iterable[SpeedCell | MemoryCell | EnergyCell]) -> list[tuple[str, Gpu]]:
    """The GPU's records of every measured process: the one it ran on where that is known, else all of them."""
    found = []
    for cell in cells:
        for machine in cell.get("machine") or []:
            gpus = machine.get("gpus") or []
            mine = [gpu for gpu in gpus if gpu.get("uuid") == cell.get("device_uuid")]
            found += [(cell["id"], gpu) for gpu in mine or gpus]
    return found


def _foreign_gpu(facts: _Facts) -> Gate:
    name, unit = "no foreign process on the GPU", "processes"
    if not facts.cuda:
        return Gate(name, NOT_APPLICABLE, None, 0, unit, True, "nothing was measured on a GPU")
    every = [(cell, gpu.get("foreign_processes")) for cell, gpu in _gpus(facts.measured)]
    records = [(cell, processes) for cell, processes in every if processes is not None]
    if not records:
        return Gate(name, NOT_MEASURED, None, 0, unit, True, "NVML does not list the processes here")
    findings = [
        Finding(cell, f"{process['name']} (process {process['pid']})")
        for cell, processes in records
        for process in processes
    ]
    return _counted(name, unit, len(records), findings, "measured processes")


def _throttled(facts: _Facts) -> Gate:
    name, unit, limit = "throttled samples", "share of samples", facts.limits.throttled_share
    if facts.cuda:
        records = [
            (c, g.get("throttled_samples") or 0, g["samples"]) for c, g in _gpus(facts.timed) if g.get("samples")
        ]
    else:
        cpus = [(c["id"], m["cpu"]) for c in facts.timed for m in c.get("machine") or [] if m.get("cpu")]
        found = [(c, cpu.get("quota_throttled"), cpu.get("quota_periods")) for c, cpu in cpus]
        records = [(c, throttled or 0, periods) for c, throttled, periods in found if periods]
    if not records:
        why = "no reading of the clocks" if facts.cuda else "the processor's time is under no quota that could slow it"
        return Gate(name, NOT_MEASURED if facts.cuda else NOT_APPLICABLE, None, limit, unit, facts.cuda, why)
    total = sum(samples for _, _, samples in records)
    share = sum(throttled for _, throttled, _ in records) / total
    slow = _cells(cell for cell, throttled, samples in records if throttled > limit * samples)
    what = "samples of the GPU's clocks" if facts.cuda else "periods of the control group's processor quota"
    return Gate(
        name, FAILED if share > limit else PASSED, round(share, 4), limit, unit, facts.cuda, f"{total} {what}", slow
    )


def _limited(facts: _Facts, quantity: Quantity) -> Gate:
    """A quantity that makes timed cells noisy: a few among many cost their own cells the verdict, more of them fail the run."""
    limits = facts.limits
    limit = float(getattr(limits, quantity.limit) if isinstance(quantity.limit, str) else quantity.limit or 0.0)
    name, unit = quantity.name.replace("_", " "), quantity.unit
    found = [(cell["id"], value) for cell in facts.timed if (value := quantity.value(cell)) is not None]
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, True, quantity.lacking)
    worst = max(found, key=lambda pair: pair[1])
    noisy = [cell for cell, value in found if value > limit]
    detail = f"{len(found)} timed cells, {len(noisy)} above the limit; widest: {worst[0]}"
    many = len(noisy) > limits.noisy_share * len(found)
    if noisy and not many:
        detail += "; those get no verdict on speed, the others stand"
    return Gate(name, FAILED if noisy else PASSED, round(worst[1], 4), limit, unit, many, detail, _cells(noisy))


def _within_work(facts: _Facts) -> Gate:
    name, unit, limit = "no speed-up outruns its work", "speed-up over what the work allows", believable.MARGIN
    fulls = {c["batch_size"]: c for c in reversed(facts.timed) if c["arm"].get("method") == BASELINE}
    found = []
    for cell in facts.timed:
        full = fulls.get(cell["batch_size"])
        if full is None or cell is full or cell["arm"].get("method") == BASELINE:
            continue
        speedup = measures.speedup(full, cell) if measures.fixed_length(cell) else None
        beside = None if speedup is None else believable.predicted(full, cell, speedup)
        if beside is not None:
            found.append((cell["id"], beside))
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, True, "no speed-up with an interval and known work")
    worst = max(found, key=lambda pair: pair[1].beyond.low if not pair[1].explained else 0.0)[1].beyond
    bad = [cell for cell, beside in found if beside.unusable]
    explained = [f"{cell}: {beside.explained}" for cell, beside in found if beside.explained]
    detail = f"{len(found)} speed-ups; the most is {worst.value:.2f} [{worst.low:.2f}, {worst.high:.2f}]"
    if bad:
        detail += f"; faster than their work allows, so the baseline is suspect: {', '.join(bad[:3])}"
    if explained:
        detail += f"; explained: {'; '.join(explained[:3])}"
    value = round(worst.low, 4)
    return Gate(name, FAILED if bad else PASSED, value, limit, unit, True, detail, _cells(bad))


def _even_blocks(facts: _Facts) -> Gate:
    name, unit, limit = "blocks of the full model take alike", "slowest over median block", believable.EVEN
    fulls = [c for c in facts.timed if c["arm"].get("method") == BASELINE]
    found = [(cell["id"], *slowest) for cell in fulls if (slowest := believable.slowest_block(cell)) is not None]
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, True, "the blocks were not timed one by one")
    bad = [cell for cell, _, ratio in found if ratio > limit]
    where, block, worst = max(found, key=lambda one: one[2])
    detail = f"{len(found)} cells of the full model; the slowest is block {block} in {where}"
    if bad:
        detail += ": a method that skips it looks faster than it is"
    return Gate(name, FAILED if bad else PASSED, round(worst, 4), limit, unit, True, detail, _cells(bad))


def _same_work(facts: _Facts) -> Gate:
    """Shown, not counted: on a machine that is shared it says how small a difference can be ranked at all."""
    name, unit, limit = "arms that do the same work take the same time", "relative difference", believable.SAME_WORK
    batches = sorted({c["batch_size"] for c in facts.timed})
    found = [(batch, *pair) for batch in batches for pair in believable.same_work(facts.run, batch)]
    if not found:
        return Gate(
            name, NOT_APPLICABLE, None, limit, unit, False, "no two arms run the full model on weights of one shape"
        )
    off = [(abs(i.value - 1), i, f"batch {batch}, {label}") for batch, label, i in found]
    worst = max(off, key=lambda one: one[0])
    bad = [f"{where} reads {i.value:.2f} [{i.low:.2f}, {i.high:.2f}]" for far, i, where in off if far > limit]
    detail = f"{len(found)} controls"
    if bad:
        detail += f"; {'; '.join(bad[:3])}: differences of that size between other arms there rank nothing"
    return Gate(name, FAILED if bad else PASSED, round(worst[0], 4), limit, unit, False, detail)


def _quiet_cpu(facts: _Facts) -> Gate:
    name, unit, limit = "other work on the processor", "share of its time", facts.limits.foreign_cpu_share
    if facts.cuda:
        return Gate(name, NOT_APPLICABLE, None, limit, unit, False, "measured on a GPU")
    found = []
    for cell in facts.timed:
        for machine in cell.get("machine") or []:
            if (cpu := machine.get("cpu")) and (share := cpu.get("foreign_share")) is not None:
                found.append((cell["id"], share + (cpu.get("steal_share") or 0.0)))
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, False, "the system does not tell")
    worst = max(found, key=lambda pair: pair[1])
    busy = _cells(cell for cell, value in found if value > limit)
    detail = f"{len(found)} timed processes; most during {worst[0]}"
    return Gate(name, FAILED if busy else PASSED, round(worst[1], 4), limit, unit, False, detail, busy)


def _one_version(facts: _Facts) -> Gate:
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
    others = _cells(cell for _, ids in ranked[1:] for cell in ids)
    return Gate(name, PASSED if len(by) == 1 else FAILED, len(by), 1, unit, True, said, others)


_SOUND: tuple[Callable[[_Facts], Gate], ...] = (
    _conditions, _prompts, _token_counts, _empty, _finite, _lossless, _timed_equal_scored, _foreign_gpu, _throttled,
)  # fmt: skip
_BELIEVABLE: tuple[Callable[[_Facts], Gate], ...] = (_within_work, _even_blocks, _same_work, _quiet_cpu, _one_version)
