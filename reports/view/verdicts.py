"""The tables about quality: the few rows of the first screen, every arm's verdict, and every metric of a task."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.limits import BASELINE
from harness.records.quantities import named
from harness.records.usability import UNUSABLE
from harness.stats import intervals
from reports.facts import judge
from reports.facts.arms import Arm, curves
from reports.facts.facts import Facts
from reports.facts.metrics import MetricInfo
from reports.facts.scores import Quality
from reports.text import BYTES, fixed, label, listed, scaled
from reports.view.answer import choice, few, timed
from reports.view.cells import (
    EMPTY,
    MARK,
    interval_cell,
    lost,
    marks,
    name_cell,
    number_cells,
    ratio_cell,
    state_cell,
    tone_of,
)
from reports.view.parts import Cell, Column, Table, table

ROWS = 8
LM_EVAL = "lm_eval:"
_TRAINING = {
    "not needed": "no", "trained": "yes", "schedule only": "yes (not done)", "untrained": "yes (not done)",
}  # fmt: skip


def top_table(facts: Facts) -> Table | None:
    """At most eight rows: the full model, what the answer names, and the best arm of every other method."""
    arms = _top(facts)
    if facts.baseline is None or len(arms) < 2:
        return None
    columns: list[tuple[Column, list[Cell]]] = [(Column("Method", numeric=False), [name_cell(a) for a in arms])]
    sizes, unusable = few(timed(facts)), False
    for i, batch in enumerate(sizes):
        cells = [ratio_cell(a, facts.speed.get((a.label, batch))) for a in arms]
        unusable |= any(c.text == UNUSABLE for c in cells)
        cells = [
            Cell(c.text, "", c.sort, c.tone) if a.baseline or c.text == UNUSABLE else c
            for a, c in zip(arms, cells, strict=True)
        ]
        columns.append((Column(f"batch {batch}", group="Times as fast as the full model", key=not i), cells))
    columns += _work_columns(facts, arms) if sizes else []
    for task in judge.informative(facts)[:1]:
        metric = facts.tasks[task][0]
        found = [facts.quality.get((a.label, task, metric.name)) for a in arms]
        title = f"{metric.title} on {label(task)}"
        hint = "lower is better" if metric.better == "lower" else "higher is better"
        values = [EMPTY if q is None else interval_cell(q.value, 1) for q in found]
        columns.append((Column(title, metric.unit if metric.unit == "%" else hint, key=True), values))
    if judge.informative(facts):
        columns.append((Column("What is lost, on the worst metric", numeric=False), [_lost(facts, a) for a in arms]))
    columns.append((Column("Needs training", numeric=False), [_training(a) for a in arms]))
    left = len([a for a in facts.others if a not in arms])
    notes = []
    if left:
        notes.append(
            f"One row for each method, its best setting here; {left} more {'arm is' if left == 1 else 'arms are'} below."
        )
    if unusable:
        notes.append("Unusable: no ratio can be given; the next table says why.")
    if marks(facts, [(arm, batch) for batch in sizes for arm in arms]):
        notes.append(
            f"{MARK} Faster than reading fewer weights, or the prediction, accounts for: the next table says why."
        )
    return table("top", "At a glance", columns, " ".join(notes))


def _top(facts: Facts) -> list[Arm]:
    chosen: dict[str, Arm] = {}
    for batch in timed(facts):
        if judge.informative(facts) and (arm := choice(facts, batch)[1]):
            chosen.setdefault(arm.label, arm)
    named = [set(c.arms) for c in curves(facts.others)] if len(facts.others) > ROWS else [{a} for a in facts.others]
    rest = []
    for group in named:
        if not any(a.label in chosen for a in group) and (arms := [a for a in group if a.method != BASELINE]):
            rest.append(min(arms, key=lambda a: judge.worth(facts, a)))
    rest.sort(key=lambda a: (a.control, *judge.worth(facts, a)))
    full = [facts.baseline] if facts.baseline else []
    return [*full, *list(chosen.values())[: ROWS - 1], *rest][:ROWS]


def _lost(facts: Facts, arm: Arm) -> Cell:
    if arm.baseline:
        return Cell("baseline", sort="")
    if facts.same.get(arm.label):
        return Cell("nothing: same tokens", sort="", tone="good")
    found, state = judge.biggest(facts, arm), judge.arm(facts, arm)
    if found is None or state is None:
        return Cell("not measured", sort="~")
    return Cell(
        lost(facts, found), "" if state.state == judge.LOSES else state.state, found.share, tone_of(state.state)
    )


def _training(arm: Arm) -> Cell:
    words = _TRAINING.get(arm.trained, label(arm.trained) or "not recorded")
    return Cell(words, f"here on {arm.trained_on}" if arm.trained_on and words == "yes" else "", sort=words)


def verdict_table(facts: Facts) -> Table:
    """One row per arm: verdict, quality and its difference from full per task, speed-up per batch size, layers."""
    arms = facts.arms
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Method", numeric=False), [name_cell(a, "" if a.control else _trained(a)) for a in arms])
    ]
    if facts.others and facts.tasks:
        words = [_verdict(facts, a) for a in arms]
        columns.append((Column("Quality", numeric=False, hint="over all metrics; the worst is named"), words))
    for i, batch in enumerate(few(facts.batch_sizes)):
        cells = [ratio_cell(a, facts.speed.get((a.label, batch))) for a in arms]
        columns.append((Column(f"batch {batch}", "× full", group="Speed-up", key=not i), cells))
    columns += _work_columns(facts, arms)
    for i, task in enumerate(_headed(facts)):
        metric = facts.tasks[task][0]
        found = [facts.quality.get((a.label, task, metric.name)) for a in arms]
        columns += _quality_columns(metric, found, f"{metric.title} on {label(task)}", arms, key=not i)
    shown = [(arm, batch) for batch in few(facts.batch_sizes) for arm in arms]
    return table(
        "verdicts",
        "All arms against the full model" if facts.others else "The one arm of this run",
        columns,
        " ".join((_reading(facts), *marks(facts, shown))),
    )


def _headed(facts: Facts) -> list[str]:
    """The tasks with columns here: those that show something; lm-eval's have a table of their own where there are others."""
    shown = [task for task in judge.informative(facts) or facts.tasks]
    return [task for task in shown if not task.startswith(LM_EVAL)] or shown


