"""From stored runs to the report as plain data: sections in reading order, each with its text, tables and plots."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence

from reports import conditions, plots, tables, verdicts
from reports.answer import sentences
from reports.facts import Facts, difference, gather
from reports.load import Json, RunData
from reports.parts import (
    Block,
    Cell,
    Code,
    Column,
    Figure,
    Fold,
    Prose,
    ReportView,
    RunView,
    Section,
    Table,
    Warnings,
    table,
)
from reports.samples import choose
from reports.settings import machine, values
from reports.text import clean, label, listed

CODE_LIMIT = 20_000
LONG_TABLE = 40


def build(runs: Sequence[RunData]) -> ReportView:
    """Return the view of a report on one or more runs; runs stand in sections of their own."""
    facts = [gather(run) for run in runs]
    names = [label(run.run.get("name") or "unnamed run") for run in runs]
    title = listed(dict.fromkeys(_title(run, name) for run, name in zip(runs, names, strict=True)), 3)
    views = tuple(_run_view(f, name, i, len(runs)) for i, (f, name) in enumerate(zip(facts, names, strict=True)))
    return ReportView(title, _relation(facts, [v.title for v in views]), views)


def _title(run: RunData, name: str) -> str:
    """The suite's own title, else its name with what it is about."""
    given = (run.run.get("suite") or {}).get("title")
    return label(given, 120) if given else f"{name}: depth-adaptive decoding against the full model"


def _relation(facts: Sequence[Facts], titles: Sequence[str]) -> tuple[str, ...]:
    """How several runs differ; nothing for one."""
    if len(facts) < 2:
        return ()
    lead = [f"This report holds {len(facts)} runs. Each has its own sections, and no table mixes them."]
    for other, title in zip(facts[1:], titles[1:], strict=True):
        parts = []
        for kind, ours, theirs in (
            ("timed", _first(facts[0], "speed"), _first(other, "speed")),
            ("scored", _first(facts[0], "quality"), _first(other, "quality")),
        ):
            if ours is None or theirs is None:
                continue
            same = ours.get("conditions_hash") == theirs.get("conditions_hash")
            gap = "under the same conditions"
            if not same:
                why = difference(ours.get("conditions") or {}, theirs.get("conditions") or {})
                gap = f"under other conditions ({why})"
            parts.append(f"{kind} {gap}")
        if machine(facts[0]) != machine(other):
            parts.append(f"on another machine ({machine(facts[0])} against {machine(other)})")
        lead.append(f"{title}, beside {titles[0]}: {listed(parts) or 'nothing to compare'}.")
    return tuple(lead)


def _first(facts: Facts, kind: str) -> Json | None:
    """The cell that stands for a kind: the first arm's at the smallest batch size."""
    cells = [c for c in facts.data.cells if c.get("kind") == kind and c.get("status") == "ok"]
    return min(cells, key=lambda c: (str(c.get("task", "")), c.get("batch_size") or 0), default=None)


def _run_view(facts: Facts, name: str, index: int, count: int) -> RunView:
    prefix = f"r{index + 1}-" if count > 1 else ""
    title = f"Run {index + 1}: {name}" if count > 1 else name
    cells = facts.speed_cells or list(facts.scored.values())
    about = [
        values(cells, "model"),
        values(cells, "dtype"),
        machine(facts),
        label(facts.data.run.get("started") or "")[:10],
    ]
    sections = (
        Section("answer", "The answer", _answer(facts)),
        Section("conditions", "Conditions", _conditions(facts)),
        Section("trade-off", "Quality against speed", _trade_off(facts)),
        Section("speed-up", "From target to realised speed-up", _speed_up(facts)),
        Section(
            "layers",
            "Layers by position",
            _or(plots.heat(facts), "No arm left blocks out, or none recorded which blocks it ran."),
        ),
        Section("latency", "Latency", _latency(facts)),
        Section("cost", "Operations and memory", _cost(facts)),
        Section("samples", "Texts side by side", _samples(facts)),
        Section("reproduce", "How to reproduce this", _reproduce(facts)),
    )
    return RunView(
        prefix + "run", title, " · ".join(a for a in about if a), tuple(_prefixed(s, prefix) for s in sections)
    )


def _prefixed(section: Section, prefix: str) -> Section:
    """The section with ids that are unique among several runs."""
    if not prefix:
        return section

    def renamed(block: Block) -> Block:
        if isinstance(block, Table):
            return Table(
                prefix + block.id, block.title, block.columns, block.rows, block.note, block.starts, block.wrap
            )
        if isinstance(block, Figure):
            return Figure(prefix + block.id, block.title, block.caption, block.alt, block.plot)
        if isinstance(block, Fold):
            return Fold(block.title, tuple(map(renamed, block.blocks)))
        return block

    return Section(prefix + section.id, section.title, tuple(map(renamed, section.blocks)))


def _or(block: Block | None, sentence: str) -> tuple[Block, ...]:
    return (block,) if block is not None else (Prose((sentence,)),)


