"""The sections of the report on one run, in reading order: the answer first, how it was measured last, details folded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence

from reports.draw import figures
from reports.draw.speed import Breakdown, ByBatch, Promises, Tax
from reports.draw.spreads import Depths, Heat, StepTimes
from reports.draw.trade_off import TradeOff, task_id
from reports.facts.facts import Facts
from reports.facts.judge import informative
from reports.text import clean, label
from reports.view import choice, conditions, gates, tables, tasks, told, verdicts
from reports.view.answer import sentences, small, timed
from reports.view.oracle import oracle_table
from reports.view.parts import Block, Cell, Code, Column, Figure, Fold, Hero, Prose, Section, Table, Warnings, table
from reports.view.samples import choose

CODE_LIMIT = 20_000
PAGE_ONLY = "report.html has more: "

Drawn = dict[type, tuple[Figure, ...]]
"""The figures of a run by kind; a section takes out those that it places among its tables."""


def sections(facts: Facts) -> tuple[Section, ...]:
    """Return every section that has anything; figures that no section places stand at the end of theirs."""
    drawn = figures.gather(facts)
    found = (
        Section("answer", "The answer", _answer(facts, drawn)),
        Section("all", "Every arm", _all(facts)),
        Section("quality", "Quality in detail", _quality(facts, drawn)),
        Section("speed", "Where the speed comes from", _speed(facts, drawn)),
        Section("layers", "Which layers ran", _layers(drawn)),
        Section("beside", "Other tasks and papers", tasks.blocks(facts)),
        Section("conditions", "How it was measured", _conditions(facts)),
    )
    rest = [(figures.FIGURES[kind].section, some) for kind, some in drawn.items()]
    whole = (
        dataclasses.replace(s, blocks=(*s.blocks, *(f for name, some in rest if name == s.id for f in some)))
        for s in found
    )
    return tuple(s for s in whole if s.blocks)


def _answer(facts: Facts, drawn: Drawn) -> tuple[Block, ...]:
    blocks: list[Block] = []
    failed, noted = gates.failed(facts)
    for lines, title in ((failed, "Failed: do not believe the numbers yet"), (noted, "Checks that warn")):
        if lines:
            blocks.append(Warnings(lines, title, lines is failed, ("All checks", "gates"), True))
    plots = drawn.pop(TradeOff)
    first = next((f"fig-trade-{task_id(task)}-" for task in informative(facts) or facts.tasks), "")
    shown = tuple(f for f in plots if first and f.id.startswith(first))
    drawn[TradeOff] = tuple(f for f in plots if f not in shown)
    hero = tuple((f"batch {f.plot.batch}", f) for f in shown if isinstance(f.plot, TradeOff))
    blocks.append(Hero(sentences(facts), hero, small(facts)))
    blocks += _some(verdicts.top_table(facts))
    return tuple(blocks)


def _all(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = [verdicts.verdict_table(facts)] if facts.arms else []
    if found := conditions.warnings(facts):
        blocks.append(Warnings(found))
    blocks += _some(choice.choice_table(facts), conditions.failed_table(facts))
    return tuple(blocks)


def _quality(facts: Facts, drawn: Drawn) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if more := drawn.pop(TradeOff):
        blocks.append(Fold("Quality against speed for the other tasks", more))
    blocks += [Fold(f"Every metric on {label(task)}", (verdicts.metrics_table(facts, task),)) for task in facts.tasks]
    if found := oracle_table(facts):
        blocks.append(Fold("If one knew beforehand which budget an example needs", (found,)))
    for task in facts.tasks:
        if samples := choose(facts, task):
            blocks.append(Fold(f"Texts side by side on {label(task)}", (Prose((_SAMPLES,)), *samples)))
    return tuple(blocks)


_SAMPLES = (
    "The texts that changed most among the arms not shown to lose quality, then some drawn at random. Words that differ from the "
    "full model's text are marked; a marked dash stands for words left out. Layers are blocks per token."
)


def _speed(facts: Facts, drawn: Drawn) -> tuple[Block, ...]:
    if not facts.speed and not facts.memory:
        return ()
    blocks: list[Block] = [*drawn.pop(Promises), *drawn.pop(ByBatch)]
    steps, sizes = drawn.pop(Breakdown), timed(facts)
    blocks += steps[:1]
    if len(steps) > 1:
        blocks.append(Fold("Time of a decode step at the other batch sizes", steps[1:]))
    if any((a.label, b) in facts.speed for a in facts.others for b in sizes):
        blocks.append(Fold("From target to realised speed-up, in numbers", _by_batch(facts, tables.promise_table)))
        blocks.append(
            Fold("Blocks, sublayers and bytes of a token, and what they allow", _by_batch(facts, tables.work_table))
        )
    if len(sizes) > 1 and (crossing := choice.crossover_table(facts)):
        blocks.append(Fold("Batch size at which a method stops paying", (crossing,)))
    if taxed := drawn.pop(Tax):
        blocks.append(Fold("What a batch waits for its last row", taxed))
    if facts.speed:
        blocks.append(Fold("Times and throughput", (*_by_batch(facts, tables.latency_table), *drawn.pop(StepTimes))))
    blocks += [Fold("Parts of the full model's step", (parts,)) for parts in _some(tables.parts_table(facts))]
    blocks.append(Fold("Memory, operations and energy", _by_batch(facts, tables.cost_table)))
    return tuple(blocks)


def _layers(drawn: Drawn) -> tuple[Block, ...]:
    histograms = drawn.pop(Depths)
    return (*drawn.pop(Heat), *((Fold("How many blocks a token ran", histograms),) if histograms else ()))


def _by_batch(facts: Facts, make: Callable[[Facts, Sequence[int]], Table]) -> tuple[Block, ...]:
    """One table for all batch sizes, or where that is too long to read one each."""
    sizes = facts.batch_sizes
    if len(sizes) * len(facts.arms) <= 60:
        return (make(facts, sizes),)
    return tuple(made for b in sizes if (made := make(facts, (b,))).rows)


def _some(*blocks: Table | None) -> tuple[Table, ...]:
    return tuple(b for b in blocks if b is not None)


def _conditions(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = [Prose(tuple(filter(None, (*told.setting(facts), told.absent(facts)))))]
    if facts.data.cells:
        blocks += [Prose(gates.summary(facts)), Fold("All checks", (gates.gates_table(facts),))]
    blocks.append(conditions.definitions(facts))
    sources = facts.data.sources or (facts.data.record,)
    for i, run in enumerate(sources, 1):
        which = f" {i}" if len(sources) > 1 else ""
        command = run.get("command") or []
        text = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
        blocks.append(Code(f"Command{which}", clean(text, CODE_LIMIT) or "not recorded"))
        suite = json.dumps(run.get("suite") or {}, indent=2, ensure_ascii=False)
        environment = json.dumps(run.get("environment") or {}, indent=2, ensure_ascii=False)
        blocks.append(Fold(f"Suite{which} as resolved", (Code("", clean(suite, CODE_LIMIT)),)))
        blocks.append(Fold(f"Environment fingerprint{which}", (Code("", clean(environment, CODE_LIMIT)),)))
    listing = _checksums(facts.data.checksums)
    lines = "".join(f"{digest}  {name}\n" for name, digest in facts.data.checksums)
    total = hashlib.sha256(lines.encode("utf-8", "backslashreplace")).hexdigest()
    words = Prose((f"{len(listing.rows)} files were read. SHA-256 of the list of their SHA-256: {total}.",))
    return (*blocks, Fold("Checksums of the stored cells", (words, listing)))


def _checksums(checksums: Iterable[tuple[str, str]]) -> Table:
    pairs = list(checksums)
    columns = [
        (Column("File", numeric=False), [Cell(clean(name), sort=clean(name)) for name, _ in pairs]),
        (Column("SHA-256", numeric=False), [Cell(digest, sort=digest) for _, digest in pairs]),
    ]
    return table("checksums", "SHA-256 of each file this report was made from", columns)
