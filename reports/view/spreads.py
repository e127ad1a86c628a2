"""From facts to the plots about what is spread: blocks over positions, tokens over depths, steps over times."""

from __future__ import annotations

import numpy as np

from reports.facts.facts import Arm, Facts
from reports.text import fixed, label, listed
from reports.view.cells import swatch
from reports.view.charts import PLOT_LABEL, plot_name
from reports.view.parts import Figure, Swatch
from reports.view.plots import Curve, DepthPanel, Depths, Heat, HeatPanel, StepTimes
from reports.view.settings import quality_setting, speed_setting

PANEL_LABEL = 26


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
