"""Join runs that were measured under the same conditions; for others, say what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from harness.records import measures
from harness.records.arms import Arm
from harness.records.cells import Cell, QualityCell, SpeedCell, place
from harness.records.differences import differences, said
from harness.records.limits import BASELINE
from harness.records.run import Run
from harness.records.run_record import RunRecord, SuiteRecord
from reports.text import label

T = TypeVar("T")

# What belongs to one cell and not to the way all of them were measured.
_OF_ONE_CELL = {
    "batch_size", "prompts_hash", "task", "split", "examples", "expected_tokens", "max_new_tokens", "kernels",
}  # fmt: skip
MOST_OF_ONE = 4
"""Differences that are told of one record of the environment; more of them say no more."""
_MACHINE = (("cpu", "model"), ("cpu", "usable_cores"), ("gpu",), ("versions",), ("threads",), ("commit",), ("dirty",))


def join(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs with those that may stand in one table joined, each at the place of its first."""
    groups: list[list[Run]] = []
    for run in runs:
        home = next((g for g in groups if all(not apart(other, run) for other in g)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return tuple(_joined(group) if len(group) > 1 else group[0] for group in groups)


def apart(ours: Run, theirs: Run) -> tuple[str, ...]:
    """Return what keeps two runs apart, one phrase each; empty if their cells may stand in one table."""
    found = [*_machines(ours.record.get("environment") or {}, theirs.record.get("environment") or {})]
    for kind, word in (("speed", "timed"), ("quality", "scored")):
        if why := _conditions(_first_of_each(ours, kind), _first_of_each(theirs, kind)):
            found.append(f"{word} under other conditions ({why})")
    specs = {name: spec for name, spec in _arms(ours).items() if _arms(theirs).get(name, spec) != spec}
    for name, spec in specs.items():
        found.append(f"“{label(name)}” is {label(spec)} against {label(_arms(theirs)[name])}")
    return tuple(found)


def _machines(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    told = [{" ".join(path).replace("usable_", ""): _at(env, path) for path in _MACHINE} for env in (ours, theirs)]
    found: dict[str, list[str]] = {}
    for one in differences(*told):
        line = f"{one.name.replace('.', ' ')} {_brief(one.ours)} against {_brief(one.theirs)}"
        if one.name == "dirty":
            line = "uncommitted changes in one of them"
        found.setdefault(one.name.partition(".")[0], []).append(line)
    return [line for lines in found.values() for line in lines[:MOST_OF_ONE]]


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


def _first_of_each(run: Run, kind: str) -> dict[Any, Cell]:
    """One cell that succeeded for each batch size or task, the full model's where there is one."""
    found: dict[Any, Cell] = {}
    for cell in run.cells:
        first = place(cell) not in found or cell["arm"].get("method") == BASELINE
        if cell["kind"] == kind and cell["status"] == "ok" and first:
            found[place(cell)] = cell
    return found


def _conditions(ours: Mapping[Any, Cell], theirs: Mapping[Any, Cell]) -> str:
    shared = [where for where in ours if where in theirs]
    for where in shared:
        if ours[where].get("conditions_hash") != theirs[where].get("conditions_hash"):
            a, b = (c[where].get("conditions") or {} for c in (ours, theirs))
            return said(differences(a, b), "against", label) or "their hashes differ"
    if shared or not ours or not theirs:
        return ""
    a, b = (next(iter(cells.values())).get("conditions") or {} for cells in (ours, theirs))
    return said(differences(a, b, ignore=_OF_ONE_CELL), "against", label)


def _arms(run: Run) -> dict[str, str]:
    """Label of each arm -> what it is."""
    return {arm["label"]: f"{arm.get('spec')} on {arm.get('checkpoint')}" for arm in run.arms}


def _joined(runs: Sequence[Run]) -> Run:
    """One run that holds the cells of all: repeats of the same cell add up, processes stay apart."""
    cells: dict[tuple[str, str, Any], Cell] = {}
    problems = [line for run in runs for line in run.problems]
    offset = 0
    for run in runs:
        highest = 0
        for cell in run.cells:
            if cell["kind"] == "speed":
                cell, last = _shifted(cell, offset)
                highest = max(highest, last)
            key = cell["kind"], cell["arm"]["label"], place(cell)
            before = cells.get(key)
            cells[key] = cell if before is None else _both(before, cell, problems)
        offset += highest + 1
    first = runs[0].record
    arms: dict[str, Arm] = {}
    for arm in (arm for run in runs for arm in run.record.get("arms") or []):
        arms.setdefault(arm["label"], arm)
    suite: SuiteRecord = {
        **runs[0].suite,
        "batch_sizes": _each_once(size for run in runs for size in run.suite.get("batch_sizes") or []),
        "tasks": _each_once(task for run in runs for task in run.suite.get("tasks") or []),
    }
    record: RunRecord = {**first, "arms": list(arms.values()), "suite": suite}
    if not all(run.record.get("finished") for run in runs):
        record["finished"] = None
    found = sorted(cells.values(), key=lambda cell: cell["id"])
    checksums = tuple((f"run {i}: {name}", digest) for i, run in enumerate(runs, 1) for name, digest in run.checksums)
    return Run(
        record, found, tuple(problems), checksums, sources=tuple(source for run in runs for source in run.sources)
    )


def _each_once(items: Iterable[T]) -> list[T]:
    listed = list(items)
    return [item for i, item in enumerate(listed) if item not in listed[:i]]


def _shifted(cell: SpeedCell, offset: int) -> tuple[SpeedCell, int]:
    """The cell with its process numbers moved up, so that only repeats of one run are paired; and its highest number."""
    runs = cell.get("runs") or []
    highest = max((run["process"] for run in runs), default=0)
    if not offset:
        return cell, highest
    return {**cell, "runs": [{**run, "process": run["process"] + offset} for run in runs]}, highest


def _both(before: Cell, cell: Cell, problems: list[str]) -> Cell:
    """Two cells of the same arm and place as one."""
    if before["status"] != "ok":
        return cell
    if cell["status"] != "ok":
        return before
    if before["kind"] == "speed" and cell["kind"] == "speed":
        return {**before, "runs": [*(before.get("runs") or []), *(cell.get("runs") or [])]}
    if before["kind"] == "memory" and cell["kind"] == "memory":
        return max(before, cell, key=lambda c: measures.peak(c)[0] or 0.0)
    if before["kind"] == "quality" and cell["kind"] == "quality" and _outputs(before) != _outputs(cell):
        name = label(cell["arm"]["label"])
        problems.append(
            f"{name} gave other texts for {label(cell.get('task'))} in another of the joined runs; the first is shown"
        )
    return before


def _outputs(cell: QualityCell) -> list[tuple[str, str | None]]:
    return [(example["id"], example.get("output")) for example in cell.get("examples") or []]