def _answer(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = [Prose(sentences(facts))]
    if facts.arms:
        blocks.append(verdicts.verdict_table(facts))
    if found := conditions.warnings(facts):
        blocks.append(Warnings(found))
    return tuple(blocks)


def _conditions(facts: Facts) -> tuple[Block, ...]:
    failed = conditions.failed_table(facts)
    return (conditions.definitions(facts), *((failed,) if failed else ()))


def _trade_off(facts: Facts) -> tuple[Block, ...]:
    if not facts.tasks:
        return (Prose(("No quality was measured, so there is nothing to set against speed.",)),)
    blocks: list[Block] = []
    timed = [b for b in facts.batch_sizes if any((a.label, b) in facts.speed for a in facts.arms)]
    for task in facts.tasks:
        drawn = [f for b in timed if (f := plots.trade_off(facts, task, b, f"fig-trade-{task_id(task)}-{b}"))]
        blocks += drawn[:1]
        if drawn[1:]:
            blocks.append(Fold(f"The same at batch size {listed([str(b) for b in timed[1:]])}", tuple(drawn[1:])))
    if not blocks:
        blocks.append(
            Prose(("No arm has both a speed-up and a score beside the full model's, so there is no plot to draw.",))
        )
    return (*blocks, *(verdicts.metrics_table(facts, task) for task in facts.tasks))


def task_id(task: str) -> str:
    """Return a task's name as an id may hold it."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in task)[:40]


def _speed_up(facts: Facts) -> tuple[Block, ...]:
    if not facts.speed:
        return (Prose(("No speed was measured.",)),)
    if not any((a.label, b) in facts.speed for a in facts.others for b in facts.batch_sizes):
        return (
            Prose(("Only the full model was timed, so there is no speed-up to show.",)),
            *_some(tables.parts_table(facts)),
        )
    blocks = (*_some(plots.promises(facts)), *_by_batch(facts, tables.promise_table))
    figure = plots.by_batch(facts)
    one_batch = Prose(("One batch size was timed, so there is no speed-up against batch size to show.",))
    return (*blocks, figure or one_batch, *_some(tables.parts_table(facts)))


def _by_batch(facts: Facts, make: Callable[[Facts, Sequence[int]], Table]) -> tuple[Block, ...]:
    """One table for all batch sizes; where that is too long to read, one each, those between first and last folded."""
    sizes = facts.batch_sizes
    if len(sizes) * len(facts.arms) <= LONG_TABLE:
        return (make(facts, sizes),)
    made = [made for b in sizes if (made := make(facts, (b,))).rows]
    return _ends(made)


def _ends(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The first and the last of blocks that stand for the batch sizes; those between are folded away."""
    if len(blocks) < 3:
        return tuple(blocks)
    between = tuple(blocks[1:-1])
    title = f"The same at the {'other batch size' if len(between) == 1 else 'other batch sizes'}"
    return blocks[0], blocks[-1], Fold(title, between)


def _some(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(b for b in blocks if b is not None)


def _latency(facts: Facts) -> tuple[Block, ...]:
    if not facts.speed:
        return (Prose(("No speed was measured.",)),)
    drawn = [f for b in facts.batch_sizes if (f := plots.step_times(facts, b))]
    return (*_by_batch(facts, tables.latency_table), *_ends(drawn))


def _cost(facts: Facts) -> tuple[Block, ...]:
    if not facts.speed and not facts.memory:
        return (Prose(("Neither operations nor memory were measured.",)),)
    missing = () if facts.memory else (Prose(("Memory was not measured in this run.",)),)
    return (*missing, *_by_batch(facts, tables.cost_table))


def _samples(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for task in facts.tasks:
        blocks += choose(facts, task)
    if not blocks:
        return (Prose(("No texts were scored in this run.",)),)
    words = (
        "The texts that changed most among the arms not shown to lose quality, then some drawn at random. Words that "
        "differ from the full model's text are marked; a marked dash stands for words left out. Layers are blocks per "
        "token."
    )
    return (Prose((words,)), *blocks)


def _reproduce(facts: Facts) -> tuple[Block, ...]:
    run = facts.data.run
    command = run.get("command") or []
    text = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    blocks: list[Block] = [Code("Command", clean(text, CODE_LIMIT) or "not recorded")]
    suite = json.dumps(run.get("suite") or {}, indent=2, ensure_ascii=False)
    environment = json.dumps(run.get("environment") or {}, indent=2, ensure_ascii=False)
    blocks.append(Fold("Suite as resolved", (Code("", clean(suite, CODE_LIMIT)),)))
    blocks.append(Fold("Environment fingerprint", (Code("", clean(environment, CODE_LIMIT)),)))
    blocks.append(Fold("Checksums of the stored cells", (_checksums(facts.data.checksums),)))
    return tuple(blocks)


def _checksums(checksums: Iterable[tuple[str, str]]) -> Table:
    pairs = list(checksums)
    columns = [
        (Column("File", numeric=False), [Cell(clean(name), sort=clean(name)) for name, _ in pairs]),
        (Column("SHA-256", numeric=False), [Cell(digest, sort=digest) for _, digest in pairs]),
    ]
    return table("checksums", "SHA-256 of each file this report was made from", columns)