def _reading(facts: Facts) -> str:
    """How the words of the table are meant."""
    words = []
    if facts.others and facts.tasks:
        words.append(
            "Small figures are 95% intervals. Quality is judged on every metric by its paired difference from full: better "
            f"(above it), keeps quality (within the margin of {fixed(facts.margin, 1)}), small loss (below it, within the margin), "
            f"loses quality (beyond), not enough data (the interval holds the margin, or n is under {intervals.MIN_EXAMPLES})."
        )
    if facts.others and facts.speed:
        words.append(
            f"Green and red speed-ups: the interval lies above or below 1, from {intervals.MIN_PAIRS} repeats on. "
            "Blocks: those computed for a token, drafts and what verifies them included, so a draft method may run more than all. "
            "Byte limit: weight bytes of a full step over those of the method's; a speed-up above it needs a reason."
        )
    for task, why in judge.uninformative(facts).items():
        words.append(f"{label(task)} is not informative and enters no verdict: {why}.")
    return " ".join(words)


def _trained(arm: Arm) -> str:
    return {"not needed": "no training needed"}.get(arm.trained, label(arm.trained))


def _quality_columns(
    metric: MetricInfo, found: Sequence[Quality | None], group: str, arms: Sequence[Arm], *, key: bool = False
) -> list[tuple[Column, list[Cell]]]:
    arrow = "lower is better" if metric.better == "lower" else ""
    unit = metric.unit if metric.unit.lower() != metric.title.lower() else ""
    values = [EMPTY if q is None else interval_cell(q.value, 1) for q in found]
    gaps = [Cell("baseline") if a.baseline and q else _gap(q) for a, q in zip(arms, found, strict=True)]
    return [
        (Column("score", unit, group=group, hint=arrow, key=key), values),
        (Column("from full", unit, group=group), gaps),
    ]


