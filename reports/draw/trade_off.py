"""Quality against speed: one curve for each method through its settings, named once; the settings stand small at the points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from harness.records.limits import BASELINE
from harness.stats.intervals import Interval
from reports.draw.canvas import blank, lay_out, line, method_id, ratio_axis, shapes, signs, spans, wrapped
from reports.draw.style import Sheet, colour, look
from reports.draw.svg import text_width
from reports.facts.arms import curves
from reports.facts.facts import Facts
from reports.facts.judge import informative
from reports.text import counted, fixed, label, listed, span
from reports.view.answer import few, timed
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch

FAR = 22.0
"""Points between a mark and its words from which a line leads from one to the other."""

USEFUL = 0.25
"""Who loses more than this share of the full model's score is of no use: such points stand at the lower edge, as arrows."""


@dataclass(frozen=True)
class Point:
    """One arm in the quality-speed plane."""

    label: str
    setting: str
    speed: Interval
    quality: Interval


@dataclass(frozen=True)
class Line:
    """One method through its settings."""

    name: str
    swatch: Swatch
    control: bool
    points: tuple[Point, ...]
    named: bool = True
    """Not the full model on other weights, which the legend explains."""


@dataclass(frozen=True)
class TradeOff:
    """Quality against realised speed-up at one batch size; `quality` is the full model's, and the points are not turned over."""

    batch: int
    axis: str
    higher_is_better: bool
    lines: tuple[Line, ...]
    quality: float
    margin: float


def trade_offs(facts: Facts) -> Iterator[Figure]:
    """Every task that can show a loss, at the batch sizes the answer speaks of."""
    for task in informative(facts) or facts.tasks:
        for batch in few(timed(facts)):
            if figure := trade_off(facts, task, batch):
                yield figure


def trade_off(facts: Facts, task: str, batch: int) -> Figure | None:
    """Quality against speed for one task at one batch size; None with no arm but full to show."""
    full, metric = facts.baseline, facts.tasks[task][0]
    base = facts.quality.get((full.label, task, metric.name)) if full else None
    if full is None or base is None or not base.value.known or (full.label, batch) not in facts.speed:
        return None
    lines = []
    for curve in curves(facts.others):
        points = []
        for arm, setting in zip(curve.arms, curve.settings, strict=True):
            speed, quality = facts.ratio(arm, batch), facts.quality.get((arm.label, task, metric.name))
            if speed and quality and quality.value.known:
                points.append(Point(arm.short, setting, speed, quality.value))
        if points:
            first = curve.arms[0]
            named = first.method != BASELINE or first.shallower
            lines.append(Line(curve.name, swatch(first), first.control, tuple(points), named))
    if not lines:
        return None
    unit = f", {metric.unit}" if metric.unit and metric.unit.lower() != metric.title.lower() else ""
    told = [
        f"{p.label} ({fixed(p.speed.value)} times, {fixed(p.quality.value, 1)})" for one in lines for p in one.points
    ]
    alt = (
        f"{metric.title} on {label(task)} against decode speed at batch size {batch}, {counted(len(told), 'arm')}; the full "
        f"model scores {fixed(base.value.value, 1)}. {listed(told, 40)}."
    )
    better = "Up and right is better" if metric.better != "lower" else "Up and right is better: the axis is turned over"
    caption = (
        f"{better}. Curve: one method at several settings. Bars: 95% intervals. Band: the margin of "
        f"{metric.margin(facts.margin, base.value.value):.3g}. Grey: controls. Hollow: weights not trained for it."
    )
    plot = TradeOff(
        batch, f"{metric.title} on {label(task)}{unit}", metric.better != "lower", tuple(lines), base.value.value,
        metric.margin(facts.margin, base.value.value),
    )  # fmt: skip
    low, high = _useful(plot, [p for one in lines for p in one.points])
    if any(_worse(plot, p, low, high) for one in lines for p in one.points):
        lost = [f"{one.name} ({_ends(one)})" for one in lines if _lost(plot, one, low, high)]
        caption += f" At the lower edge: worse than shown{': ' if lost else ''}{listed(lost, 40)}."
    title = f"{metric.title} on {label(task)} against speed, batch size {batch}"
    return Figure(f"fig-trade-{task_id(task)}-{batch}", title, caption, alt, plot)


