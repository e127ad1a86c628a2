"""What is spread: blocks over positions, tokens over depths, steps over times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from harness.records.cells import QualityCell, SpeedCell
from reports.draw.canvas import line, named_ends, panels, ratio_axis, title
from reports.draw.speed import ends, families
from reports.draw.style import SHARE_RGB, Sheet, colour, look
from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.text import fixed, listed
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch


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


def heat(facts: Facts) -> Figure | None:
    """Layers by position for every arm that leaves blocks out; drafts, whose tokens all end at full depth, are not among them."""
    made, sources = [], set()
    for arm in facts.arms:
        cell, source = _counted(facts, arm)
        for name, share in _shares(arm, cell):
            sources.add(source)
            made.append(HeatPanel(name, share, float(share.sum(axis=1).mean())))
    if not made:
        return None
    steps, depth = made[0].share.shape
    told = [f"{p.name} {fixed(p.layers_per_token, 1)}" for p in made]
    alt = (
        f"One panel per arm: block 1 to {depth} upwards, decode step 1 to {steps} to the right, "
        f"darker where more rows ran the block. Mean blocks per step: {listed(told, 40)}."
    )
    caption = (
        f"Share of rows that ran a block at a decode step, white 0 to dark 1, from the {listed(sorted(sources))}. The number in a "
        "title is blocks per step. Where a method skips attention or feed-forward sublayers alone, they are drawn apart. What runs "
        "in every block at every step is not drawn, nor an arm that drafts."
    )
    return Figure("fig-layers", "Which blocks ran at which decode step", caption, alt, Heat(tuple(made)))


def _counted(facts: Facts, arm: Arm) -> tuple[SpeedCell | QualityCell | None, str]:
    """The cell that says what an arm ran at each step, and what it is of."""
    batch = facts.headline_batch
    timed = facts.speed.get((arm.label, batch)) if batch is not None else None
    if timed:
        return timed.cell, f"timed runs at batch size {batch}"
    return next((facts.scored[key] for key in facts.scored if key[0] == arm.label), None), "scored runs"


def _shares(arm: Arm, cell: SpeedCell | QualityCell | None) -> Iterator[tuple[str, np.ndarray]]:
    """What an arm leaves out, as (name, share of rows that ran each block at each step [steps, L]): sublayers apart if it must."""
    if cell is None or arm.family == "draft":
        return
    apart: Mapping[str, object] = cell.get("sublayers_by_position") or {}
    shares = [(f"{arm.short}, {name}", _matrix(apart.get(key))) for key, name in _SUBLAYERS]
    if any(share is None for _, share in shares):
        shares = [(arm.short, _matrix(cell.get("layers_by_position")))]
    yield from ((name, share) for name, share in shares if share is not None and share.min() < 1.0)


_SUBLAYERS = (("attention", "attention"), ("feed", "feed-forward"))


def _positions(facts: Facts, arm: Arm) -> tuple[np.ndarray | None, str]:
    """Share of rows that ran each block at each step [steps, L], and where it comes from."""
    cell, source = _counted(facts, arm)
    return _matrix(cell.get("layers_by_position")) if cell else None, source


def _matrix(rows: object) -> np.ndarray | None:
    try:
        share = np.asarray(rows, dtype=float)
    except (TypeError, ValueError):  # ragged, or something among them is no number
        return None
    return np.clip(share, 0.0, 1.0) if share.ndim == 2 and share.size and np.isfinite(share).all() else None


def draw_heat(plot: Heat, sheet: Sheet) -> Canvas:
    """Share of rows that ran a block at a decode step, one panel per arm."""
    alike = len({p.share.shape for p in plot.panels}) == 1
    sheet = replace(sheet, per_row=sheet.per_row + 1)
    figure, made = panels(
        sheet,
        len(plot.panels),
        72 if len(plot.panels) <= 12 else 46,
        wide=len(plot.panels) > 1,
        sharex=alike,
        sharey=alike,
    )
    for on, shown in zip(made, plot.panels, strict=True):
        steps, depth = shown.share.shape
        on.set(xlim=(0.5, steps + 0.5), ylim=(0.5, depth + 0.5), yticks=sorted({1, -(-depth // 2), depth}))
        on.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        fine = np.repeat(np.repeat(shown.share.T, 4, axis=0), 4, axis=1)  # no viewer blurs one into the next
        pixels = np.empty((*fine.shape, 4), np.uint8)
        pixels[..., :3], pixels[..., 3] = SHARE_RGB, np.rint(255 * fine)
        on.imshow(pixels, extent=(*on.get_xlim(), *on.get_ylim()), origin="lower", aspect="auto", interpolation="none")
        on.grid(visible=False)
        on.spines[:].set(visible=True, color=colour("faint"))
        title(on, f"{shown.name} · {fixed(shown.layers_per_token, 1)}", sheet)
    figure.supxlabel("Decode step")
    figure.supylabel("Block (1: nearest the input)")
    return figure


@dataclass(frozen=True)
class DepthPanel:
    """Share of tokens that ran 1, 2, ... L blocks, [L], and the mean."""

    name: str
    swatch: Swatch
    share: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Depths:
    """How many blocks tokens ran, one panel per arm."""

    panels: tuple[DepthPanel, ...]


def depths(facts: Facts) -> Figure | None:
    """Histogram of the blocks that tokens ran, for every arm whose counts tell; None if there is none."""
    made, sources = [], set()
    for arm in facts.others:
        share, source = _positions(facts, arm)
        found = None if share is None else blocks_run(share)
        if share is None or found is None or share.min() >= 1.0 or arm.family == "draft":
            continue
        sources.add(source)
        mean = float((np.arange(1, len(found) + 1) * found).sum())
        made.append(DepthPanel(arm.short, swatch(arm), tuple(map(float, found)), mean))
    if not made:
        return None
    told = [f"{p.name} {fixed(p.mean, 1)}, most often {int(np.argmax(p.share)) + 1}" for p in made]
    alt = f"One histogram per arm of the number of blocks run for a token. Means: {listed(told, 40)}."
    caption = (
        f"Share of generated tokens by the number of blocks run for them, from the {listed(sorted(sources))}; for an "
        "exit method that is the depth at which they left. Dashed line and number: the mean. Arms that verify drafts, "
        "and those that run everything, are not drawn."
    )
    return Figure("fig-depths", "How many blocks a token ran", caption, alt, Depths(tuple(made)))


def blocks_run(share: np.ndarray) -> np.ndarray | None:
    """Return the share of tokens that ran 1, ..., L blocks, [L], or None where the shares per block do not tell.

    They tell in two cases: all rows alike (every share is 0 or 1), or blocks run from the bottom up to the one where
    the row exits, so that the share that ran block l is the share that ran at least l.
    """
    steps, depth = share.shape
    if np.isin(share, (0.0, 1.0)).all():
        counts = np.bincount(share.sum(axis=1).astype(int), minlength=depth + 1)
        return counts[1:] / steps if counts[0] == 0 else None
    following = np.concatenate([share[:, 1:], np.zeros((steps, 1))], axis=1)
    left = share - following
    if (share[:, 0] < 1.0).any() or (left < -1e-9).any():
        return None
    shares: np.ndarray = left.mean(axis=0)
    return shares


def draw_depths(plot: Depths, sheet: Sheet) -> Canvas:
    """Share of tokens by the number of blocks they ran, one panel per arm."""
    figure, made = panels(sheet, len(plot.panels), 64, wide=len(plot.panels) > 1, sharey=True)
    for on, shown in zip(made, plot.panels, strict=True):
        depth = len(shown.share)
        on.set(xlim=(0.4, depth + 0.6), xticks=sorted({1, -(-depth // 2), depth}))
        on.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        name = colour(look(shown.swatch.method).colour)
        drawn = [(n, share) for n, share in enumerate(shown.share, start=1) if share > 0.0005]
        bars = on.bar([n for n, _ in drawn], [share for _, share in drawn], color=name, lw=0)
        for bar, (n, share) in zip(bars, drawn, strict=True):
            bar.set_url(f"{shown.name}: {fixed(100 * share, 1)}% of tokens ran {n} blocks")
        on.axvline(shown.mean, color=colour("ink"), lw=0.8, ls=(0, (2, 2)))
        title(on, f"{shown.name} · {fixed(shown.mean, 1)}", sheet)
    figure.supxlabel("Blocks run for a token")
    figure.supylabel("Share of tokens")
    return figure


@dataclass(frozen=True)
class Curve:
    """An empirical distribution function: (milliseconds, share of steps at most that long)."""

    name: str
    swatch: Swatch
    ms: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True)
class StepTimes:
    """Distribution of the time between steps at one batch size: a panel of curves for each family, each beside full's."""

    batch: int
    full: Curve | None
    panels: tuple[tuple[str, tuple[Curve, ...]], ...]


