"""The tables of a report, built from facts: verdicts, metrics, from target to realised speed-up, latency, cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness import stats
from reports.answer import KEEPS, LOSES, quality_verdict
from reports.facts import Arm, Facts, MetricInfo, Quality, Speed
from reports.parts import Cell, Column, Swatch, Table, table
from reports.settings import quality_setting, speed_setting
from reports.text import BYTES, FLOPS, MISSING, decimals_for, fixed, label, listed, real, scaled, signed, span

TONES = {"faster": "good", KEEPS: "good", "slower": "bad", LOSES: "bad"}
EMPTY = Cell(MISSING)


def swatch(arm: Arm) -> Swatch:
    """The sign of an arm."""
    return Swatch(arm.method, arm.untrained)


def name_cell(arm: Arm, detail: str = "") -> Cell:
    """The cell that heads an arm's row."""
    return Cell(arm.short, detail, sort=float(arm.order), swatch=swatch(arm))


def number_cells(numbers: Sequence[Any], decimals: int | None = None, divisor: float = 1.0) -> list[Cell]:
    """Cells of one column: the same decimals throughout, a dash where there is no value."""
    found = [None if (n := real(v)) is None else n / divisor for v in numbers]
    places = decimals_for(found) if decimals is None else decimals
    return [EMPTY if n is None else Cell(fixed(n, places), sort=n) for n in found]


def interval_cell(interval: stats.Interval | None, decimals: int, *, plus: bool = False, tone: str = "") -> Cell:
    """Value with its interval on the second line."""
    if interval is None or real(interval.value) is None:
        return EMPTY
    text = signed(interval.value, decimals) if plus else fixed(interval.value, decimals)
    return Cell(text, span(interval.low, interval.high, decimals, plus=plus), float(interval.value), tone)


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
    for task, metrics in facts.tasks.items():
        metric = metrics[0]
        found = [facts.quality.get((a.label, task, metric.name)) for a in arms]
        group = f"Quality on {label(task)}"
        columns += _quality_columns(metric, found, group, arms)
    for batch in facts.batch_sizes:
        timed = [facts.speed.get((a.label, batch)) for a in arms]
        cells = [_ratio(facts, a, s) for a, s in zip(arms, timed, strict=True)]
        columns.append((Column(f"batch {batch}", "× full", group="Realised speed-up of decoding"), cells))
    columns += _layer_columns(facts)
    words = (
        "Small figures are 95% intervals, paired with full over repeats (speed) or examples (quality).",
        f"Keeps quality: the interval of the difference stays within {fixed(facts.margin, 1)} of full; "
        "loses quality: it lies beyond it.",
        "Faster, slower: the interval of the ratio lies above or below 1.",
    )
    note = " ".join(
        part for part in (*(words if facts.others else ()), speed_setting(facts), quality_setting(facts)) if part
    )
    return table(
        "verdicts", "Verdicts against the full model" if facts.others else "The one arm of this run", columns, note
    )


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
        else interval_cell(q.difference, 1, plus=True, tone=_tone(q.verdict))
        for a, q in zip(arms, found, strict=True)
    ]
    unit = metric.unit if metric.unit.lower() != metric.title.lower() else ""
    return [
        (Column(metric.title, unit, group=group, hint=arrow), values),
        (Column("difference from full", unit, group=group), gaps),
    ]


def _tone(verdict: str) -> str:
    return TONES.get(verdict, "open" if verdict else "")


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
    good, bad = quality == KEEPS and list(words) == ["faster"], quality == LOSES or list(words) == ["slower"]
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
    return interval_cell(timed.interval, 2, tone=_tone(timed.verdict))


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
        scored = [facts.scored.get((a.label, task), {}).get("layers_per_token") for a in facts.arms]
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
    tokens = [facts.scored.get((a.label, task), {}) for a in facts.arms]
    lengths = [
        None if not (n := len(c.get("examples") or ())) or real(c.get("tokens")) is None else c["tokens"] / n
        for c in tokens
    ]
    columns.append((Column("Tokens per output", "mean"), number_cells(lengths, 1)))
    return table(f"metrics-{task}", f"Every metric on {label(task)}", columns, quality_setting(facts, task))