def task_id(task: str) -> str:
    """Return a task's name as an id may hold it."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in task)[:40]


def draw(plot: TradeOff, sheet: Sheet) -> Canvas:
    """Curves over the useful range of quality; what lies below it stands at the edge."""
    figure = blank(sheet.column, 176 * sheet.tall + 26)
    on = figure.subplots()
    every = [p for one in plot.lines for p in one.points]
    low, high = _useful(plot, every)
    ratio_axis(on.xaxis, [1.0, *(p.speed.value for p in every)])
    on.set_ylim((low, high) if plot.higher_is_better else (high, low))
    on.axhspan(plot.quality - plot.margin, plot.quality + plot.margin, color=colour("band"), lw=0, zorder=0.2)
    on.axvline(1.0, color=colour("muted"), lw=0.8)
    on.set(
        xlabel=f"Decode speed, batch size {plot.batch} (× full model)",
        ylabel=wrapped(plot.axis, sheet, 165 * sheet.tall),
    )
    full = Swatch(BASELINE)
    for one in sorted(plot.lines, key=lambda one: not one.control):
        shade = "grey" if one.control else look(one.swatch.method).colour
        inside = [p for p in one.points if low <= p.quality.value <= high]
        crosses = [((p.speed.low, p.quality.value), (p.speed.high, p.quality.value)) for p in inside]
        crosses += [((p.speed.value, p.quality.low), (p.speed.value, p.quality.high)) for p in inside]
        spans(on, crosses, shade, 0.8, 0.4)
        every_point = [(p.speed.value, min(max(p.quality.value, low), high)) for p in one.points]
        if one.swatch.method != full.method:
            line(on, every_point, one.swatch, shade, lw=1.3)
        tips = [
            f"{p.label}: {fixed(p.speed.value)} times ({span(p.speed.low, p.speed.high)}), {plot.axis} "
            f"{fixed(p.quality.value, 1)} ({span(p.quality.low, p.quality.high, 1)})"
            for p in one.points
        ]
        kept = [i for i, p in enumerate(one.points) if p in inside]
        at, said = [every_point[i] for i in kept], [tips[i] for i in kept]
        if one.swatch.method == full.method:  # on other weights: nothing is skipped, so it has no curve
            shapes(on, at, look(full.method).marker, shade, "paper", said, 4, swatch=full)
        else:
            signs(on, at, one.swatch, said, 5.5)
        for i in set(range(len(one.points))) - set(kept):
            down = _worse(plot, one.points[i], low, high)
            shapes(on, [every_point[i]], "v" if down else "^", shade, shade, [tips[i]], 5, 0, one.swatch)
    signs(on, [(1.0, plot.quality)], full, [f"Full model: {plot.axis} {fixed(plot.quality, 1)}"], 6.5)
    _write(figure, on, plot, low, high, sheet)
    return figure


def _useful(plot: TradeOff, every: Sequence[Point]) -> tuple[float, float]:
    """The range of quality that is shown: from the worst point that is of use to the best, the full model in it."""
    limit = USEFUL * abs(plot.quality)
    near = [p.quality.value for p in every if abs(p.quality.value - plot.quality) <= limit]
    if not near:
        near = [min((p.quality.value for p in every), key=lambda v: abs(v - plot.quality))]
    low, high = min([*near, plot.quality - plot.margin]), max([*near, plot.quality + plot.margin])
    pad = 0.12 * (high - low or 1.0)
    return low - pad, high + pad


def _worse(plot: TradeOff, point: Point, low: float, high: float) -> bool:
    """Whether a point lies below the range that is shown, above it where less is better."""
    return point.quality.value < low if plot.higher_is_better else point.quality.value > high


def _lost(plot: TradeOff, one: Line, low: float, high: float) -> bool:
    """Whether all of a curve does."""
    return all(_worse(plot, p, low, high) for p in one.points)


def _ends(one: Line) -> str:
    """The worst and the best of a curve's scores."""
    values = sorted(p.quality.value for p in one.points)
    return " to ".join(dict.fromkeys(fixed(v, 1) for v in (values[0], values[-1])))


_AROUND = [
    (d * math.cos(math.radians(a)), d * math.sin(math.radians(a)))
    for d in (8, 13, 19, 27, 36, 46, 58)
    for a in (0, 35, -35, 90, -90, 150, -150, 180)
]
_Box = tuple[float, float, float, float]