def all_step_times(facts: Facts) -> Iterator[Figure]:
    """At the smallest and the largest timed batch size."""
    return filter(None, (step_times(facts, batch) for batch in ends(facts)))


def step_times(facts: Facts, batch: int) -> Figure | None:
    """Distribution of the time between steps at one batch size, one panel per family."""
    found = {arm.label: s for arm in facts.arms if (s := facts.speed.get((arm.label, batch))) and len(s.step_s)}
    if not found:
        return None
    curves = {
        arm.label: _curve(arm.short, swatch(arm), found[arm.label].step_s) for arm in facts.arms if arm.label in found
    }
    full = curves.get(facts.baseline.label) if facts.baseline else None
    made = [
        (family, tuple(curves[arm.label] for arm in arms if arm.label in curves))
        for family, arms in families(facts.others).items()
    ]
    medians = [f"{c.name} {fixed(float(np.interp(0.5, c.share, c.ms)))} ms" for c in curves.values()]
    alt = f"Distribution of the time between decode steps at batch size {batch}. Medians: {listed(medians, 40)}."
    caption = "Empirical distribution over all steps of all repeats, cut at the 99th percentile; the full model is in every panel."
    plot = StepTimes(batch, full, tuple((family, some) for family, some in made if some))
    return Figure(f"fig-steps-{batch}", f"Time between steps, batch size {batch}", caption, alt, plot)


