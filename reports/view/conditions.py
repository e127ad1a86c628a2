"""Under which conditions a run was measured, and what should make a reader careful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.cells import Cell as StoredCell
from harness.records.run_record import RunRecord
from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.text import BYTES, MISSING, clean, counted, fixed, label, listed, real, scaled
from reports.view.parts import Cell, Column, Definitions, Table, table
from reports.view.settings import machine, shared

MOST_PROBLEMS = 5
UNKNOWN = "not recorded"
Pairs = tuple[tuple[str, str], ...]
_SOFTWARE = ("versions", "software", "packages", "python")
_RUN_KEYS = ("commit", "dirty", "date")


def definitions(facts: Facts) -> Definitions:
    """Model, both modes, machine, software and the run itself, each as name-value pairs."""
    run, env = facts.data.record, facts.data.record.get("environment") or {}
    timed, scored = _conditions(facts.speed_cells), _conditions(list(facts.scored.values()))
    modes = (
        ("Speed", "fixed length: every row decodes the same number of tokens, end of sequence ignored"),
        ("Quality", "natural end of sequence: a row ends with its own end-of-sequence token or at the limit"),
        ("Memory", "a process of its own for each arm and batch size"),
    )
    groups = (
        ("Two modes", modes),
        ("Model and weights", _weights(facts)),
        ("Parameters chosen by measurement", _chosen(run)),
        ("Timed and scored cells", tuple(pair for pair in timed if pair in scored)),
        ("Timed cells", tuple(pair for pair in timed if pair not in scored)),
        ("Scored cells", tuple(pair for pair in scored if pair not in timed)),
        (
            "Machine",
            (
                ("measured on", machine(facts)),
                *_told({k: v for k, v in env.items() if k not in (*_SOFTWARE, *_RUN_KEYS)}),
            ),
        ),
        (
            "Software",
            flatten({k: v for k, v in env.items() if k in _SOFTWARE}, bare=("versions", "software", "packages")),
        ),
        ("Run", _run(run, env)),
    )
    return Definitions(tuple((title, pairs) for title, pairs in groups if pairs))


def _told(record: Mapping[str, Any]) -> Pairs:
    """What the fingerprint tells, then in one line what it could not read or what is not set."""
    pairs = flatten(record)
    unknown = [name for name, text in pairs if text == UNKNOWN]
    told = tuple(pair for pair in pairs if pair[1] != UNKNOWN)
    return (*told, ("not recorded or not set", ", ".join(unknown))) if unknown else told


def _weights(facts: Facts) -> Pairs:
    used: dict[str, list[Arm]] = {}
    for arm in facts.arms:
        used.setdefault(arm.checkpoint, []).append(arm)
    depth = next((c["depth"] for c in [*facts.speed_cells, *facts.scored.values()] if c.get("depth")), None)
    checkpoints = tuple(
        (label(name) or "checkpoint not named", listed([a.short for a in arms], 20)) for name, arms in used.items()
    )
    return ((("depth", f"{depth} blocks"),) if depth else ()) + checkpoints


def _chosen(run: RunRecord) -> Pairs:
    """Arms whose parameters `depthbench tune` or `calibrate` chose: for what goal, on what data, at what cost, in which file."""
    entries = (run.get("suite") or {}).get("methods") or []
    return tuple(
        (
            label(entry.get("label") or entry.get("name")),
            "; ".join(f"{name} {text}" for name, text in flatten(source) if text != UNKNOWN),
        )
        for entry in entries
        if isinstance(entry, Mapping) and isinstance(source := entry.get("tuned"), Mapping)
    )


def _conditions(cells: Sequence[StoredCell]) -> Pairs:
    return tuple(
        (pretty(key), "; ".join(value_text(key, v) for v in _ordered(found))) for key, found in shared(cells).items()
    )


def _ordered(found: list[Any]) -> list[Any]:
    return sorted(found) if all(real(v) is not None for v in found) else found


def _run(run: RunRecord, env: Mapping[str, Any]) -> Pairs:
    dirty = {True: "yes: the working tree had uncommitted changes", False: "no"}.get(env.get("dirty"), "not recorded")  # type: ignore[arg-type]
    pairs = [
        ("suite", label(run.get("name") or MISSING)),
        ("started", label(run.get("started") or "not recorded")),
        ("finished", label(run.get("finished") or "not finished")),
        ("commit", label(env.get("commit") or "not recorded")),
        ("uncommitted changes", dirty),
        ("schema version", label(run.get("schema_version") or "not recorded")),
    ]
    return tuple(pairs)


def flatten(record: Mapping[str, Any], bare: Sequence[str] = ()) -> Pairs:
    """Return nested records as pairs named like `cpu model`; a record in `bare` gives its keys without its own name."""
    pairs: list[tuple[str, str]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            prefix = "" if key in bare else f"{pretty(key)} "
            pairs += [(prefix + name, text) for name, text in flatten(value)]
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for i, v in enumerate(value):
                pairs += [
                    (f"{pretty(key)}{f' {i}' if len(value) > 1 else ''} {name}", text) for name, text in flatten(v)
                ]
        else:
            pairs.append((pretty(key), value_text(str(key), value)))
    return tuple(pairs)


def pretty(key: object) -> str:
    """Return a key as words, without the unit its value is shown with."""
    text = label(key)
    return text.removesuffix("_bytes").removesuffix("_s").replace("_", " ") if text.islower() else text


def value_text(key: str, value: Any) -> str:
    """Return a recorded value in words: bytes and seconds with their unit, lists joined, nothing invented."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(key, v) for v in value) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {text}" for name, text in flatten(value))
    number = real(value)
    if number is not None and key.endswith("_bytes"):
        divisor, unit = scaled([number], BYTES)
        return f"{fixed(number / divisor, 1)} {unit}"
    if number is not None and key.endswith("_s"):
        return f"{value:g} s"
    return clean(f"{value:g}" if isinstance(value, float) else value)


