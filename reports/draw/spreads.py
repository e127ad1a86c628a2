"""What is spread: blocks over positions, tokens over depths, steps over times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from reports.draw.arms import PLOT_LABEL, ends, plot_name
from reports.draw.canvas import (
    KEYED,
    arm_dashes,
    grid,
    key,
    keyed,
    line,
    name_axes,
    panel,
    scale,
    size_of,
    title,
)
from reports.draw.style import SHARE_RGB, Sheet, colour, look
from reports.draw.svg import fit
from reports.facts.facts import Arm, Facts
from reports.text import fixed, label, listed
from reports.view.cells import swatch
from reports.view.parts import Figure, Swatch
from reports.view.settings import quality_setting, speed_setting

PANEL_LABEL = 26


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
    """Layers by position for every arm that does not simply run everything."""
    panels, sources = [], set()
    for arm in facts.arms:
        share, source = _positions(facts, arm)
        if share is None or share.min() >= 1.0:
            continue
        sources.add(source)
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
        f"averaged over the steps shown. An arm that runs every block at every step is not drawn. {_setting(facts, sources)}"
    )
    return Figure("fig-layers", "Which blocks ran at which decode step", caption, alt, Heat(tuple(panels)))


def _positions(facts: Facts, arm: Arm) -> tuple[np.ndarray | None, str]:
    """Share of rows that ran each block at each step [steps, L], and where it comes from."""
    batch = facts.headline_batch
    timed = facts.speed.get((arm.label, batch)) if batch is not None else None
    if timed:
        return _matrix(timed.cell.get("layers_by_position")), f"timed runs at batch size {batch}"
    scored = next((facts.scored[key] for key in facts.scored if key[0] == arm.label), None)
    return _matrix(scored.get("layers_by_position")) if scored else None, "scored runs"


def _setting(facts: Facts, sources: set[str]) -> str:
    """How the cells came about that the sources name."""
    timed = any(source.startswith("timed") for source in sources)
    scored = "scored runs" in sources
    return " ".join(filter(None, (speed_setting(facts) if timed else "", quality_setting(facts) if scored else "")))


def _matrix(rows: object) -> np.ndarray | None:
    if (
        not isinstance(rows, list)
        or not rows
        or any(not isinstance(r, list) or len(r) != len(rows[0]) or not r for r in rows)
    ):
        return None
    if not all(set(map(type, r)) <= {int, float} for r in rows):
        return None
    share = np.asarray(rows, dtype=float)
    return np.clip(share, 0.0, 1.0) if np.isfinite(share).all() else None


def draw_heat(plot: Heat, sheet: Sheet) -> Canvas:
    """Share of rows that ran a block at a decode step, one panel per arm."""
    alike = len({p.share.shape for p in plot.panels}) == 1
    figure, made = grid(sheet, len(plot.panels), height=90, top=46, gap_y=20 if alike else 32, shared=alike)
    for on, shown in zip(made, plot.panels, strict=True):
        steps, depth = shown.share.shape
        on.set(xlim=(0.5, steps + 0.5), ylim=(0.5, depth + 0.5), yticks=_quarters(depth))
        on.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _shaded(on, shown.share.T)
        title(on, sheet, shown.name, fixed(shown.layers_per_token, 1))
    name_axes(figure, "Decode step k", "Block (1 = nearest the input)", sheet)
    legend = panel(figure, 34, 7, 60, 8)
    legend.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    _shaded(legend, np.linspace(0, 1, 64)[None, :])
    words = "share of rows that ran the block, 0 to 1; at the right of a title: blocks per step"
    room = size_of(figure)[0] - 104
    legend.annotate(fit(words, sheet.small, room), (1, 0.5), (6, 0), textcoords="offset points", va="center_baseline")
    return figure


def _quarters(depth: int) -> list[int]:
    return sorted({1, *(round(depth * q / 4) for q in range(1, 5))})


def _shaded(on: Axes, share: np.ndarray) -> None:
    """Fill a panel with a map of shares, the first row at the bottom: one hue, as opaque as the share is large."""
    fine = np.repeat(np.repeat(np.clip(share, 0.0, 1.0), 4, axis=0), 4, axis=1)  # no viewer blurs one into the next
    pixels = np.empty((*fine.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = SHARE_RGB, np.rint(255 * fine)
    on.imshow(pixels, extent=(*on.get_xlim(), *on.get_ylim()), origin="lower", aspect="auto", interpolation="none")
    on.grid(visible=False)
    on.spines[:].set(visible=True, color=colour("faint"))


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
    panels, sources = [], set()
    for arm in facts.others:
        share, source = _positions(facts, arm)
        found = None if share is None else blocks_run(share)
        if share is None or found is None or share.min() >= 1.0:
            continue
        sources.add(source)
        mean = float((np.arange(1, len(found) + 1) * found).sum())
        panels.append(DepthPanel(label(arm.label, PANEL_LABEL), swatch(arm), tuple(map(float, found)), mean))
    if not panels:
        return None
    told = [f"{p.name} {fixed(p.mean, 1)}, most often {int(np.argmax(p.share)) + 1}" for p in panels]
    alt = f"One histogram per arm of the number of blocks run for a token. Means: {listed(told, 30)}."
    caption = (
        f"Share of generated tokens by the number of blocks run for them, from the {listed(sorted(sources))}; for an "
        "exit method that is the depth at which they left. Dashed line and number: the mean. Arms that verify drafts, "
        "and those that run everything, are not drawn. "
        f"{_setting(facts, sources)}"
    )
    return Figure("fig-depths", "How many blocks a token ran", caption, alt, Depths(tuple(panels)))


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
    figure, made = grid(sheet, len(plot.panels), height=76, top=22)
    high = 1.06 * max(max(p.share) for p in plot.panels)
    for on, shown in zip(made, plot.panels, strict=True):
        depth = len(shown.share)
        on.set(xlim=(0.4, depth + 0.6), xticks=_quarters(depth))
        scale(on.yaxis, 0.0, high, 4, lambda v: f"{100 * v:g}%")
        drawn = [(n, share) for n, share in enumerate(shown.share, start=1) if share > 0.0005]
        name = colour(look(shown.swatch.method).colour)
        bars = on.bar([n for n, _ in drawn], [share for _, share in drawn], color=name, lw=0, clip_on=False)
        for bar, (n, share) in zip(bars, drawn, strict=True):
            bar.set_url(f"{shown.name}: {fixed(100 * share, 1)}% of tokens ran {n} blocks")
        on.axvline(shown.mean, color=colour("ink"), lw=0.8, ls=(0, (2, 2)))
        title(on, sheet, shown.name, fixed(shown.mean, 1))
    name_axes(figure, "Blocks run for a token (dashed: mean)", "Share of tokens", sheet)
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
    """Distribution of the time between steps at one batch size: panels of curves, each beside full's."""

    batch: int
    full: Curve | None
    panels: tuple[tuple[str, tuple[Curve, ...]], ...]