def _curve(name: str, sign: Swatch, seconds: np.ndarray) -> Curve:
    """At most 120 points of the distribution function, so that a long run draws as small as a short one."""
    shares = np.linspace(0.0, 0.99, min(120, max(2, len(seconds))))
    ms = 1e3 * np.quantile(seconds, shares)
    return Curve(name, sign, tuple(float(v) for v in ms), tuple(float(v) for v in shares))


def draw_step_times(plot: StepTimes, sheet: Sheet) -> Canvas:
    """Distribution of the time between steps, a panel for each family, its curves named at their upper ends."""
    first = (plot.full,) if plot.full else ()
    rows = plot.panels or (("", ()),)
    figure, made = panels(sheet, len(rows), 108, wide=len(rows) > 1, sharex=True, sharey=True)
    every = [v for _, some in rows for c in (*first, *some) for v in (c.ms[0], c.ms[-1])]
    names: list[tuple[Axes, tuple[float, float], str, Swatch]] = []
    for on, (family, some) in zip(made, rows, strict=True):
        ratio_axis(on.xaxis, every, 5)
        on.set(ylim=(0, 1.02), title=family)
        on.tick_params(labelbottom=True)
        for curve in (*first, *some):
            at = list(zip(curve.ms, curve.share, strict=True))
            line(on, at, curve.swatch, lw=1.0 if curve is plot.full else 1.3)
            on.lines[-1].set_url(f"{curve.name}: median {fixed(float(np.interp(0.5, curve.share, curve.ms)), 3)} ms")
            names.append((on, at[len(at) // 2], curve.name.removeprefix(f"{family} "), curve.swatch))
    figure.supxlabel(f"Time between decode steps, batch size {plot.batch} (ms)")
    figure.supylabel("Share of steps")
    named_ends(figure, names, sheet)
    return figure
