"""Speed by batch size: speed-up, throughput, and what exits row by row cost a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from harness.stats.intervals import Interval
from reports.draw.arms import PLOT_LABEL, plot_name
from reports.draw.canvas import (
    KEYED,
    arm_dashes,
    box_key,
    grid,
    key,
    keyed,
    legend,
    line,
    name_axes,
    plain,
    scale,
    segments,
    signs,
    title,
)
from reports.draw.style import Sheet, colour, look
from reports.facts.facts import Facts
from reports.text import fixed, label, listed, span
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch
from reports.view.settings import speed_setting

CROWD = 12
"""With more arms than this, lines of all the others behind each would be a thicket."""


@dataclass(frozen=True)
class Series:
    """One arm's realised and ideal speed-up by batch size."""

    name: str
    swatch: Swatch
    realised: tuple[tuple[int, Interval], ...]
    ideal: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ByBatch:
    """Speed-up against batch size, one panel per arm; with `others`, the other arms stand faintly behind each."""

    batches: tuple[int, ...]
    series: tuple[Series, ...]
    others: bool


def by_batch(facts: Facts) -> Figure | None:
    """Ideal and realised speed-up against batch size; None with fewer than two batch sizes."""
    series = []
    for arm in facts.others:
        realised = tuple((b, r) for b in facts.batch_sizes if (r := facts.ratio(arm, b)))
        timed = [(b, facts.speed.get((arm.label, b))) for b in facts.batch_sizes]
        ideal = tuple((b, v) for b, s in timed if s and (v := s.number("predicted_speedup")) is not None)
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


def draw_by_batch(plot: ByBatch, sheet: Sheet) -> Canvas:
    """One panel per arm: the ideal dashed, the realised with its intervals, the other arms behind."""
    keys = [
        key("realised, 95% interval", width=1.4, marker="o", inside="ink"),
        key("ideal", width=1.1, dash="4 2"),
        key("full model = 1", "muted", 0.8),
    ]
    behind = plot.series if plot.others else ()
    if behind:
        keys.append(key("other arms, realised", "faint", 0.8))
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    tops = [v.high for s in plot.series for _, v in s.realised] + [v for s in plot.series for _, v in s.ideal] + [1.0]
    figure, made = grid(sheet, len(plot.series), height=88, top=44)
    legend(figure, keys, sheet, 34)
    for on, series in zip(made, plot.series, strict=True):
        _places(on, plot.batches, 1.08 * max(tops))
        others = [[(place[b], v.value) for b, v in s.realised] for s in behind if s is not series]
        segments(on, others, "faint", 0.6)
        on.axhline(1.0, color=colour("muted"), lw=0.8)
        name = look(series.swatch.method).colour
        line(on, [(place[b], v) for b, v in series.ideal], name, 1.1, "4 2")
        line(on, [(place[b], v.value) for b, v in series.realised], name, 1.4)
        intervals = [[(place[b], v.low), (place[b], v.high)] for b, v in series.realised]
        segments(on, intervals, name, 2.4, 0.45)
        tips = [
            f"{series.name}, batch {b}: realised {fixed(v.value)} ({span(v.low, v.high)})" for b, v in series.realised
        ]
        signs(on, [(place[b], v.value) for b, v in series.realised], series.swatch, tips, 5)
        title(on, sheet, series.name)
    name_axes(figure, "Batch size (rows)", "Speed-up (× full model)", sheet)
    return figure


def _places(on: Axes, batches: Sequence[int], high: float, words: Callable[[float], str] = plain) -> None:
    """Batch sizes side by side, not to scale, and 0 to `high` upwards."""
    on.set(xlim=(-0.35, len(batches) - 0.65), xticks=range(len(batches)), xticklabels=list(map(str, batches)))
    scale(on.yaxis, 0.0, high, 5, words)


@dataclass(frozen=True)
class Rate:
    """One arm's tokens per second by batch size, all rows together."""

    name: str
    swatch: Swatch
    rates: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Rates:
    """Throughput against batch size: panels of arms, each beside full's."""

    batches: tuple[int, ...]
    full: Rate | None
    panels: tuple[tuple[str, tuple[Rate, ...]], ...]


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


def draw_rates(plot: Rates, sheet: Sheet) -> Canvas:
    """One panel per method, its arms told apart by dashes, each beside full's."""
    first = (plot.full,) if plot.full else ()
    rows = [(*first, *group) for _, group in plot.panels or (("", ()),)]
    above = [KEYED * sheet.small * len(shown) + 4 for shown in rows]
    figure, made = grid(sheet, len(rows), height=88, left=46, top=8, gap_y=16, above=above)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    high = 1.06 * max(v for shown in rows for c in shown for _, v in c.rates)
    for on, shown in zip(made, rows, strict=True):
        _places(on, plot.batches, high, "{:,.0f}".format)
        keys = []
        for curve, dash in zip(shown, arm_dashes(len(shown), bool(first)), strict=True):
            points, drawn = [(place[b], v) for b, v in curve.rates], look(curve.swatch.method)
            line(on, points, drawn.colour, 1.3, dash)
            inside = "paper" if curve.swatch.hollow else drawn.colour
            keys.append(key(curve.name, drawn.colour, 1.3, dash, drawn.marker, inside))
            tips = [f"{curve.name}, batch {b}: {v:,.0f} tokens/s" for b, v in curve.rates]
            signs(on, points, curve.swatch, tips, 4)
        keyed(on, sheet, keys)
    name_axes(figure, "Batch size (rows)", "Tokens per second, all rows", sheet)
    return figure


@dataclass(frozen=True)
class Taxed:
    """One arm: (batch size, blocks a row needed on average, blocks the batch computed per token)."""

    name: str
    swatch: Swatch
    depths: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Tax:
    """What is lost because a batched step ends only when its last row exits, by batch size."""

    batches: tuple[int, ...]
    depth: int
    rows: tuple[Taxed, ...]


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
        if arm.family in ("gate", "exit") and len(found) > 1 and any(c > m + 0.05 for _, m, c in found):
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


def draw_tax(plot: Tax, sheet: Sheet) -> Canvas:
    """One panel per arm: what its rows needed dashed, what the batch computed solid, bars between."""
    keys = (
        key("blocks the batch computed (its last row decides)", width=1.4, marker="o", inside="ink"),
        key("blocks a row needed, mean", width=1.1, dash="4 2"),
        box_key("the tax", "faint"),
    )
    figure, made = grid(sheet, len(plot.rows), height=88, top=44)
    legend(figure, keys, sheet, 34 if sheet.column > 300 else 4)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    for on, row in zip(made, plot.rows, strict=True):
        _places(on, plot.batches, 1.06 * plot.depth)
        xs = [place[b] for b, _, _ in row.depths]
        needed, computed = [mean for _, mean, _ in row.depths], [run for _, _, run in row.depths]
        taxed = [[(x, mean), (x, max(mean, run))] for x, mean, run in zip(xs, needed, computed, strict=True)]
        segments(on, taxed, "faint", 7)
        name = look(row.swatch.method).colour
        line(on, list(zip(xs, needed, strict=True)), name, 1.1, "4 2")
        line(on, list(zip(xs, computed, strict=True)), name, 1.4)
        tips = [
            f"{row.name}, batch {b}: a row needed {fixed(mean, 1)} blocks, the batch computed {fixed(run, 1)}"
            for b, mean, run in row.depths
        ]
        signs(on, list(zip(xs, computed, strict=True)), row.swatch, tips, 5)
        title(on, sheet, row.name)
    name_axes(figure, "Batch size (rows)", f"Blocks per token, of {plot.depth}", sheet)
    return figure
