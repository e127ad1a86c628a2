"""What to take: the fastest arm for a loss the reader accepts, and the batch size at which an arm stops paying."""

from __future__ import annotations

import itertools
import math

from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.facts.judge import informative
from reports.text import MISSING, fixed, listed
from reports.view.answer import LOSSES, best, few
from reports.view.answer import timed as timed_sizes
from reports.view.cells import interval_cell, name_cell, swatch, tone_of, word_cell
from reports.view.parts import Cell, Column, Table, table


def choice_table(facts: Facts) -> Table | None:
    """For each accepted loss the fastest arm shown to lose no more; None without quality, speed or a full model."""
    if facts.baseline is None or not informative(facts) or facts.headline_batch is None or not facts.others:
        return None
    batches = few(timed_sizes(facts))
    losses = sorted({*LOSSES, facts.margin})
    columns = [(Column("Loss accepted", "points", numeric=True), [Cell(f"{v:g}", sort=v) for v in losses])]
    shown = False
    for batch in batches:
        names, ratios = [], []
        for loss in losses:
            arm = best(facts, loss, batch)
            shown = shown or arm is not None
            names.append(
                Cell("full model", sort="~")
                if arm is None
                else Cell(arm.short, arm.learned, arm.short, swatch=swatch(arm))
            )
            ratio = facts.ratio(arm, batch) if arm else None
            ratios.append(interval_cell(ratio, 2, tone="good") if ratio else Cell("1", sort=1.0))
        group = f"Best choice at batch size {batch}"
        columns += [
            (Column("method", numeric=False, group=group), names),
            (Column("speed-up", "× full", group=group), ratios),
        ]
    if not shown:
        return None
    note = (
        "The fastest arm whose 95% interval of the difference from full stays within the accepted loss on every metric, and "
        "whose speed-up is shown; the full model where none is. Points are those of the metric. "
        "Metrics that do not count in points: percent of full's value."
    )
    return table("choice", "Best choice for a loss you accept", columns, note)


def crossover_table(facts: Facts) -> Table | None:
    """Up to which batch size an arm is faster than full; None with fewer than two batch sizes."""
    timed = [b for b in facts.batch_sizes if any((a.label, b) in facts.speed for a in facts.others)]
    if len(timed) < 2:
        return None
    arms = [a for a in facts.others if sum(facts.ratio(a, b) is not None for b in timed) > 1]
    if not arms:
        return None
    words, crossings = [], []
    for arm in arms:
        text, tone, place = _pays(facts, arm, timed)
        words.append(word_cell(text, tone))
        crossings.append(
            Cell(MISSING) if place is None else Cell(f"about {fixed(place, 0 if place >= 10 else 1)}", sort=place)
        )
    columns = [
        (Column("Method", numeric=False), [name_cell(a) for a in arms]),
        (Column("Faster than full", numeric=False), words),
        (Column("Crosses 1 at batch size", "rows, interpolated"), crossings),
    ]
    note = (
        "From the verdict at each batch size. The crossing is read off a straight line between the two measured batch "
        "sizes around it, on a logarithmic scale of rows; it is no measurement."
    )
    return table("crossover", "Batch size at which a method stops paying", columns, note)


def _pays(facts: Facts, arm: Arm, timed: list[int]) -> tuple[str, str, float | None]:
    points = [
        (b, s.verdict, r.value) for b in timed if (s := facts.speed.get((arm.label, b))) and (r := facts.ratio(arm, b))
    ]
    place = None
    for (b0, _, v0), (b1, _, v1) in itertools.pairwise(points):
        if v0 >= 1 > v1:
            place = 2 ** (math.log2(b0) + (math.log2(b1) - math.log2(b0)) * (v0 - 1) / (v0 - v1))
            break
    faster = [b for b, verdict, _ in points if verdict == "faster"]
    if len(faster) == len(points):
        return "at every batch size measured", "good", place
    if not faster:
        return (
            "not shown at any batch size",
            "bad" if all(v == "slower" for _, v, _ in points) else tone_of("open"),
            place,
        )
    after = [(b, verdict) for b, verdict, _ in points if b > faster[-1]]
    others = [(b, verdict) for b, verdict, _ in points if b < faster[-1] and verdict != "faster"]
    groups: dict[str, list[str]] = {}
    for b, verdict in [*others, *after]:
        groups.setdefault(_plainly(verdict), []).append(str(b))
    rest = "; ".join(f"{word} at {listed(sizes)}" for word, sizes in groups.items())
    return f"at batch size {listed(map(str, faster))}; {rest}", "open", place


def _plainly(verdict: str) -> str:
    return {"inconclusive": "open", "no difference detected": "no difference"}.get(verdict, verdict)
