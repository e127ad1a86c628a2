"""Where speed comes from and goes: from the target to the realised speed-up, and the parts of a decode step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure as Canvas

from harness.stats.intervals import Interval
from reports.draw.arms import ends, plot_name
from reports.draw.canvas import (
    box_key,
    key,
    legend,
    legend_height,
    name_axes,
    named_rows,
    scale,
    segments,
    shapes,
    signs,
)
from reports.draw.style import Sheet, colour, look
from reports.draw.svg import text_width
from reports.facts.facts import Facts
from reports.text import fixed, span
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch
from reports.view.settings import speed_setting
from reports.view.steps import step_parts


@dataclass(frozen=True)
class Promise:
    """One arm's way from target to realised speed-up."""

    name: str
    swatch: Swatch
    target: float | None
    layer_ratio: float | None
    ideal: float | None
    realised: Interval | None

    @property
    def values(self) -> list[float]:
        """Those that are known."""
        realised = self.realised.value if self.realised else None
        return [v for v in (self.target, self.layer_ratio, self.ideal, realised) if v is not None]


@dataclass(frozen=True)
class Promises:
    """Target, layer ratio, ideal and realised speed-up of every arm at one batch size."""

    batch: int
    rows: tuple[Promise, ...]


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
                timed.number("predicted_speedup"),
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


_STATIONS = {"target": ("d", "target"), "layer ratio": ("s", "layer_ratio"), "ideal": ("D", "ideal")}


def draw_promises(plot: Promises, sheet: Sheet) -> Canvas:
    """One row per arm: its stations, joined by a line, and the realised speed-up with its interval."""
    keys = [key(name, "muted", marker=shape) for name, (shape, _) in _STATIONS.items()]
    keys.append(key("realised, 95% interval (sign of the method)", "ink", 2.2, marker="o", inside="ink"))
    left = 0.3 * sheet.column if sheet.column > 300 else 4
    every = [v for row in plot.rows for v in row.values]
    every += [v for row in plot.rows if row.realised for v in (row.realised.low, row.realised.high)]
    low, high = min(0.9, *every), max(1.0, *every)
    bounds = low - 0.04 * (high - low), high + 0.04 * (high - low)
    top = legend_height(keys, sheet, left, sheet.column) + 10
    figure, on = named_rows([row.name for row in plot.rows], sheet, pitch=17, top=top, right=10)
    scale(on.xaxis, *bounds, 8)
    legend(figure, keys, sheet, left)
    on.axvline(1.0, color=colour("muted"), lw=0.8)
    segments(on, [[(min(row.values), i), (max(row.values), i)] for i, row in enumerate(plot.rows)], "faint", 0.8)
    for station, (marker, field) in _STATIONS.items():
        known = [(i, row, v) for i, row in enumerate(plot.rows) if (v := getattr(row, field)) is not None]
        tips = [f"{row.name}: {station} {fixed(v)}" for _, row, v in known]
        shapes(on, [(v, i) for i, _, v in known], marker, "muted", "paper", tips, 6)
    for i, row in enumerate(plot.rows):
        if (v := row.realised) is not None:
            segments(on, [[(v.low, i), (v.high, i)]], look(row.swatch.method).colour, 2.2, 0.6)
            signs(
                on, [(v.value, i)], row.swatch, [f"{row.name}: realised {fixed(v.value)} ({span(v.low, v.high)})"], 6.5
            )
    name_axes(figure, f"Speed-up of decoding, batch size {plot.batch} (× full model)", "", sheet)
    return figure


@dataclass(frozen=True)
class Broken:
    """One arm's decode step: (part, milliseconds)."""

    name: str
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a decode step goes, arm by arm, at one batch size."""

    batch: int
    rows: tuple[Broken, ...]


def breakdowns(facts: Facts) -> Iterator[Figure]:
    """At the smallest and the largest timed batch size."""
    return filter(None, (breakdown(facts, batch) for batch in ends(facts)))


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


# From dark to light, so that neighbours differ in grey too.
PART_COLOURS = {
    "blocks": ("blue", 1.0),
    "head": ("green", 0.55),
    "exit tests": ("orange", 1.0),
    "K/V fill": ("amber", 0.5),
    "embedding": ("ink", 0.75),
    "host and rest": ("grey", 0.4),
}


def draw_breakdown(plot: Breakdown, sheet: Sheet) -> Canvas:
    """One bar per arm, its parts one after the other and their sum at the end."""
    names = [part for part in PART_COLOURS if any(part in dict(row.parts) for row in plot.rows)]
    names += sorted({part for row in plot.rows for part, _ in row.parts} - set(names))
    totals = [sum(v for _, v in row.parts) for row in plot.rows]
    right = text_width(fixed(max(totals), 2), sheet.small) + 14  # for the sum at the end of a bar
    figure, on = named_rows([row.name for row in plot.rows], sheet, pitch=16, top=24, right=right)
    scale(on.xaxis, 0.0, max(totals), 8)
    looks = {name: PART_COLOURS.get(name, ("pink", 0.8)) for name in names}
    keys = [box_key(name, shade, alpha) for name, (shade, alpha) in looks.items()]
    legend(figure, keys, sheet, 34 if sheet.column > 300 else 4)
    before = [0.0] * len(plot.rows)
    for name, (shade, alpha) in looks.items():
        values = [max(dict(row.parts).get(name, 0.0), 0.0) for row in plot.rows]
        bars = on.barh(range(len(values)), values, 0.6, before, color=colour(shade), alpha=alpha, lw=0, clip_on=False)
        for bar, row, value, total in zip(bars, plot.rows, values, totals, strict=True):
            bar.set_url(f"{row.name}: {name} {fixed(value, 3)} ms of {fixed(total, 3)} ms")
            bar.set_visible(value > 0)
        before = list(map(sum, zip(before, values, strict=True)))
    for i, (total, end) in enumerate(zip(totals, before, strict=True)):
        on.annotate(
            fixed(total, 2), (end, i), (4, 0), textcoords="offset points", va="center_baseline", color=colour("muted"),
            annotation_clip=False,
        )  # fmt: skip
    name_axes(figure, f"Time of a decode step, batch size {plot.batch} (ms)", "", sheet)
    return figure
