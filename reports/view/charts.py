"""From facts to the plots about quality and speed, each with its caption and its description in words."""

from __future__ import annotations

from harness.stats.intervals import Interval
from reports.facts.facts import Arm, Facts
from reports.text import counted, fixed, label, listed
from reports.view.cells import swatch
from reports.view.parts import Figure
from reports.view.plots import (
    Breakdown,
    Broken,
    ByBatch,
    Point,
    Promise,
    Promises,
    Rate,
    Rates,
    Series,
    Tax,
    Taxed,
    TradeOff,
)
from reports.view.settings import quality_setting, speed_setting
from reports.view.steps import step_parts

PLOT_LABEL = 30
CROWD = 12
"""With more arms than this, lines of all the others behind each would be a thicket."""


def plot_name(arm: Arm) -> str:
    """The label of an arm as figures show it."""
    return label(arm.label, PLOT_LABEL)


def trade_off(facts: Facts, task: str, batch: int, ident: str) -> Figure | None:
    """Quality against speed for one task at one batch size; None with no arm but full to show."""
    full, metric = facts.baseline, facts.tasks[task][0]
    base = facts.quality.get((full.label, task, metric.name)) if full else None
    if full is None or base is None or not base.value.known or (full.label, batch) not in facts.speed:
        return None
    found: list[tuple[Arm, Interval, Interval]] = []
    for arm in facts.arms:
        speed = Interval(1.0, 1.0, 1.0, 0) if arm is full else facts.ratio(arm, batch)
        quality = facts.quality.get((arm.label, task, metric.name))
        if speed and quality and quality.value.known:
            found.append((arm, speed, quality.value))
    if len(found) < 2:
        return None
    up = metric.better != "lower"
    places = [(s.value, q.value if up else -q.value) for _, s, q in found]
    front = [not any(o != p and o[0] >= p[0] and o[1] >= p[1] for o in places) for p in places]
    points = tuple(Point(plot_name(a), swatch(a), s, q, f) for (a, s, q), f in zip(found, front, strict=True))
    unit = f" ({metric.unit})" if metric.unit and metric.unit.lower() != metric.title.lower() else ""
    best = [p for p in points if p.front]
    alt = (
        f"Scatter plot of {metric.title} on {label(task)} against realised speed-up at batch size {batch} "
        f"for {counted(len(points), 'arm')}. "
        "On the Pareto front: "
        f"{listed([f'{p.name} ({fixed(p.speed.value)} times, {fixed(p.quality.value, 1)})' for p in best], 20)}."
    )
    caption = (
        f"Upper right is better{'' if up else ' turned over: lower values are better'}. Bars are 95% "
        "intervals on both axes; the line is the "
        f"Pareto front; the band is the margin of {fixed(facts.margin, 1)} around the full model; "
        "hollow signs are schedules on weights "
        f"not trained for them. {speed_setting(facts)} {quality_setting(facts, task)}"
    )
    plot = TradeOff(
        batch, f"{metric.title} on {label(task, PLOT_LABEL)}{unit}", up, points, base.value.value, facts.margin
    )
    return Figure(ident, f"{metric.title} on {label(task)} against speed, batch size {batch}", caption, alt, plot)


def by_batch(facts: Facts) -> Figure | None:
    """Ideal and realised speed-up against batch size; None with fewer than two batch sizes."""
    series = []
    for arm in facts.others:
        realised = tuple((b, r) for b in facts.batch_sizes if (r := facts.ratio(arm, b)))
        timed = [(b, facts.speed.get((arm.label, b))) for b in facts.batch_sizes]
        ideal = tuple((b, v) for b, s in timed if s and (v := s.number("ideal_speedup")) is not None)
        if realised or ideal:
            series.append(Series(plot_name(arm), swatch(arm), realised, ideal))
    batches = tuple(b for b in facts.batch_sizes if any(b == x for s in series for x, _ in (*s.realised, *s.ideal)))
    if len(batches) < 2:
        return None
    changes = [
        f"{s.name} from {fixed(s.realised[0][1].value)} to {fixed(s.realised[-1][1].value)}"
        for s in series
        if s.realised
    ]
    others = len(series) <= CROWD
    alt = f"Realised speed-up between batch sizes {batches[0]} and {batches[-1]}: {listed(changes, 30)}."
    caption = (
        "Solid line and filled signs: realised, with 95% intervals. Dashed line: ideal, if skipping "
        f"were free.{' Grey lines: the other arms.' if others else ''} Below the line at 1 the arm is slower than the full "
        f"model. {speed_setting(facts)}"
    )
    return Figure(
        "fig-by-batch",
        "Ideal and realised speed-up against batch size",
        caption,
        alt,
        ByBatch(batches, tuple(series), others),
    )


