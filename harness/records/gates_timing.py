"""Gates on times: whether the machine was quiet, and whether what was timed can be believed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

from harness.machine.record import Gpu
from harness.records import believable
from harness.records.arms import is_whole
from harness.records.cells import EnergyCell, MemoryCell, SpeedCell
from harness.records.gate import FAILED, NOT_APPLICABLE, NOT_MEASURED, PASSED, Facts, Finding, Gate, cells_of, counted
from harness.records.usability import UNUSABLE, WIDE, foreign_share


def _gpus(cells: Iterable[SpeedCell | MemoryCell | EnergyCell]) -> list[tuple[str, Gpu]]:
    """The GPU's records of every measured process: the one it ran on where that is known, else all of them."""
    found = []
    for cell in cells:
        for machine in cell.get("machine") or []:
            gpus = machine.get("gpus") or []
            mine = [gpu for gpu in gpus if gpu.get("uuid") == cell.get("device_uuid")]
            found += [(cell["id"], gpu) for gpu in mine or gpus]
    return found


def foreign_gpu(facts: Facts) -> Gate:
    """Whether the GPU was ours alone."""
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
    return counted(name, unit, len(records), findings, "measured processes")


def throttled(facts: Facts) -> Gate:
    """How often the device was slowed down while it measured."""
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
    slow = cells_of(cell for cell, throttled, samples in records if throttled > limit * samples)
    what = "samples of the GPU's clocks" if facts.cuda else "periods of the control group's processor quota"
    return Gate(
        name, FAILED if share > limit else PASSED, round(share, 4), limit, unit, facts.cuda, f"{total} {what}", slow
    )


def usable(facts: Facts) -> Gate:
    """Whether times could be measured at all: few cells may be unusable, and each says why."""
    name, unit, limit = "timed cells are usable", "share of cells that are unusable", facts.limits.noisy_share
    found = {cell["id"]: facts.run.usability[cell["arm"]["label"], cell["batch_size"]] for cell in facts.timed}
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, True, "nothing was timed")
    bad = {cell: one.reason for cell, one in found.items() if one.state == UNUSABLE}
    wide = sum(one.state == WIDE for one in found.values())
    detail = f"{len(found)} timed cells: {len(bad)} unusable, {wide} wide"
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        detail += "; " + "; ".join(f"{cell}: {why}" for cell, why in list(bad.items())[:3]) + more
    share = len(bad) / len(found)
    many = share > limit
    return Gate(name, FAILED if bad else PASSED, round(share, 4), limit, unit, many, detail, cells_of(bad))


def within_work(facts: Facts) -> Gate:
    """Whether a speed-up lies beyond what the method saves and nothing explains it."""
    name, unit, limit = "no speed-up outruns its work", "speed-up over what the work allows", believable.MARGIN
    methods = [cell for cell in facts.timed if not is_whole(cell["arm"])]
    judged = [(cell["id"], facts.run.judged[cell["arm"]["label"], cell["batch_size"]]) for cell in methods]
    found = [(cell, one.prediction) for cell, one in judged if one.prediction is not None]
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
    return Gate(name, FAILED if bad else PASSED, value, limit, unit, True, detail, cells_of(bad))


def even_blocks(facts: Facts) -> Gate:
    """Whether one block of the full model takes longer than its like; judged where it had the processor to itself.

    Where others have it, the second thread waits for its turn at the start of every generation, and the first block with it.
    """
    name, unit, limit = "blocks of the full model take alike", "slowest over median block", facts.limits.slow_block
    each = [(c, believable.slowest_block(c)) for c in facts.timed if is_whole(c["arm"])]
    timed = [(cell, *slowest) for cell, slowest in each if slowest is not None]
    alone = facts.limits.foreign_cpu_share
    found = [(c["id"], block, ratio) for c, block, ratio in timed if facts.cuda or (foreign_share(c) or 0) <= alone]
    if timed and not found:
        why = "other programs had the processor too"
        return Gate(name, NOT_APPLICABLE, None, limit, unit, True, why)
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, True, "the blocks were not timed one by one")
    bad = [cell for cell, _, ratio in found if ratio > limit]
    where, block, worst = max(found, key=lambda one: one[2])
    detail = f"{len(found)} cells of the full model; the slowest is block {block} in {where}"
    return Gate(name, FAILED if bad else PASSED, round(worst, 4), limit, unit, True, detail, cells_of(bad))


def same_work(facts: Facts) -> Gate:
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


def quiet_cpu(facts: Facts) -> Gate:
    """How much of the processor other programs had; shown, not counted."""
    name, unit, limit = "other work on the processor", "share of its time", facts.limits.foreign_cpu_share
    if facts.cuda:
        return Gate(name, NOT_APPLICABLE, None, limit, unit, False, "measured on a GPU")
    each = [(cell["id"], foreign_share(cell)) for cell in facts.timed]
    found = [(cell, share) for cell, share in each if share is not None]
    if not found:
        return Gate(name, NOT_MEASURED, None, limit, unit, False, "the system does not tell")
    worst = max(found, key=lambda pair: pair[1])
    busy = cells_of(cell for cell, value in found if value > limit)
    detail = f"{len(found)} timed cells; most during {worst[0]}"
    return Gate(name, FAILED if busy else PASSED, round(worst[1], 4), limit, unit, False, detail, busy)
