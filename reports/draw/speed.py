"""Where speed comes from and goes: from target to realised, the parts of a decode step, batch sizes, the batch tax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from harness.stats.intervals import Interval
from reports.draw.canvas import (
    key,
    legend,
    line,
    method_id,
    named_ends,
    named_rows,
    panels,
    ratio_axis,
    shapes,
    signs,
    spans,
    title,
)
from reports.draw.style import Sheet, colour, look
from reports.facts.arms import Arm, parted
from reports.facts.facts import Facts
from reports.text import fixed, listed, span
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch
from reports.view.steps import step_parts


@dataclass(frozen=True)
class Promise:
    """One arm's way from target to realised speed-up."""

    name: str
    swatch: Swatch
    target: float | None
    layer_ratio: float | None
    byte_limit: float | None
    predicted: float | None
    realised: Interval | None

    @property
    def values(self) -> list[float]:
        """Those that are known."""
        realised = self.realised.value if self.realised else None
        return [v for v in (self.target, self.layer_ratio, self.byte_limit, self.predicted, realised) if v is not None]


@dataclass(frozen=True)
class Promises:
    """Target, layer ratio, byte limit, predicted and realised speed-up of every arm at one batch size."""

    batch: int
    rows: tuple[Promise, ...]


def promises(facts: Facts) -> Figure | None:
    """Target, executed, predicted and realised speed-up at the headline batch size."""
    batch = facts.headline_batch
    rows = []
    for arm in facts.others:
        timed = facts.speed.get((arm.label, batch)) if batch is not None else None
        if timed and not timed.unusable:
            predicted = timed.number("predicted_speedup")
            ratio = facts.ratio(arm, batch)
            executed, limit = timed.number("layer_ratio"), timed.number("byte_limit")
            row = Promise(arm.short, swatch(arm), arm.target, executed, limit, predicted, ratio)
            rows += [row] if row.values else []
    if batch is None or not any(r.realised for r in rows):
        return None
    told = []
    for r in rows:
        stations = {name: getattr(r, field) for name, (_, field) in _STATIONS.items()}
        stations["realised"] = r.realised.value if r.realised else None
        told.append(f"{r.name}: {', '.join(f'{k} {fixed(v)}' for k, v in stations.items() if v is not None)}")
    alt = f"Speed-up of each arm at batch size {batch}. {'; '.join(told)}."
    caption = (
        "Layer ratio: all blocks over those run for a token. Byte limit: weight bytes of a full step over those of the method's. "
        "Predicted: what the full model's own step gains with as few blocks. Realised: measured, with its 95% interval."
    )
    plot = Promises(batch, tuple(rows))
    return Figure("fig-promise", f"From target to realised speed-up, batch size {batch}", caption, alt, plot)


_STATIONS = {
    "target": ("d", "target"),
    "layer ratio": ("s", "layer_ratio"),
    "byte limit": ("v", "byte_limit"),
    "predicted": ("D", "predicted"),
}


def draw_promises(plot: Promises, sheet: Sheet) -> Canvas:
    """One row per arm: its stations, joined by a line, and the realised speed-up with its interval."""
    figure, on = named_rows([row.name for row in plot.rows], sheet, 15 if len(plot.rows) <= 16 else 11.5, 16)
    ratio_axis(on.xaxis, [1.0, *(v for row in plot.rows for v in row.values)], 9)
    keys = [key(name, "muted", shape) for name, (shape, _) in _STATIONS.items()]
    legend(figure, [*keys, key("realised, sign of the method", "ink", "o", "ink", lw=2.2)], sheet)
    on.axvline(1.0, color=colour("muted"), lw=0.8)
    spans(on, [((min(row.values), i), (max(row.values), i)) for i, row in enumerate(plot.rows)], "faint", 0.8, 1)
    for station, (marker, field) in _STATIONS.items():
        for i, row in enumerate(plot.rows):
            if (v := getattr(row, field)) is not None:
                shapes(
                    on, [(v, i)], marker, "muted", "paper", [f"{row.name}: {station} {fixed(v)}"], 5, swatch=row.swatch
                )
    for i, row in enumerate(plot.rows):
        if (v := row.realised) is not None:
            spans(on, [((v.low, i), (v.high, i))], look(row.swatch.method).colour, 2.2)
            signs(on, [(v.value, i)], row.swatch, [f"{row.name}: realised {fixed(v.value)} ({span(v.low, v.high)})"], 6)
    figure.supxlabel(f"Speed-up of decoding, batch size {plot.batch} (× full model)")
    return figure