def promises(facts: Facts) -> Figure | None:
    """Target, executed, ideal and realised speed-up at the headline batch size."""
    batch = facts.headline_batch
    rows = []
    for arm in facts.others:
        timed = facts.speed.get((arm.label, batch)) if batch is not None else None
        if timed:
            row = Promise(
                plot_name(arm),
                swatch(arm),
                arm.target,
                timed.number("layer_ratio"),
                timed.number("ideal_speedup"),
                facts.ratio(arm, batch),
            )
            rows += [row] if row.values else []
    if batch is None or not any(r.realised for r in rows):
        return None
    told = []
    for r in rows:
        stations = {"target": r.target, "layer ratio": r.layer_ratio, "ideal": r.ideal}
        stations["realised"] = r.realised.value if r.realised else None
        told.append(f"{r.name}: {', '.join(f'{k} {fixed(v)}' for k, v in stations.items() if v is not None)}")
    alt = f"Speed-up of each arm at batch size {batch}. {'; '.join(told)}."
    caption = (
        "Layer ratio: depth over blocks executed per token. Ideal: predicted from the full model's own block "
        "and head times. Realised: measured, "
        f"with its 95% interval. {speed_setting(facts)}"
    )
    return Figure(
        "fig-promise", f"Where the promise goes, batch size {batch}", caption, alt, Promises(batch, tuple(rows))
    )


def rates(facts: Facts) -> Figure | None:
    """Tokens per second against batch size, one panel per method; None with fewer than two batch sizes."""
    panels: dict[str, list[Rate]] = {}
    full = None
    for arm in facts.arms:
        timed = [(b, facts.speed.get((arm.label, b))) for b in facts.batch_sizes]
        found = tuple((b, v) for b, s in timed if s and (v := s.number("tokens_per_s")) is not None)
        if not found:
            continue
        rate = Rate(plot_name(arm), swatch(arm), found)
        if arm.baseline:
            full = rate
        else:
            panels.setdefault(arm.method, []).append(rate)
    every = [r for group in panels.values() for r in group] + ([full] if full else [])
    batches = tuple(b for b in facts.batch_sizes if any(b == x for r in every for x, _ in r.rates))
    if len(batches) < 2:
        return None
    told = [f"{r.name} {fixed(r.rates[0][1], 0)} to {fixed(r.rates[-1][1], 0)}" for r in every]
    alt = f"Tokens per second of all rows from batch size {batches[0]} to {batches[-1]}: {listed(told, 30)}."
    caption = (
        "Tokens per second over the whole batch while decoding, prompts not counted; the full model is in every panel. "
        f"{speed_setting(facts)}"
    )
    plot = Rates(batches, full, tuple((label(m, PLOT_LABEL), tuple(group)) for m, group in panels.items()))
    return Figure("fig-rates", "Tokens per second against batch size", caption, alt, plot)


def tax(facts: Facts) -> Figure | None:
    """Batch tax of arms whose rows exit one by one; None where a batch computes what its rows need."""
    rows, depth = [], 0
    for arm in facts.others:
        found = []
        for batch in facts.batch_sizes:
            timed = facts.speed.get((arm.label, batch))
            mean, computed = (
                timed.raw(k) if timed else None for k in ("layers_per_token", "computed_layers_per_token")
            )
            if timed and mean is not None and computed is not None and timed.raw("depth"):
                found.append((batch, mean, computed))
                depth = max(depth, int(timed.raw("depth") or 0))
        if arm.family == "exit" and len(found) > 1 and any(c > m + 0.05 for _, m, c in found):
            rows.append(Taxed(plot_name(arm), swatch(arm), tuple(found)))
    if not rows:
        return None
    told = [f"{r.name}: {fixed(r.depths[-1][1], 1)} needed, {fixed(r.depths[-1][2], 1)} computed" for r in rows]
    batches = tuple(b for b in facts.batch_sizes if any(b == x for r in rows for x, _, _ in r.depths))
    alt = f"Blocks a row needed and blocks the batch computed, at batch size {batches[-1]}: {listed(told, 30)}."
    caption = (
        "An exit is decided row by row, but a batched step ends only with its last row: the bar is what the other rows "
        f"wait for. {speed_setting(facts)}"
    )
    return Figure("fig-tax", "Batch tax of per-token exits", caption, alt, Tax(batches, depth, tuple(rows)))


def breakdown(facts: Facts, batch: int) -> Figure | None:
    """Where the time of a decode step goes at one batch size; None where no cell says."""
    rows = []
    for arm in facts.arms:
        timed = facts.speed.get((arm.label, batch))
        parts = step_parts(timed, baseline=arm.baseline) if timed else {}
        if parts:
            rows.append(Broken(plot_name(arm), tuple(parts.items())))
    if not rows:
        return None
    told = [f"{r.name}: {', '.join(f'{k} {fixed(v, 2)}' for k, v in r.parts)}" for r in rows]
    alt = f"Milliseconds of a decode step by part at batch size {batch}. {'; '.join(told)}."
    alone = len(rows) == 1 and len(facts.others) > 0
    caption = (
        f"{'Only the full model’s step was taken apart in this run. ' if alone else ''}"
        "Medians, per token that a step yields, of passes of their own with a clock around every part, which costs time "
        "too: read the parts beside each other, and speed elsewhere. The number at the end is their sum in milliseconds. "
        f"{speed_setting(facts)}"
    )
    title = f"Time of one decode step by part, batch size {batch}"
    return Figure(f"fig-breakdown-{batch}", title, caption, alt, Breakdown(batch, tuple(rows)))
