"""What each figure shows, as numbers: a plot is data, and its caption and description come from the same data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats import Interval
from reports.cells import swatch
from reports.facts import Arm, Facts
from reports.parts import Figure, Swatch
from reports.settings import quality_setting, speed_setting
from reports.text import counted, fixed, label, listed, real

PLOT_LABEL = 30
PANEL_LABEL = 26


@dataclass(frozen=True)
class Point:
    """One arm in the quality-speed plane."""

    name: str
    swatch: Swatch
    speed: Interval
    quality: Interval
    front: bool


@dataclass(frozen=True)
class TradeOff:
    """Quality against realised speed-up at one batch size."""

    batch: int
    quality_axis: str
    higher_is_better: bool
    points: tuple[Point, ...]
    full_quality: float
    margin: float


@dataclass(frozen=True)
class Series:
    """One arm's realised and ideal speed-up by batch size."""

    name: str
    swatch: Swatch
    realised: tuple[tuple[int, Interval], ...]
    ideal: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ByBatch:
    """Speed-up against batch size, one panel per arm."""

    batches: tuple[int, ...]
    series: tuple[Series, ...]


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


@dataclass(frozen=True)
class HeatPanel:
    """Share of rows that ran block l at decode step k, [steps, L]."""

    name: str
    share: np.ndarray
    layers_per_token: float


@dataclass(frozen=True)
class Heat:
    """Layers by position, one panel per arm."""

    panels: tuple[HeatPanel, ...]


@dataclass(frozen=True)
class Curve:
    """An empirical distribution function: (milliseconds, share of steps at most that long)."""

    name: str
    swatch: Swatch
    ms: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True)
class StepTimes:
    """Distribution of the time between steps at one batch size: panels of curves, each beside full's."""

    batch: int
    full: Curve | None
    panels: tuple[tuple[str, tuple[Curve, ...]], ...]


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
    alt = f"Realised speed-up between batch sizes {batches[0]} and {batches[-1]}: {listed(changes, 30)}."
    caption = (
        "Solid line and filled signs: realised, with 95% intervals. Dashed line: ideal, if skipping "
        "were free. Grey lines: the other "
        f"arms. Below the line at 1 the arm is slower than the full model. {speed_setting(facts)}"
    )
    return Figure(
        "fig-by-batch", "Ideal and realised speed-up against batch size", caption, alt, ByBatch(batches, tuple(series))
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


def heat(facts: Facts) -> Figure | None:
    """Layers by position for every arm that does not simply run everything."""
    panels, sources = [], set()
    for arm in facts.arms:
        batch = facts.headline_batch
        timed = facts.speed.get((arm.label, batch)) if batch is not None else None
        cell = timed.cell if timed else next((facts.scored[k] for k in facts.scored if k[0] == arm.label), None)
        share = _matrix(cell.get("layers_by_position")) if cell else None
        if share is None or share.min() >= 1.0:
            continue
        sources.add(f"timed runs at batch size {batch}" if timed else "scored runs")
        panels.append(HeatPanel(label(arm.label, PANEL_LABEL), share, float(share.sum(axis=1).mean())))
    if not panels:
        return None
    steps, depth = panels[0].share.shape
    alt = (
        f"One panel per arm: block 1 to {depth} upwards, decode step 1 to {steps} to the right, "
        "darker where more rows ran the block. "
        f"Mean blocks per step: {listed([f'{p.name} {fixed(p.layers_per_token, 1)}' for p in panels], 30)}."
    )
    caption = (
        f"Share of rows that ran a block at a decode step, from the {listed(sorted(sources))}. The "
        "number in a title is blocks per step, "
        "averaged over the steps shown. An arm that runs every block at every step is not drawn."
    )
    return Figure("fig-layers", "Which blocks ran at which decode step", caption, alt, Heat(tuple(panels)))


def _matrix(rows: object) -> np.ndarray | None:
    if (
        not isinstance(rows, list)
        or not rows
        or any(not isinstance(r, list) or len(r) != len(rows[0]) or not r for r in rows)
    ):
        return None
    if any(real(v) is None for r in rows for v in r):
        return None
    share: np.ndarray = np.clip(np.asarray(rows, dtype=float), 0.0, 1.0)
    return share


def step_times(facts: Facts, batch: int) -> Figure | None:
    """Distribution of the time between steps at one batch size, one panel per method."""
    panels: dict[str, list[Curve]] = {}
    full = None
    for arm in facts.arms:
        timed = facts.speed.get((arm.label, batch))
        if timed is None or not timed.step_s:
            continue
        curve = _curve(plot_name(arm), swatch(arm), timed.step_s)
        if arm.baseline:
            full = curve
        else:
            panels.setdefault(arm.method, []).append(curve)
    if not panels and full is None:
        return None
    curves = [c for group in panels.values() for c in group] + ([full] if full else [])
    medians = [f"{c.name} {fixed(float(np.interp(0.5, c.share, c.ms)))} ms" for c in curves]
    alt = f"Distribution of the time between decode steps at batch size {batch}. Medians: {listed(medians, 30)}."
    caption = (
        "Empirical distribution over all steps of all repeats, cut at the 99th percentile; the full model is in every "
        f"panel. {speed_setting(facts)}"
    )
    plot = StepTimes(batch, full, tuple((label(method, PLOT_LABEL), tuple(group)) for method, group in panels.items()))
    return Figure(f"fig-steps-{batch}", f"Time between steps, batch size {batch}", caption, alt, plot)


def _curve(name: str, sign: Swatch, seconds: list[float]) -> Curve:
    """At most 120 points of the distribution function, so that a long run draws as small as a short one."""
    shares = np.linspace(0.0, 0.99, min(120, max(2, len(seconds))))
    ms = 1e3 * np.quantile(np.asarray(seconds), shares)
    return Curve(name, sign, tuple(float(v) for v in ms), tuple(float(v) for v in shares))
