"""The tables about speed and cost: from target to realised speed-up, latency, operations and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from harness.records import quantities
from harness.records.quantities import OPERATIONS, Quantity, named
from harness.stats import intervals
from reports.facts.arms import Arm
from reports.facts.facts import Facts, Speed
from reports.text import BYTES, FLOPS, label, listed, real, scaled
from reports.view.cells import marks, name_cell, number_cells, ratio_cell, word_cell
from reports.view.parts import Cell, Column, Table, table


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
    """Target, executed, predicted and realised speed-up: where the promise goes."""
    pairs, starts, columns = grid(
        facts, batches, lambda arm, batch: not arm.baseline and (arm.label, batch) in facts.speed
    )
    timed = [facts.speed[arm.label, batch] for arm, batch in pairs]

    def computed(s: Speed) -> float | None:
        blocks, depth = s.raw("computed_layers_per_token"), s.raw("depth")
        return depth / blocks if blocks and depth else None

    def shown(name: str) -> tuple[Column, list[Cell]]:
        quantity = named(name)
        return _column(quantity), number_cells([s.number(name) for s in timed], quantity.decimals)

    realised = named("speedup")
    columns += [
        (
            Column("target", group=realised.group, hint="what the method was asked for"),
            number_cells([arm.target for arm, _ in pairs], 1),
        ),
        shown("layer_ratio"),
        (
            Column(
                "as computed",
                group=realised.group,
                hint="depth over blocks the whole batch had to compute; the gap is the batch tax",
            ),
            number_cells([computed(s) for s in timed], 2),
        ),
        shown("predicted_speedup"),
        (_column(realised), [ratio_cell(arm, s) for (arm, _), s in zip(pairs, timed, strict=True)]),
        shown("efficiency"),
    ]
    note = " ".join((_PREDICTED, *marks(facts, pairs)))
    return table(*_of("promise", "From target to realised speed-up", facts, batches), columns, note, starts)


_PREDICTED = (
    "Predicted: the full model's own step over the same step with as many of its blocks as the method ran, measured in the "
    "same process: what skipping would gain if it were free."
)


def work_table(facts: Facts, batches: Sequence[int]) -> Table:
    """What a decoded token executes and reads, what that allows, what was realised, and why where that is more."""
    pairs, starts, columns = grid(facts, batches, lambda arm, batch: (arm.label, batch) in facts.speed)
    timed = [facts.speed[arm.label, batch] for arm, batch in pairs]
    names = ["layers_per_token", "attention_per_token", "feed_per_token", "sublayers_per_token"]
    if all(_one_by_one(s) for s in timed):
        names.pop()
    for name in names:
        quantity = named(name)
        columns.append((_column(quantity), number_cells([s.number(name) for s in timed], quantity.decimals)))
    weights = named("weight_mb_per_token")
    found = [value(facts, weights, *at) for at in pairs]
    divisor, unit = scaled(found, BYTES)
    columns.append((replace(_column(weights), unit=unit, group=""), number_cells(found, None, divisor)))
    for name in ("byte_limit", "predicted_speedup"):
        quantity = named(name)
        columns.append((_column(quantity), number_cells([s.number(name) for s in timed], quantity.decimals)))
    columns.append((_column(named("speedup")), [ratio_cell(arm, s) for (arm, _), s in zip(pairs, timed, strict=True)]))
    why = Column(named("explanation").title, "why, where it is", numeric=False)
    columns.append((why, [word_cell(label(s.explanation, 300)) for s in timed]))
    note = f"Byte limit: {named('byte_limit').hint}. {_PREDICTED}"
    return table(*_of("work", "What a decoded token executes and reads", facts, batches), columns, note, starts)


def _one_by_one(timed: Speed) -> bool:
    """Whether a token's sublayers all ran one after the other, as they do but where several columns are verified at once."""
    ran = [timed.number(f"{part}_per_token") for part in ("attention", "feed", "sublayers")]
    return None in ran or abs((ran[0] or 0.0) + (ran[1] or 0.0) - (ran[2] or 0.0)) < 0.05


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
        (Column("Its attention", "ms"), number_cells([p.get("attention") for _, p in rows], 3, 1e-3)),
        (Column("Its feed-forward", "ms"), number_cells([p.get("feed") for _, p in rows], 3, 1e-3)),
        (Column("All blocks", "ms"), number_cells(blocks, 3, 1e-3)),
        *(
            (Column(title, "ms"), number_cells([p.get(key) for _, p in rows], 3, 1e-3))
            for key, title in (("head", "Head"), ("embed", "Embedding"), ("rest", "Rest"))
        ),
    ]
    return table("parts", "One decode step of the full model", columns, "Medians per step.")