def grid(
    facts: Facts, batches: Sequence[int], keep: Callable[[Arm, int], bool]
) -> tuple[list[tuple[Arm, int]], list[int], list[tuple[Column, list[Cell]]]]:
    """Return the (arm, batch size) pairs to show, where each batch size starts, and the two columns that name them."""
    pairs = [(arm, batch) for batch in batches for arm in facts.arms if keep(arm, batch)]
    starts = [i for i, (_, batch) in enumerate(pairs) if i == 0 or pairs[i - 1][1] != batch]
    names = (Column("Method", numeric=False), [name_cell(arm) for arm, _ in pairs])
    sizes = (Column("Batch", "rows"), [Cell(str(batch), sort=float(batch)) for _, batch in pairs])
    return pairs, starts, [names, sizes]


def _of(ident: str, title: str, facts: Facts, batches: Sequence[int]) -> tuple[str, str]:
    """The id and title of a table that shows some of the batch sizes."""
    if len(batches) == len(facts.batch_sizes):
        return ident, title
    return f"{ident}-{'-'.join(map(str, batches))}", f"{title}, batch size {listed(map(str, batches))}"


def promise_table(facts: Facts, batches: Sequence[int]) -> Table:
    """Target, executed, ideal and realised speed-up: where the promise goes."""
    pairs, starts, columns = grid(
        facts, batches, lambda arm, batch: not arm.baseline and (arm.label, batch) in facts.speed
    )
    timed = [facts.speed[arm.label, batch] for arm, batch in pairs]

    def computed(s: Speed) -> float | None:
        blocks, depth = s.raw("computed_layers_per_token"), s.raw("depth")
        return depth / blocks if blocks and depth else None

    group = "Speed-up, × full"
    columns += [
        (
            Column("target", group=group, hint="what the method was asked for"),
            number_cells([arm.target for arm, _ in pairs], 1),
        ),
        (
            Column("layer ratio", group=group, hint="depth over blocks executed per token"),
            number_cells([s.number("layer_ratio") for s in timed], 2),
        ),
        (
            Column(
                "as computed",
                group=group,
                hint="depth over blocks the whole batch had to compute; the gap is the batch tax",
            ),
            number_cells([computed(s) for s in timed], 2),
        ),
        (
            Column("ideal", group=group, hint="if skipping were free, from the full model's own block and head times"),
            number_cells([s.number("ideal_speedup") for s in timed], 2),
        ),
        (
            Column("realised", group=group, hint="measured, paired with full"),
            [interval_cell(s.interval, 2, tone=_tone(s.verdict)) for s in timed],
        ),
        (Column("Efficiency", "realised / ideal"), number_cells([s.number("efficiency") for s in timed], 2)),
        (Column("Layers per token", "blocks"), number_cells([s.raw("layers_per_token") for s in timed], 1)),
    ]
    note = (
        "Ideal: what the full model's block and head times, measured in the same process, predict if skipping cost "
        f"nothing. {speed_setting(facts)}"
    )
    return table(*_of("promise", "From target to realised speed-up", facts, batches), columns, note, starts)


def parts_table(facts: Facts) -> Table | None:
    """Where one decode step of the full model goes; None if no cell says."""
    full = facts.baseline
    rows = [
        (b, parts)
        for b in facts.batch_sizes
        if full and (s := facts.speed.get((full.label, b))) and (parts := s.cell.get("step_parts_s"))
    ]
    if not rows:
        return None
    depth = [facts.speed[full.label, b].raw("depth") if full else None for b, _ in rows]
    blocks = [
        None if d is None or (v := real(p.get("block"))) is None else d * v
        for d, (_, p) in zip(depth, rows, strict=True)
    ]
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Batch", "rows"), [Cell(str(b), sort=float(b)) for b, _ in rows]),
        (Column("One block", "ms"), number_cells([p.get("block") for _, p in rows], 3, 1e-3)),
        (Column("All blocks", "ms"), number_cells(blocks, 3, 1e-3)),
        *(
            (Column(title, "ms"), number_cells([p.get(key) for _, p in rows], 3, 1e-3))
            for key, title in (("head", "Head"), ("embed", "Embedding"), ("rest", "Rest"))
        ),
    ]
    return table("parts", "One decode step of the full model", columns, f"Medians per step. {speed_setting(facts)}")