def failed_table(facts: Facts) -> Table | None:
    """The cells that failed, each with its error in one line; None if all succeeded."""
    if not facts.failed:
        return None
    cells = facts.failed

    def column(title: str, texts: list[str]) -> tuple[Column, list[Cell]]:
        return Column(title, numeric=False), [Cell(t or MISSING, sort=t) for t in texts]

    columns = [
        column("Cell", [label(c.get("id")) for c in cells]),
        column("Method", [label((c.get("arm") or {}).get("label")) for c in cells]),
        column("Kind", [label(c.get("kind")) for c in cells]),
        column("Error", [clean(" ".join(str(c.get("error") or "no error recorded").split())) for c in cells]),
    ]
    return table(
        "failed",
        "Failed cells",
        columns,
        "A failed cell is missing from every table and figure; it is never counted as a value.",
        wrap=True,
    )


_UNTRAINED = {
    "schedule only": "a schedule on weights that were not trained for it; that is a different experiment from the "
    "published method.",
    "untrained": "on weights that were not trained for it, though the method asks for that.",
}


def warnings(facts: Facts) -> tuple[str, ...]:
    """What a reader must know before believing the numbers, most serious first."""
    found: list[str] = []
    total = len(facts.data.cells)
    if facts.failed:
        found.append(
            f"{counted(len(facts.failed), 'cell')} of {total} failed; they are listed with their errors below."
        )
    found += [f"{clean(line)}." for line in facts.data.problems[:MOST_PROBLEMS]]
    if len(facts.data.problems) > MOST_PROBLEMS:
        found.append(f"{counted(len(facts.data.problems) - MOST_PROBLEMS, 'more cell file')} could not be read.")
    found += facts.refused
    found += _inconsistent(facts)
    if not facts.data.record.get("finished"):
        found.append("The run is not finished; more cells may come.")
    if facts.baseline is None:
        found.append("There is no full model in this run: no speed-up and no quality difference can be given.")
    env = facts.data.record.get("environment") or {}
    if env.get("dirty"):
        found.append("The code had uncommitted changes, so the commit alone does not reproduce this run.")
    found += _missing(facts)
    found += _repeats(facts)
    for word, meaning in _UNTRAINED.items():
        arms = [a.short for a in facts.arms if a.trained == word]
        if arms:
            found.append(f"{word.capitalize()}: {listed(arms)} {'runs' if len(arms) == 1 else 'run'} {meaning}")
    found += _lengths(facts)
    found += _load(env)
    return tuple(found)