def latency_table(facts: Facts, batches: Sequence[int]) -> Table:
    """Time to first token, time per output token, percentiles of the time between steps with their n."""
    pairs, starts, columns = grid(facts, batches, lambda arm, batch: (arm.label, batch) in facts.speed)
    timed = [facts.speed[arm.label, batch] for arm, batch in pairs]
    columns += measured(facts, pairs, "times")
    for q in (50, 90, 99):
        quantiles = [intervals.percentile(s.step_s, q) for s in timed]
        columns.append((Column(f"p{q}", "ms", group="Time between steps"), number_cells(quantiles, 3, 1e-3)))
    columns.append(
        (Column("n", "steps", group="Time between steps"), number_cells([len(s.step_s) or None for s in timed], 0))
    )
    per_row = [s.tokens_per_step for s in timed]
    if any(v is not None and v != 1 for v in per_row):  # drafts yield several tokens a step
        columns.append((Column("Tokens per step", "per row"), number_cells(per_row, 2)))
    note = "A percentile is empty where n does not support it."
    return table(*_of("times", "Times", facts, batches), columns, note, starts)


def measured(
    facts: Facts, pairs: Sequence[tuple[Arm, int]], where: Literal["times", "operations"]
) -> list[tuple[Column, list[Cell]]]:
    """A column for each quantity that this table shows, those of one group side by side."""
    shown = [each for each in quantities.TABLE if each.table == where]
    groups = list(dict.fromkeys(each.group for each in shown))
    columns: list[tuple[Column, list[Cell]]] = []
    operations: tuple[float, str] | None = None
    for quantity in sorted(shown, key=lambda each: groups.index(each.group)):
        found, column, divisor = [value(facts, quantity, *at) for at in pairs], _column(quantity), 1.0
        if quantity.unit == OPERATIONS:
            # One unit for all, so that the parts can be compared with the whole; a part that is nothing anywhere is left out.
            operations = operations or scaled(found, FLOPS)
            divisor, unit = operations
            column = replace(column, unit=unit)
            if not any(found):
                continue
        elif quantity.unit == quantities.BYTES:
            divisor, unit = scaled(found, BYTES)
            column = replace(column, unit=unit)
        columns.append((column, number_cells(found, quantity.decimals, divisor)))
    return columns


def _column(quantity: Quantity) -> Column:
    return Column(quantity.title, quantity.unit, group=quantity.group, hint=quantity.hint)


def value(facts: Facts, quantity: Quantity, arm: Arm, batch: int) -> float | None:
    """A quantity as a table shows it: bytes and operations as stored, others as in summary.csv."""
    cell = facts.cell(quantity.kind, arm, batch)
    if cell is None:
        return None
    if quantity.name and quantity.unit not in (OPERATIONS, quantities.BYTES):
        return real(facts.rows.get((arm.label, batch), {}).get(quantity.name))
    return quantity.stored(cell)


def energy(facts: Facts, arm: Arm, batch: int) -> float | None:
    """Energy per token; None where it could not be read."""
    return value(facts, named("energy_j_per_token"), arm, batch)


def cost_table(facts: Facts, batches: Sequence[int]) -> Table:
    """Operations, weight reads and memory per arm and batch size."""
    pairs, starts, columns = grid(
        facts, batches, lambda arm, batch: (arm.label, batch) in facts.speed or (arm.label, batch) in facts.memory
    )
    columns += measured(facts, pairs, "operations")
    return table(*_of("operations", "Operations, weights and memory", facts, batches), columns, "", starts)
