"""The tables about speed and cost: from target to realised speed-up, latency, operations and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.stats import intervals
from reports.facts.facts import Arm, Facts, Speed
from reports.text import BYTES, FLOPS, listed, real, scaled
from reports.view.cells import interval_cell, name_cell, number_cells, tone_of
from reports.view.parts import Cell, Column, Table, table
from reports.view.settings import speed_setting


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
            number_cells([s.number("predicted_speedup") for s in timed], 2),
        ),
        (
            Column("realised", group=group, hint="measured, paired with full"),
            [interval_cell(s.interval, 2, tone=tone_of(s.verdict)) for s in timed],
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
        quantiles = [intervals.percentile(s.step_s, q) for s in timed]
        columns.append((Column(f"p{q}", "ms", group="Time between steps"), number_cells(quantiles, 3, 1e-3)))
    columns.append(
        (Column("n", "steps", group="Time between steps"), number_cells([len(s.step_s) or None for s in timed], 0))
    )
    per_row = [s.tokens_per_step for s in timed]
    if any(v is not None and v != 1 for v in per_row):  # drafts yield several tokens a step
        columns.append((Column("Tokens per step", "per row"), number_cells(per_row, 2)))
    note = f"A percentile is empty where n does not support it. {speed_setting(facts)}"
    return table(*_of("times", "Times", facts, batches), columns, note, starts)


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
    "NVML device": "nvml_device_bytes",
}


_ENERGY = (
    ("per token", "J", "energy_j_per_token"),
    ("above idle", "J per token", "energy_above_idle_j_per_token"),
    ("of the processor", "J per token", "cpu_energy_j_per_token"),
    ("idle", "W", "idle_w"),
)


def energy(facts: Facts, arm: Arm, batch: int, key: str = "energy_j_per_token") -> float | None:
    """A number of the pass that measured energy, as summary.csv gives it; None where it could not be read."""
    return real(facts.rows.get((arm.label, batch), {}).get(key))


def cost_table(facts: Facts, batches: Sequence[int]) -> Table:
    """Operations, weight reads and memory per arm and batch size."""
    pairs, starts, columns = grid(
        facts, batches, lambda arm, batch: (arm.label, batch) in facts.speed or (arm.label, batch) in facts.memory
    )
    timed = [facts.speed.get((arm.label, batch)) for arm, batch in pairs]
    memory = [facts.memory.get((arm.label, batch)) for arm, batch in pairs]

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
    columns.append((Column("full/arm", "×", group=operations), number_cells(ratios, 2)))
    traffic = "Weights and cache"
    column("weights read per token", of_cell("weight_bytes_per_token"), BYTES, traffic)
    column("K/V cache held", of_cell("kv_cache_bytes"), BYTES, traffic)
    column("K/V written", of_cell("kv_written_bytes"), BYTES, traffic)
    peaks = "Memory, in a process of its own"
    for title, key in _PEAKS.items():
        found = [real(m.get(key)) if m else None for m in memory]
        if any(value is not None for value in found):
            column(title, found, BYTES, peaks)
    for title, unit, key in _ENERGY:
        columns.append(
            (Column(title, unit, group="Energy"), number_cells([energy(facts, a, b, key) for a, b in pairs]))
        )
    return table(
        *_of("operations", "Operations, weights and memory", facts, batches), columns, speed_setting(facts), starts
    )
