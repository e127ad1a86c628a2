"""The tables about quality: the verdicts that head the report, and every metric of a task."""

from __future__ import annotations

from collections.abc import Sequence

from harness.stats import intervals
from reports.facts.facts import Arm, Facts, Quality, Speed
from reports.facts.metrics import MetricInfo
from reports.text import fixed, label, listed
from reports.view.answer import KEEPS, LOSES, quality_verdict
from reports.view.cells import EMPTY, interval_cell, name_cell, number_cells, tone_of
from reports.view.parts import Cell, Column, Table, table
from reports.view.settings import quality_setting, speed_setting


def verdict_table(facts: Facts) -> Table:
    """One row per arm: verdict, quality and its difference from full per task, speed-up per batch size, layers."""
    arms = facts.arms
    columns: list[tuple[Column, list[Cell]]] = [
        (
            Column("Method", "trained for it, or schedule only", numeric=False),
            [name_cell(a, _training(a)) for a in arms],
        ),
        (Column("Verdict", numeric=False, hint="against the full model"), [_verdict(facts, a) for a in arms]),
    ]
    for batch in _few(facts.batch_sizes):
        timed = [facts.speed.get((a.label, batch)) for a in arms]
        cells = [_ratio(facts, a, s) for a, s in zip(arms, timed, strict=True)]
        columns.append((Column(f"batch {batch}", "× full", group="Realised speed-up of decoding"), cells))
    for task, metrics in facts.tasks.items():
        metric = metrics[0]
        found = [facts.quality.get((a.label, task, metric.name)) for a in arms]
        group = f"Quality on {label(task)}"
        columns += _quality_columns(metric, found, group, arms)
    columns += _layer_columns(facts)
    words = (
        "Small figures are 95% intervals, paired with full over repeats (speed) or examples (quality).",
        f"Keeps quality: the interval of the difference stays within {fixed(facts.margin, 1)} of full; loses quality: "
        f"it lies beyond; open: it holds that limit, or n is under {intervals.MIN_EXAMPLES}.",
        "Faster, slower: the interval of the ratio lies above or below 1; open: it is too wide to say, or n is under "
        f"{intervals.MIN_PAIRS}.",
    )
    note = " ".join(
        part for part in (*(words if facts.others else ()), speed_setting(facts), quality_setting(facts)) if part
    )
    return table(
        "verdicts", "Verdicts against the full model" if facts.others else "The one arm of this run", columns, note
    )


def _few(batches: Sequence[int]) -> Sequence[int]:
    """All batch sizes if there are at most three, else the first and the last; the others have tables of their own."""
    return batches if len(batches) <= 3 else (batches[0], batches[-1])


def _quality_columns(
    metric: MetricInfo, found: Sequence[Quality | None], group: str, arms: Sequence[Arm]
) -> list[tuple[Column, list[Cell]]]:
    arrow = "lower is better" if metric.better == "lower" else ""
    values = [EMPTY if q is None else interval_cell(q.value, 1) for q in found]
    gaps = [
        Cell("baseline")
        if a.baseline and q
        else EMPTY
        if q is None
        else interval_cell(q.difference, 1, plus=True, tone=tone_of(q.verdict))
        for a, q in zip(arms, found, strict=True)
    ]
    unit = metric.unit if metric.unit.lower() != metric.title.lower() else ""
    return [
        (Column(metric.title, unit, group=group, hint=arrow), values),
        (Column("difference from full", unit, group=group), gaps),
    ]


def _training(arm: Arm) -> str:
    return {"not needed": "no training needed"}.get(arm.trained, label(arm.trained))


def _verdict(facts: Facts, arm: Arm) -> Cell:
    if arm.baseline:
        return Cell("baseline", sort="")
    quality = quality_verdict(facts, arm)
    by_batch = {b: s.verdict for b in facts.batch_sizes if (s := facts.speed.get((arm.label, b))) and s.verdict}
    words: dict[str, list[int]] = {}
    for batch, verdict in by_batch.items():
        words.setdefault(verdict, []).append(batch)
    if len(words) == 1:
        (only,) = words
        speed = f"{_speed_words(only)}{' at every batch size' if len(by_batch) > 1 else ''}"
    else:
        speed = "; ".join(
            f"{_speed_words(word)} at batch {listed(map(str, batches))}" for word, batches in words.items()
        )
    quality_words = "quality open" if quality == "inconclusive" else quality
    if not quality and not speed:
        return Cell("not measured", sort="~")
    good, bad = quality == KEEPS and list(words) == ["faster"], quality == LOSES
    return Cell(
        quality_words or "quality not measured",
        speed or "speed not measured",
        quality_words,
        "good" if good else "bad" if bad else "open",
    )


def _speed_words(verdict: str) -> str:
    return {"no difference detected": "no speed difference detected", "inconclusive": "speed open"}.get(
        verdict, verdict
    )


def _ratio(facts: Facts, arm: Arm, timed: Speed | None) -> Cell:
    if arm.baseline and timed:
        return Cell("1", "baseline", 1.0)
    if timed is None or timed.interval is None:
        return EMPTY
    return interval_cell(timed.interval, 2, tone=tone_of(timed.verdict))


def _layer_columns(facts: Facts) -> list[tuple[Column, list[Cell]]]:
    batch = facts.headline_batch
    timed = [facts.speed.get((a.label, batch)) if batch is not None else None for a in facts.arms]
    depth = next((s.cell.get("depth") for s in timed if s), None)
    group = f"Layers per token, of {depth}" if depth else "Layers per token"
    columns = [
        (
            Column("timed", f"batch {batch}", group=group),
            number_cells([s and s.raw("layers_per_token") for s in timed], 1),
        )
    ]
    for task in facts.tasks:
        scored = [facts.scored_number(a, task, "layers_per_token") for a in facts.arms]
        columns.append((Column("scored", label(task), group=group), number_cells(scored, 1)))
    return columns


def metrics_table(facts: Facts, task: str) -> Table:
    """Every metric of one task with its interval and its difference from full."""
    columns: list[tuple[Column, list[Cell]]] = [(Column("Method", numeric=False), [name_cell(a) for a in facts.arms])]
    for metric in facts.tasks[task]:
        found = [facts.quality.get((a.label, task, metric.name)) for a in facts.arms]
        hint = "lower is better" if metric.better == "lower" else ""
        unit = metric.unit if metric.unit.lower() != metric.title.lower() else ""
        values = [EMPTY if q is None else interval_cell(q.value, 1) for q in found]
        columns.append((Column("value", unit, group=metric.title, hint=hint), values))
        gaps = [EMPTY if q is None else interval_cell(q.difference, 1, plus=True) for q in found]
        columns.append((Column("from full", unit, group=metric.title), gaps))
    lengths = [
        None if (n := facts.scored_number(a, task, "tokens")) is None else n / len(facts.examples[a.label, task])
        for a in facts.arms
    ]
    columns.append((Column("Tokens per output", "mean"), number_cells(lengths, 1)))
    cut = [facts.scored_number(a, task, "unfinished") for a in facts.arms]
    if any(cut):
        columns.append((Column("Cut at the limit", "outputs"), number_cells(cut, 0)))
    return table(f"metrics-{task}", f"Every metric on {label(task)}", columns, quality_setting(facts, task))