class _Writer:
    """Puts words where there is room on Axes that are laid out; lengths are points."""

    def __init__(self, on: Axes) -> None:
        self.on, self.taken, self.words = on, list[_Box](), list[_Box]()

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where data values lie."""
        found = self.on.transData.transform((x, y))
        return float(found[0]), float(found[1])

    def keep(self, x: float, y: float, reach: float) -> None:
        """Write nothing over this place."""
        self.taken.append((x - reach, y - reach, x + reach, y + reach))

    def write(
        self, words: str, spots: Sequence[tuple[float, float]], shade: str, owner: Swatch, must: bool, **how: Any
    ) -> None:
        """Write words beside one of the spots; where all places are taken, at the best one or not at all."""
        size = how["size"]
        wide, area = text_width(words, size) * (1.12 if "weight" in how else 1) + 2, self.on.bbox
        best, side, least = None, "left", math.inf
        for (dx, dy), (x, y) in itertools.product(_AROUND, spots):
            to = "right" if dx < -4 else "center" if dx < 4 else "left"
            x0 = x + dx - {"right": wide, "center": wide / 2, "left": 0}[to]
            box = (x0, y + dy - size / 2, x0 + wide, y + dy + size / 2)
            out = box[0] < area.x0 + 1 or box[2] > area.x1 + 6 or box[1] < area.y0 or box[3] > area.y1 + 6
            hit, over = (
                sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in some)
                for some in (self.taken, self.words)
            )
            if (cost := hit + 10 * over + 50 * out + math.hypot(dx, dy) / 100) < least:
                best, side, least = box, to, cost
        if best is not None and (must or least < 1):
            self.words.append(best)
            self._lead(best, spots, shade, owner)
            # Held at the end that is near the mark: fonts differ in how wide they are.
            x = {"right": best[2], "center": (best[0] + best[2]) / 2, "left": best[0]}[side]
            made = self.on.annotate(
                words, (x, (best[1] + best[3]) / 2), xycoords="figure pixels", ha=side, va="center_baseline",
                color=colour(shade), annotation_clip=False, **how,
            )  # fmt: skip
            made.set_in_layout(False)
            made.set_gid(method_id(owner))

    def _lead(self, box: _Box, spots: Sequence[tuple[float, float]], shade: str, owner: Swatch) -> None:
        """Words that had to stand far from their place are led to it by a thin line."""
        ends = [((min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])), (x, y)) for x, y in spots]
        end, at = min(ends, key=lambda pair: math.dist(*pair))
        if math.dist(end, at) > FAR:
            made = self.on.annotate(
                "", at, end, xycoords="figure pixels", textcoords="figure pixels", annotation_clip=False,
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": colour(shade), "shrinkA": 0, "shrinkB": 3},
            )  # fmt: skip
            made.set_in_layout(False)
            made.set_gid(method_id(owner))


def _write(figure: Canvas, on: Axes, plot: TradeOff, low: float, high: float, sheet: Sheet) -> None:
    """Name every curve once, in its colour, where there is room beside one of its points; then the settings that have room."""
    lay_out(figure)
    writer = _Writer(on)
    full = writer.place(1.0, plot.quality)
    writer.keep(*full, 4)
    places = {}
    for one in plot.lines:
        found = [writer.place(p.speed.value, min(max(p.quality.value, low), high)) for p in one.points]
        places[one] = found
        for at in found:
            writer.keep(*at, 3)
        for (x0, y0), (x1, y1) in itertools.pairwise(found):
            steps = max(2, int(math.dist((x0, y0), (x1, y1)) / 5))
            for s in range(1, steps):
                writer.keep(x0 + (x1 - x0) * s / steps, y0 + (y1 - y0) * s / steps, 1)
    writer.write("full model", [full], "ink", Swatch(BASELINE), True, size=sheet.small)
    for one in sorted(plot.lines, key=lambda one: (one.control and one.swatch.method != BASELINE, -len(one.points))):
        if not one.named:
            continue
        shown, ends = [low <= p.quality.value <= high for p in one.points], places[one]
        words = one.name if any(shown) else f"{one.name}: {_ends(one)}"
        spots = [ends[-1], ends[0], ends[len(ends) // 2]]
        shade = "grey" if one.control else look(one.swatch.method).colour
        must = not _lost(plot, one, low, high)  # the others are named in the caption
        writer.write(words, spots, shade, one.swatch, must, size=sheet.small, weight="bold")
    for one in plot.lines:
        for p, at in zip(one.points, places[one], strict=True):
            if p.setting and low <= p.quality.value <= high:
                writer.write(p.setting, [at], "muted", one.swatch, False, size=0.86 * sheet.small)