def ends(facts: Facts) -> tuple[int, ...]:
    """The smallest and the largest batch size that were timed; one where they are the same, none where nothing was."""
    timed = [b for b in facts.batch_sizes if any((arm.label, b) in facts.speed for arm in facts.arms)]
    return tuple(dict.fromkeys((timed[0], timed[-1]))) if timed else ()


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
            rows.append(Broken(arm.short, tuple(parts.items())))
    if not rows:
        return None
    told = [f"{r.name}: {', '.join(f'{k} {fixed(v, 2)}' for k, v in r.parts)}" for r in rows]
    alt = f"Milliseconds of a decode step by part at batch size {batch}. {'; '.join(told)}."
    alone = len(rows) == 1 and len(facts.others) > 0
    caption = (
        f"{'Only the full model’s step was taken apart in this run. ' if alone else ''}"
        "Medians, per token that a step yields, of passes of their own with a clock around every part, which costs time "
        "too: read the parts beside each other, and speed elsewhere. The number at the end is their sum."
    )
    title = f"Time of one decode step by part, batch size {batch}"
    return Figure(f"fig-breakdown-{batch}", title, caption, alt, Breakdown(batch, tuple(rows)))


# From dark to light, so that neighbours differ in grey too.
PART_COLOURS = {
    "blocks": ("blue", 1.0),
    "attention": ("blue", 1.0),
    "feed-forward": ("sky", 0.8),
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
    figure, on = named_rows([row.name for row in plot.rows], sheet, 14 if len(plot.rows) <= 16 else 10.5, 16)
    before = [0.0] * len(plot.rows)
    keys = []
    for name in names:
        shade, alpha = PART_COLOURS.get(name, ("pink", 0.8))
        keys.append(key(name, shade, "s", shade, alpha=alpha, mew=0, ms=6))
        values = [max(dict(row.parts).get(name, 0.0), 0.0) for row in plot.rows]
        bars = on.barh(range(len(values)), values, 0.6, before, color=colour(shade), alpha=alpha, lw=0)
        for bar, row, value, total in zip(bars, plot.rows, values, totals, strict=True):
            bar.set_url(f"{row.name}: {name} {fixed(value, 3)} ms of {fixed(total, 3)} ms")
            bar.set_visible(value > 0)
        before = list(map(sum, zip(before, values, strict=True)))
    on.set_xlim(0, 1.1 * max(*totals, 1e-9))
    for i, (total, end) in enumerate(zip(totals, before, strict=True)):
        on.annotate(fixed(total, 2), (end, i), (3, 0), textcoords="offset points", va="center_baseline")
    legend(figure, keys, sheet)
    figure.supxlabel(f"Time of a decode step, batch size {plot.batch} (ms)")
    return figure


@dataclass(frozen=True)
class Series:
    """One arm's realised and predicted speed-up by batch size."""

    name: str
    swatch: Swatch
    realised: tuple[tuple[int, Interval], ...]
    predicted: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ByBatch:
    """Speed-up against batch size: a panel for each family of arms with its title, its arms named at the ends of their lines."""

    batches: tuple[int, ...]
    panels: tuple[tuple[str, tuple[Series, ...]], ...]


def families(arms: tuple[Arm, ...]) -> dict[str, list[Arm]]:
    """Arms by what they are settings of: one method, or all controls together."""
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault("Controls" if arm.control else arm.title or arm.method, []).append(arm)
    return found


def by_batch(facts: Facts) -> Figure | None:
    """Predicted and realised speed-up against batch size; None with fewer than two batch sizes."""
    made, told = [], []
    for family, arms in families(facts.others).items():
        series = []
        for arm, name in zip(arms, _within(family, arms), strict=True):
            realised = tuple((b, r) for b in facts.batch_sizes if (r := facts.ratio(arm, b)))
            timed = [(b, facts.speed.get((arm.label, b))) for b in facts.batch_sizes]
            predicted = tuple(
                (b, v) for b, s in timed if s and not s.unusable and (v := s.number("predicted_speedup")) is not None
            )
            if realised or predicted:
                series.append(Series(name, swatch(arm), realised, predicted))
            if realised:
                told.append(f"{arm.short} from {fixed(realised[0][1].value)} to {fixed(realised[-1][1].value)}")
        if series:
            made.append((family, tuple(series)))
    seen = {b for _, some in made for s in some for b, _ in (*s.realised, *s.predicted)}
    batches = tuple(b for b in facts.batch_sizes if b in seen)
    if len(batches) < 2:
        return None
    alt = f"Realised speed-up from batch size {batches[0]} to {batches[-1]}: {listed(told, 40)}."
    caption = (
        "Solid: realised, with 95% intervals. Dashed: predicted, if skipping were free. Below the line at 1 an arm is slower than "
        "the full model."
    )
    return Figure("fig-by-batch", "Speed-up against batch size", caption, alt, ByBatch(batches, tuple(made)))


def _within(family: str, arms: list[Arm]) -> tuple[str, ...]:
    """What tells the arms of a panel apart: their labels without the panel's title, or without what they have in common."""
    names = [arm.short for arm in arms]
    if all(name.startswith(f"{family} ") for name in names):
        return tuple(name.removeprefix(f"{family} ") for name in names)
    rest = parted(names)[1]
    return rest if all(rest) else tuple(names)


def draw_by_batch(plot: ByBatch, sheet: Sheet) -> Canvas:
    """Small multiples that share their axes, lines named at their right ends."""
    figure, made = panels(sheet, len(plot.panels), 108, wide=len(plot.panels) > 1, sharex=True, sharey=True)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    every = [v.value for _, some in plot.panels for s in some for _, v in s.realised]
    every += [v for _, some in plot.panels for s in some for _, v in s.predicted]
    names: list[tuple[Axes, tuple[float, float], str, Swatch]] = []
    for on, (family, some) in zip(made, plot.panels, strict=True):
        on.set(xlim=(-0.2, len(place) - 0.8))
        title(on, family, sheet)
        on.set_xticks(range(len(place)), list(map(str, plot.batches)))
        ratio_axis(on.yaxis, [1.0, *every])
        on.axhline(1.0, color=colour("muted"), lw=0.8)
        on.tick_params(labelbottom=True)
        for s in some:
            shade = look(s.swatch.method).colour
            line(on, [(place[b], v) for b, v in s.predicted], s.swatch, lw=0.9, ls=(0, (4, 2)), alpha=0.7)
            line(on, [(place[b], v.value) for b, v in s.realised], s.swatch)
            spans(on, [((place[b], v.low), (place[b], v.high)) for b, v in s.realised], shade, 1.2, 0.4)
            tips = [f"{family} {s.name}, batch {b}: {fixed(v.value)} ({span(v.low, v.high)})" for b, v in s.realised]
            signs(on, [(place[b], v.value) for b, v in s.realised], s.swatch, tips, 4)
        shown = [(s, s.realised[-1][0], s.realised[-1][1].value) for s in some if s.realised]
        shown += [(s, *s.predicted[-1]) for s in some if not s.realised and s.predicted]
        names += [(on, (place[b], v), s.name, s.swatch) for s, b, v in shown]
    figure.supxlabel("Batch size (rows)")
    figure.supylabel("Speed-up (× full model)")
    named_ends(figure, names, sheet)
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

    depth: int
    rows: tuple[Taxed, ...]


def tax(facts: Facts) -> Figure | None:
    """Batch tax of arms whose rows exit one by one; None where a batch computes what its rows need."""
    rows, depth = [], 0
    for arm in facts.others:
        found = []
        for batch in facts.batch_sizes:
            timed = facts.speed.get((arm.label, batch))
            keys = ("layers_per_token", "computed_layers_per_token", "depth")
            mean, computed, of = (timed.raw(k) if timed else None for k in keys)
            if mean is not None and computed is not None and of:
                found.append((batch, mean, computed))
                depth = max(depth, int(of))
        if arm.family in ("gate", "exit") and len(found) > 1 and any(c > m + 0.05 for _, m, c in found):
            rows.append(Taxed(arm.short, swatch(arm), tuple(found)))
    if not rows:
        return None
    told = [f"{r.name}: {fixed(r.depths[-1][1], 1)} needed, {fixed(r.depths[-1][2], 1)} computed" for r in rows]
    alt = f"Blocks a row needed and blocks the batch computed, at the largest batch size: {listed(told, 40)}."
    caption = "An exit is decided row by row, but a batched step ends only with its last row: the bar is what the others wait for."
    return Figure("fig-tax", "What a batch waits for its last row (batch tax)", caption, alt, Tax(depth, tuple(rows)))


def draw_tax(plot: Tax, sheet: Sheet) -> Canvas:
    """One row per arm and batch size: from what its rows needed to what the batch computed."""
    lines = [(row, *depths) for row in plot.rows for depths in row.depths]
    figure, on = named_rows([f"{row.name}, batch {b}" for row, b, *_ in lines], sheet, 11, 16)
    on.set_xlim(0, 1.04 * plot.depth)
    for i, (row, batch, mean, run) in enumerate(lines):
        spans(on, [((mean, i), (max(run, mean), i))], "faint", 5, 1)
        tips = f"{row.name}, batch {batch}: a row needed {fixed(mean, 1)} blocks, the batch computed {fixed(run, 1)}"
        shapes(on, [(mean, i)], "|", look(row.swatch.method).colour, "paper", [tips], 6, swatch=row.swatch)
        signs(on, [(run, i)], row.swatch, [tips], 5)
        on.get_yticklabels()[i].set_gid(method_id(row.swatch))
    legend(figure, [key("a row needed, mean", "ink", "|"), key("the batch computed", "ink", "o", "ink")], sheet)
    figure.supxlabel(f"Blocks per token, of {plot.depth}")
    return figure