def latency_table(facts: Facts, batches: Sequence[int]) -> Table:
    """Time to first token, time per output token, percentiles of the time between steps with their n."""
    pairs, starts, columns = grid(facts, batches, lambda arm, batch: (arm.label, batch) in facts.speed)
    timed = [facts.speed[arm.label, batch] for arm, batch in pairs]
    rate = [s.number("tokens_per_s") for s in timed]
    columns += [
        (
            Column("TTFT", "ms", hint="time to first token, median of the repeats"),
            number_cells([s.number("ttft_ms") for s in timed], 2),
        ),
        (
            Column("TPOT", "ms", hint="time per output token after the first"),
            number_cells([s.number("tpot_ms") for s in timed], 3),
        ),
        (Column("Throughput", "tokens/s"), number_cells(rate, 0)),
    ]
    for q in (50, 90, 99):
        quantiles = [stats.percentile(s.step_s, q) for s in timed]
        columns.append((Column(f"p{q}", "ms", group="Time between steps"), number_cells(quantiles, 3, 1e-3)))
    columns.append(
        (Column("n", "steps", group="Time between steps"), number_cells([len(s.step_s) or None for s in timed], 0))
    )
    note = f"A percentile is empty where n does not support it. {speed_setting(facts)}"
    return table(*_of("latency", "Times", facts, batches), columns, note, starts)


_OPERATIONS = {
    "all": "flops_per_token",
    "exit tests": "exit_test_flops_per_token",
    "K/V fill": "fill_flops_per_token",
    "head": "head_flops_per_token",
}
_PEAKS = {
    "peak resident": "peak_rss_bytes",
    "before loading": "baseline_rss_bytes",
    "weights": "weights_bytes",
    "CUDA peak allocated": "cuda_peak_allocated_bytes",
    "CUDA reserved": "cuda_reserved_bytes",
    "NVML process": "nvml_process_bytes",
}


def cost_table(facts: Facts, batches: Sequence[int]) -> Table:
    """Operations, weight reads and memory per arm and batch size."""
    pairs, starts, columns = grid(
        facts, batches, lambda arm, batch: (arm.label, batch) in facts.speed or (arm.label, batch) in facts.memory
    )
    timed = [facts.speed.get((arm.label, batch)) for arm, batch in pairs]
    memory = [facts.memory.get((arm.label, batch), {}) for arm, batch in pairs]

    def of_cell(key: str) -> list[float | None]:
        return [s.raw(key) if s else None for s in timed]

    def column(title: str, found: list[Any], units: tuple[tuple[float, str], ...], group: str, hint: str = "") -> None:
        divisor, unit = scaled(found, units)
        columns.append((Column(title, unit, group=group, hint=hint), number_cells(found, None, divisor)))

    operations = "Operations per decoded token"
    total = of_cell("flops_per_token")
    divisor, unit = scaled(total, FLOPS)  # one unit for all, so that the parts can be compared with the whole
    for title, key in _OPERATIONS.items():
        found = of_cell(key)
        if any(found):
            hint = "exit tests and K/V fill included" if title == "all" else ""
            columns.append((Column(title, unit, group=operations, hint=hint), number_cells(found, 2, divisor)))
    ratios = [s.number("flops_ratio") if s else None for s in timed]
    columns.append((Column("full ÷ arm", "×", group=operations), number_cells(ratios, 2)))
    traffic = "Weights and cache"
    column("weights read per token", of_cell("weight_bytes_per_token"), BYTES, traffic)
    column("K/V cache held", of_cell("kv_cache_bytes"), BYTES, traffic)
    column("K/V written", of_cell("kv_written_bytes"), BYTES, traffic)
    peaks = "Memory, in a process of its own"
    for title, key in _PEAKS.items():
        found = [m.get(key) for m in memory]
        if any(real(v) is not None for v in found):
            column(title, found, BYTES, peaks)
    energy = [m.get("energy_j_per_token") for m in memory]
    columns.append((Column("Energy per token", "J"), number_cells(energy)))
    return table(*_of("cost", "Operations, weights and memory", facts, batches), columns, speed_setting(facts), starts)