def _inconsistent(facts: Facts) -> list[str]:
    """Checks across arms of one batch size: prompts, exact methods' tokens, finite logits."""
    found = []
    for batch in facts.batch_sizes:
        timed = {a: s for a in facts.arms if (s := facts.speed.get((a.label, batch)))}
        if len({s.cell.get("prompts_hash") for s in timed.values()}) > 1:
            found.append(
                f"Batch size {batch}: the arms did not get the same prompts, so their times must not be compared."
            )
        bad = [a.short for a, s in timed.items() if s.cell.get("finite") is False]
        if bad:
            found.append(f"Batch size {batch}: {listed(bad)} gave logits that are not finite.")
        unsteady = [a.short for a, s in timed.items() if s.cell.get("repeatable") is False]
        if unsteady:
            found.append(f"Batch size {batch}: {listed(unsteady)} did not give the same tokens again when repeated.")
        parted = [a.short for a, s in timed.items() if a.exact and (s.raw("tokens_unlike_full") or 0) > 0]
        if parted:
            found.append(
                f"Batch size {batch}: {listed(parted)} should give the full model's tokens exactly and did not."
            )
    return found


def _missing(facts: Facts) -> list[str]:
    there = {(c.get("kind"), str((c.get("arm") or {}).get("label")), c.get("batch_size")) for c in facts.data.cells}
    found = []
    kinds = {c.get("kind") for c in facts.data.cells}
    for kind, name in (("speed", "timed"), ("memory", "memory")):
        gaps = [
            f"{a.short} at batch size {b}"
            for a in facts.arms
            for b in facts.batch_sizes
            if (kind, a.label, b) not in there
        ]
        if kind not in kinds:
            found.append(f"This run has no {name} cells, so what would come from them is left out.")
        elif gaps:
            found.append(f"No {name} cell for {listed(gaps)}.")
    if "quality" not in kinds:
        found.append("This run has no scored cells: nothing here says what the speed costs.")
    return found


def _repeats(facts: Facts) -> list[str]:
    few = sorted({len(s.runs) for s in facts.speed.values() if len(s.runs) < 5})
    if not few:
        return []
    return [
        f"Only {listed(map(str, few))} timed repeats in some cells; with fewer than 5 every "
        "speed verdict is inconclusive."
    ]


def _lengths(facts: Facts) -> list[str]:
    """Arms that ran clearly more or fewer blocks when timed than when scored: the speed-up is the timed length's."""
    batch = facts.headline_batch
    parted = []
    for arm in facts.arms:
        timed = facts.speed.get((arm.label, batch)) if batch is not None else None
        for task in facts.tasks:
            scored = facts.scored_number(arm, task, "layers_per_token")
            blocks = timed.raw("layers_per_token") if timed else None
            if scored and blocks and abs(blocks / scored - 1) > 0.1:
                parted.append(f"{arm.short} ({fixed(blocks, 1)} timed, {fixed(scored, 1)} scored on {label(task)})")
                break
    if not parted:
        return []
    return [
        "Some arms ran more than 10% more or fewer blocks per token when timed than when scored, because the "
        "timed outputs have a fixed length: "
        f"{listed(parted)}. Their speed-up is that of the timed length, their quality that of the natural one."
    ]


def _load(env: Mapping[str, Any]) -> list[str]:
    average = env.get("load_average")
    first = real(average[0]) if isinstance(average, list) and average else real(average)
    cpu = env.get("cpu")
    cores = real(cpu.get("usable_cores") or cpu.get("cores")) if isinstance(cpu, Mapping) else None
    if first is not None and cores and first > 0.5 * cores:
        return [
            f"The machine was busy before the run began: load average {fixed(first, 1)} on {fixed(cores, 0)} cores."
        ]
    return []
