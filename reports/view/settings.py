"""Sentences that state n, machine and conditions: every table and figure carries one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.records.cells import Cell
from harness.records.clock import place
from reports.facts.facts import Facts
from reports.text import clean, counted, label, listed, real


def machine(facts: Facts) -> str:
    """Return what the run was measured on, as far as the fingerprint says."""
    env = facts.data.record.get("environment") or {}
    cpu = _first(env, ("cpu", "model"), ("cpu",))
    cores = _first(env, ("cpu", "usable_cores"), ("cpu", "cores"), ("cpu", "threads"))
    gpu = _first(env, ("gpu", "name"))
    if gpu is not None and any(
        str(device).startswith("cuda") for device in shared(facts.speed_cells).get("device", ())
    ):
        return label(gpu)
    if cpu is None:
        return "a machine the fingerprint does not name"
    return f"{label(cpu)}, {counted(int(cores), 'core')}" if real(cores) is not None else label(cpu)


def _first(env: Mapping[str, Any], *paths: tuple[str, ...]) -> Any:
    for path in paths:
        found: Any = env
        for key in path:
            if isinstance(found, list):
                found = found[0] if found else None
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is not None and not isinstance(found, (Mapping, list)):
            return found
    return None


def shared(cells: Iterable[Cell]) -> dict[str, list[Any]]:
    """Return every key of the cells' conditions with its distinct values, in order of appearance."""
    found: dict[str, list[Any]] = {}
    for cell in cells:
        for key, value in (cell.get("conditions") or {}).items():
            values = found.setdefault(str(key), [])
            if value not in values:
                values.append(value)
    return found


def values(cells: Iterable[Cell], key: str) -> str:
    """Return the distinct values of a key of the cells (else of their conditions), as `48`, `15 to 22`, `a, b`; empty if none."""
    found = [cell.get(key, (cell.get("conditions") or {}).get(key)) for cell in cells]
    seen = list(dict.fromkeys(label(value) for value in found if value is not None))
    numbers = [number for value in found if (number := real(value)) is not None]
    if len(seen) > 1 and len(numbers) == len(found):
        return f"{min(numbers):g} to {max(numbers):g}"
    return ", ".join(seen)


def speed_setting(facts: Facts) -> str:
    """How the timed numbers came about."""
    if "speed" not in facts.told:
        facts.told["speed"] = _speed_setting(facts)
    return facts.told["speed"]


def _speed_setting(facts: Facts) -> str:
    cells = facts.speed_cells
    if not cells:
        return ""
    runs = [r for c in cells for r in c.get("runs") or []]
    processes = len({r.get("process") for r in runs})
    # As asked for: some may have been timed again, and full more than once.
    per_arm = sorted({len({(place(r), r["prompt_set"]) for r in c.get("runs") or []}) for c in cells})
    repeats = f"{per_arm[0]}" if len(per_arm) == 1 else f"{per_arm[0]} to {per_arm[-1]}"
    lengths = f"{values(cells, 'prompt_tokens')} prompt tokens and {values(cells, 'new_tokens')} new tokens per row"
    return (
        f"Speed: {_model(cells)} on {machine(facts)}{_threads(cells)}; fixed length, "
        f"{lengths}, end of sequence ignored; "
        f"n = {repeats} repeats per arm and batch size, paired with full, in "
        f"{counted(processes, 'process', 'processes')}."
    )


def quality_setting(facts: Facts, task: str | None = None) -> str:
    """How the scored numbers came about, on one task or on all."""
    key = f"quality on {task}" if task is not None else "quality"
    if key not in facts.told:
        facts.told[key] = _quality_setting(facts, task)
    return facts.told[key]


def _quality_setting(facts: Facts, task: str | None) -> str:
    cells = [cell for (_, t), cell in facts.scored.items() if task in (None, t)]
    if not cells:
        return ""
    counts = sorted({len(c["examples"]) for c in cells})
    n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    tasks = listed(sorted({label(c.get("task")) for c in cells}))
    split, limit, batch = values(cells, "split"), values(cells, "max_new_tokens"), values(cells, "batch_size")
    return (
        f"Quality: {_model(cells)}; natural end of sequence; n = {n} examples of "
        f"{tasks}{f' ({split})' if split else ''}"
        f"{f', at most {limit} new tokens' if limit else ''}{f', batch size {batch}' if batch else ''}."
    )


def _model(cells: Iterable[Cell]) -> str:
    cells = list(cells)
    parts = [text for key in ("model", "dtype") if (text := values(cells, key))]
    return clean(", ".join(parts)) or "Model not recorded"


def _threads(cells: Iterable[Cell]) -> str:
    count = values(cells, "threads")
    return f", {count} threads" if count and count != "1" else ", 1 thread" if count else ""