def all_step_times(facts: Facts) -> Iterator[Figure]:
    """At the smallest and the largest timed batch size."""
    return filter(None, (step_times(facts, batch) for batch in ends(facts)))


def step_times(facts: Facts, batch: int) -> Figure | None:
    """Distribution of the time between steps at one batch size, one panel per method."""
    panels: dict[str, list[Curve]] = {}
    full = None
    for arm in facts.arms:
        timed = facts.speed.get((arm.label, batch))
        if timed is None or not len(timed.step_s):
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


def _curve(name: str, sign: Swatch, seconds: np.ndarray) -> Curve:
    """At most 120 points of the distribution function, so that a long run draws as small as a short one."""
    shares = np.linspace(0.0, 0.99, min(120, max(2, len(seconds))))
    ms = 1e3 * np.quantile(seconds, shares)
    return Curve(name, sign, tuple(float(v) for v in ms), tuple(float(v) for v in shares))


def draw_step_times(plot: StepTimes, sheet: Sheet) -> Canvas:
    """Distribution of the time between steps, one panel per method, each beside full's."""
    first = (plot.full,) if plot.full else ()
    rows = [(*first, *group) for _, group in plot.panels or (("", ()),)]
    above = [KEYED * sheet.small * len(shown) + 4 for shown in rows]
    figure, made = grid(sheet, len(rows), height=100, top=8, gap_y=16, above=above)
    every = [c for shown in rows for c in shown]
    low, high = min(c.ms[0] for c in every), max(c.ms[-1] for c in every)
    bounds = (low - 0.03 * (high - low), high + 0.02 * (high - low))
    for on, shown in zip(made, rows, strict=True):
        scale(on.xaxis, *bounds, 5)
        scale(on.yaxis, 0.0, 1.02)
        on.grid(axis="x")
        keys = []
        for curve, dash in zip(shown, arm_dashes(len(shown), bool(first)), strict=True):
            name = look(curve.swatch.method).colour
            tip = f"{curve.name}: median {fixed(float(np.interp(0.5, curve.share, curve.ms)), 3)} ms"
            width = 1.1 if curve is plot.full else 1.5
            line(on, list(zip(curve.ms, curve.share, strict=True)), name, width, dash, tip)
            keys.append(key(curve.name, name, 1.5, dash))
        keyed(on, sheet, keys)
    name_axes(figure, f"Time between decode steps, batch size {plot.batch} (ms)", "Share of steps", sheet)
    return figure