def _gap(quality: Quality | None) -> Cell:
    return EMPTY if quality is None else interval_cell(quality.difference, 1, plus=True)


def _verdict(facts: Facts, arm: Arm) -> Cell:
    if arm.baseline:
        return Cell("baseline", sort="")
    if same := facts.same.get(arm.label):
        return Cell(judge.KEEPS, f"same tokens, {same:,} rows", judge.KEEPS, "good")
    return state_cell(judge.arm(facts, arm), len(judge.informative(facts)) > 1)


def _work_columns(facts: Facts, arms: Sequence[Arm]) -> list[tuple[Column, list[Cell]]]:
    """What a decoded token executes and reads at the smallest batch size, sublayers apart where a method skips one alone."""
    batch = facts.headline_batch
    cells = [facts.speed.get((a.label, batch)) if batch is not None else None for a in arms]
    depth = next((s.cell.get("depth") for s in cells if s), None)
    group = f"A decoded token, batch {batch}" if batch is not None else "A decoded token"
    of = f"of {depth}" if depth else ""
    apart = any(s and s.raw("attention_per_token") != s.raw("feed_per_token") for s in cells)
    columns = [
        (
            Column(named(name).title, of, group=group, hint=named(name).hint),
            number_cells([s and s.raw(name) for s in cells], 1),
        )
        for name in ("layers_per_token", *(("attention_per_token", "feed_per_token") if apart else ()))
    ]
    weights, limit = named("weight_mb_per_token"), named("byte_limit")
    read = [s and s.raw(weights.field) for s in cells]
    divisor, unit = scaled(read, BYTES)
    columns += [
        (Column("weights read", unit, group=group), number_cells(read, None, divisor)),
        (
            Column(limit.title, "× full", group=group, hint=limit.hint),
            number_cells([s and s.number(limit.name) for s in cells], limit.decimals),
        ),
    ]
    return columns


def metrics_table(facts: Facts, task: str) -> Table:
    """Every metric of one task with its interval, its difference from full and the verdict it gives."""
    columns: list[tuple[Column, list[Cell]]] = [(Column("Method", numeric=False), [name_cell(a) for a in facts.arms])]
    for metric in facts.tasks[task]:
        found = [facts.quality.get((a.label, task, metric.name)) for a in facts.arms]
        hint = "lower is better" if metric.better == "lower" else ""
        unit = metric.unit if metric.unit.lower() != metric.title.lower() else ""
        values = [EMPTY if q is None else interval_cell(q.value, 1) for q in found]
        columns.append((Column("value", unit, group=metric.title, hint=hint), values))
        gaps = []
        for arm, q in zip(facts.arms, found, strict=True):
            seen = judge.metric(facts, arm, task, metric) if q else None
            tone = tone_of(seen.state) if seen and metric in judge.counted(facts, task) else ""
            gaps.append(EMPTY if q is None else interval_cell(q.difference, 1, plus=True, tone=tone))
        columns.append((Column("from full", unit, group=metric.title), gaps))
    lengths = [
        None if (n := facts.scored_number(a, task, "tokens")) is None else n / len(facts.examples[a.label, task])
        for a in facts.arms
    ]
    columns.append((Column("Tokens per output", "mean"), number_cells(lengths, 1)))
    ran = [facts.scored_number(a, task, "layers_per_token") for a in facts.arms]
    columns.append((Column("Blocks per token", "mean"), number_cells(ran, 1)))
    cut = [facts.scored_number(a, task, "unfinished") for a in facts.arms]
    if any(cut):
        columns.append((Column("Cut at the limit", "outputs"), number_cells(cut, 0)))
    beside = [f"{a.short} is set against {b.short}, the same weights" for a, b in facts.beside.items()]
    return table(
        f"metrics-{task}", f"Every metric on {label(task)}", columns, f"{listed(beside, 10)}." if beside else ""
    )
