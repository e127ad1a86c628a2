"""Join runs that were measured under the same conditions; for others, say what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.folder import Json
from harness.records.limits import BASELINE
from harness.records.run import Run
from reports.text import label

# What belongs to one cell and not to the way all of them were measured.
_OF_ONE_CELL = {
    "batch_size", "prompts_hash", "task", "split", "examples", "expected_tokens", "max_new_tokens", "kernels",
}  # fmt: skip
_MACHINE = (("cpu", "model"), ("cpu", "usable_cores"), ("gpu",), ("versions",), ("threads",), ("commit",), ("dirty",))


def join(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs with those that may stand in one table joined, each at the place of its first."""
    groups: list[list[Run]] = []
    for run in runs:
        home = next((g for g in groups if all(not differences(other, run) for other in g)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return tuple(_joined(group) if len(group) > 1 else group[0] for group in groups)


def differences(ours: Run, theirs: Run) -> tuple[str, ...]:
    """Return what keeps two runs apart, one phrase each; empty if their cells may stand in one table."""
    found = [*_machines(ours.record.get("environment") or {}, theirs.record.get("environment") or {})]
    for kind, word in (("speed", "timed"), ("quality", "scored")):
        if why := _conditions(_by_place(ours, kind), _by_place(theirs, kind)):
            found.append(f"{word} under other conditions ({why})")
    specs = {name: spec for name, spec in _arms(ours).items() if _arms(theirs).get(name, spec) != spec}
    for name, spec in specs.items():
        found.append(f"“{label(name)}” is {label(spec)} against {label(_arms(theirs)[name])}")
    return tuple(found)


def _machines(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    found = []
    for path in _MACHINE:
        a, b = _at(ours, path), _at(theirs, path)
        if a == b:
            continue
        name = " ".join(path).replace("usable_", "")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
            found.append(
                f"{name} {'; '.join(f'{label(k)} {label(a.get(k))} against {label(b.get(k))}' for k in keys[:4])}"
            )
        elif path == ("dirty",):
            found.append("uncommitted changes in one of them")
        else:
            found.append(f"{name} {_brief(a)} against {_brief(b)}")
    return found


def _at(record: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = record
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_brief(v.get("name") if isinstance(v, Mapping) else v) for v in value) or "none"
    if isinstance(value, Mapping):
        return label(value.get("name") or value)
    return "not recorded" if value is None else label(value)


def _by_place(run: Run, kind: str) -> dict[Any, Json]:
    """One cell that succeeded for each batch size or task, the full model's where there is one."""
    found: dict[Any, Json] = {}
    for cell in run.cells:
        if cell.get("kind") == kind and cell.get("status") == "ok":
            place = cell.get("task") if kind == "quality" else cell.get("batch_size")
            if place not in found or (cell.get("arm") or {}).get("method") == BASELINE:
                found.setdefault(place, cell)
    return found


def _conditions(ours: Mapping[Any, Json], theirs: Mapping[Any, Json]) -> str:
    shared = [place for place in ours if place in theirs]
    for place in shared:
        if ours[place].get("conditions_hash") != theirs[place].get("conditions_hash"):
            a, b = (c[place].get("conditions") or {} for c in (ours, theirs))
            return _keys(a, b, set()) or "their hashes differ"
    if shared or not ours or not theirs:
        return ""
    a, b = (next(iter(cells.values())).get("conditions") or {} for cells in (ours, theirs))
    return _keys(a, b, _OF_ONE_CELL)


def _keys(a: Mapping[str, Any], b: Mapping[str, Any], but: set[str]) -> str:
    keys = [k for k in sorted({*a, *b}) if k not in but and a.get(k) != b.get(k)]
    return "; ".join(f"{label(k)} {label(a.get(k))} against {label(b.get(k))}" for k in keys)


def _arms(run: Run) -> dict[str, str]:
    """Label of each arm -> what it is."""
    arms = [*(run.record.get("arms") or []), *(c.get("arm") or {} for c in run.cells)]
    return {str(a.get("label")): f"{a.get('spec')} on {a.get('checkpoint')}" for a in reversed(arms)}


def _joined(runs: Sequence[Run]) -> Run:
    """One run that holds the cells of all: repeats of the same cell add up, processes stay apart."""
    cells: dict[tuple[str, str, Any], Json] = {}
    problems = [line for run in runs for line in run.problems]
    offset = 0
    for run in runs:
        highest = 0
        for cell in run.cells:
            kind = str(cell.get("kind"))
            if kind == "speed":
                cell, last = _shifted(cell, offset)
                highest = max(highest, last)
            key = (
                kind,
                str((cell.get("arm") or {}).get("label")),
                cell.get("task") if kind == "quality" else cell.get("batch_size"),
            )
            before = cells.get(key)
            cells[key] = cell if before is None else _both(before, cell, problems)
        offset += highest + 1
    first = runs[0].record
    arms = {str(a.get("label")): a for run in reversed(runs) for a in reversed(run.record.get("arms") or [])}
    order = dict.fromkeys(str(a.get("label")) for run in runs for a in run.record.get("arms") or [])
    suite = dict(first.get("suite") or {})
    for listing in ("batch_sizes", "tasks"):
        items = [v for run in runs for v in run.suite.get(listing) or []]
        suite[listing] = [v for i, v in enumerate(items) if v not in items[:i]]
    record = first | {"arms": [arms[name] for name in order], "suite": suite}
    if not all(run.record.get("finished") for run in runs):
        record["finished"] = None
    found = tuple(sorted(cells.values(), key=lambda c: str(c.get("id", ""))))
    checksums = tuple((f"run {i}: {name}", digest) for i, run in enumerate(runs, 1) for name, digest in run.checksums)
    return Run(
        record, found, tuple(problems), checksums, sources=tuple(source for run in runs for source in run.sources)
    )


def _shifted(cell: Json, offset: int) -> tuple[Json, int]:
    """The cell with its process numbers moved up, so that only repeats of one run are paired; and its highest number."""
    runs = [r for r in cell.get("runs") or [] if isinstance(r, dict)]
    numbers = [r["process"] for r in runs if isinstance(r.get("process"), int)]
    if offset and numbers:
        runs = [r | {"process": r["process"] + offset} if isinstance(r.get("process"), int) else r for r in runs]
        cell = cell | {"runs": runs}
    return cell, max(numbers, default=0)


def _both(before: Json, cell: Json, problems: list[str]) -> Json:
    """Two cells of the same arm and place as one."""
    if before.get("status") != "ok":
        return cell
    if cell.get("status") != "ok":
        return before
    if cell.get("kind") == "speed":
        return before | {"runs": [*(before.get("runs") or []), *(cell.get("runs") or [])]}
    if cell.get("kind") == "memory":
        peak = "peak_rss_bytes"
        return max(before, cell, key=lambda c: (c.get("cuda_peak_allocated_bytes") or 0, c.get(peak) or 0))
    if cell.get("kind") == "quality" and _outputs(before) != _outputs(cell):
        name = label((cell.get("arm") or {}).get("label"))
        problems.append(
            f"{name} gave other texts for {label(cell.get('task'))} in another of the joined runs; the first is shown"
        )
    return before


def _outputs(cell: Json) -> list[tuple[Any, Any]]:
    return [(e.get("id"), e.get("output")) for e in cell.get("examples") or []]
