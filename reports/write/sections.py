"""The sections of the report on one run, in reading order, each with its text, tables and plots."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence

from reports.draw import figures
from reports.draw.arms import ends
from reports.draw.batch_sizes import ByBatch, Rates, Tax
from reports.draw.promises import Breakdown, Promises
from reports.draw.spreads import Heat
from reports.draw.trade_off import TradeOff
from reports.facts.facts import Facts
from reports.text import clean
from reports.view import choice, conditions, gates, tables, tasks, verdicts
from reports.view.answer import sentences
from reports.view.parts import Block, Cell, Code, Column, Figure, Fold, Prose, Section, Table, Warnings, table
from reports.view.samples import choose

CODE_LIMIT = 20_000
LONG_TABLE = 40
ELSEWHERE = "is in report.html and, as CSV, in tables/."

Drawn = dict[type, tuple[Figure, ...]]
"""The figures of a run by kind; a section takes out those that it places among its tables."""


def sections(facts: Facts) -> tuple[Section, ...]:
    """Return every section; what was not measured is a sentence. Figures that no section places stand at the end of theirs."""
    drawn = figures.gather(facts)
    found = (
        Section("answer", "The answer", _answer(facts)),
        Section("conditions", "Conditions", _conditions(facts)),
        Section("trade-off", "Quality against speed", _trade_off(facts, drawn)),
        Section("speed-up", "From target to realised speed-up", _speed_up(facts, drawn)),
        Section("batch", "Batch size", _batch(facts, drawn)),
        Section("layers", "Layers by position", _layers(drawn)),
        Section("cost", "Memory, operations and energy", _cost(facts)),
        Section("latency", "Latency", _latency(facts)),
        Section("samples", "Texts side by side", _samples(facts)),
        Section("beside", "Other tasks and papers", tasks.blocks(facts)),
        Section("reproduce", "How to reproduce this", _reproduce(facts)),
    )
    rest = [(figures.FIGURES[kind].section, some) for kind, some in drawn.items()]
    return tuple(
        Section(s.id, s.title, (*s.blocks, *(f for name, some in rest if name == s.id for f in some))) for s in found
    )


def _answer(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = [Prose(sentences(facts))]
    if facts.arms:
        blocks.append(verdicts.verdict_table(facts))
    blocks += _some(choice.choice_table(facts))
    if found := conditions.warnings(facts):
        blocks.append(Warnings(found))
    return tuple(blocks)


def _conditions(facts: Facts) -> tuple[Block, ...]:
    gated = (gates.gates_table(facts),) if facts.data.cells else ()
    return (*gated, *_some(conditions.failed_table(facts)), conditions.definitions(facts))


def _trade_off(facts: Facts, drawn: Drawn) -> tuple[Block, ...]:
    found = drawn.pop(TradeOff)
    if not facts.tasks:
        return (Prose(("No quality was measured, so there is nothing to set against speed.",)),)
    sizes = ends(facts)
    blocks: list[Block] = [f for f in found if isinstance(f.plot, TradeOff) and f.plot.batch == sizes[0]]
    later: list[Block] = [f for f in found if f not in blocks]
    if not found:
        blocks.append(
            Prose(("No arm has both a speed-up and a score beside the full model's, so there is no plot to draw.",))
        )
    if len(later) > 1:
        several = f"The same at batch size {sizes[-1]}"
        later = [Fold(several, tuple(later), f"Quality against speed at batch size {sizes[-1]} is in report.html.")]
    return (*blocks, *later, *(verdicts.metrics_table(facts, task) for task in facts.tasks))


def _speed_up(facts: Facts, drawn: Drawn) -> tuple[Block, ...]:
    promises, breakdowns = drawn.pop(Promises), drawn.pop(Breakdown)
    if not facts.speed:
        return (Prose(("No speed was measured.",)),)
    parts: tuple[Block, ...] = (*breakdowns, *_some(tables.parts_table(facts)))
    if not parts:
        parts = (Prose(("No cell of this run says where the time of a decode step goes.",)),)
    if not any((a.label, b) in facts.speed for a in facts.others for b in facts.batch_sizes):
        return (Prose(("Only the full model was timed, so there is no speed-up to show.",)), *parts)
    words = (
        "No arm has a realised speed-up to draw: that takes the full model timed beside it, and two repeats or more."
    )
    return (*(promises or (Prose((words,)),)), *_by_batch(facts, tables.promise_table), *parts)


def _batch(facts: Facts, drawn: Drawn) -> tuple[Block, ...]:
    if not facts.speed:
        return (Prose(("No speed was measured.",)),)
    if sum(any((a.label, b) in facts.speed for a in facts.arms) for b in facts.batch_sizes) < 2:
        words = "One batch size was timed, so there is no speed-up against batch size to show, and no batch tax."
        return (Prose((words,)),)
    blocks = (*drawn.pop(ByBatch), *_some(choice.crossover_table(facts)), *drawn.pop(Rates), *drawn.pop(Tax))
    if any(arm.family in ("gate", "exit") for arm in facts.others):
        return blocks
    return (*blocks, Prose(("No arm exits row by row, so there is no batch tax.",)))


def _layers(drawn: Drawn) -> tuple[Block, ...]:
    words = "No arm left blocks out, or none recorded which blocks it ran."
    return () if drawn[Heat] else (Prose((words,)),)


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
    return blocks[0], blocks[-1], Fold(title, between, f"{title} {ELSEWHERE}")


def _some(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(b for b in blocks if b is not None)


def _latency(facts: Facts) -> tuple[Block, ...]:
    return _by_batch(facts, tables.latency_table) if facts.speed else (Prose(("No speed was measured.",)),)


def _cost(facts: Facts) -> tuple[Block, ...]:
    if not facts.speed and not facts.memory:
        return (Prose(("Neither operations nor memory were measured.",)),)
    missing = []
    if not facts.memory:
        missing.append("Memory was not measured in this run.")
    if not any(tables.energy(facts, arm, batch) is not None for arm in facts.arms for batch in facts.batch_sizes):
        missing.append("Energy could not be read on this machine, or was not measured.")
    return (*((Prose((" ".join(missing),)),) if missing else ()), *_by_batch(facts, tables.cost_table))


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
    blocks: list[Block] = []
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
    words = f"{len(listing.rows)} files were read. The list of their SHA-256 {ELSEWHERE} SHA-256 of that list: {total}."
    return (*blocks, Fold("Checksums of the stored cells", (listing,), words))


def _checksums(checksums: Iterable[tuple[str, str]]) -> Table:
    pairs = list(checksums)
    columns = [
        (Column("File", numeric=False), [Cell(clean(name), sort=clean(name)) for name, _ in pairs]),
        (Column("SHA-256", numeric=False), [Cell(digest, sort=digest) for _, digest in pairs]),
    ]
    return table("checksums", "SHA-256 of each file this report was made from", columns)
