"""Draw what is spread: blocks over positions, tokens over depths, steps over times."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from reports.draw.drawing import Pixels
from reports.draw.keys import KEYED, Key, keyed
from reports.draw.panels import Panel, boxes, frame, grid, line, name_axes, outer, panel, size_of, ticks, title, write
from reports.draw.style import DASHES, SHARE_RGB, Sheet, look
from reports.draw.svg import fit
from reports.text import fixed
from reports.view import plots


def heat(plot: plots.Heat, sheet: Sheet) -> Figure:
    """Share of rows that ran a block at a decode step, one panel per arm."""
    alike = len({p.share.shape for p in plot.panels}) == 1
    figure, made, columns = grid(sheet, len(plot.panels), height=90, top=46, gap_y=20 if alike else 32)
    for i, (on, shown) in enumerate(zip(made, plot.panels, strict=True)):
        steps, depth = shown.share.shape
        _shaded(on, shown.share.T)
        left, below = outer(i, len(made), columns)
        blocks = sorted({1, *(round(depth * q / 4) for q in range(1, 5))})
        positions = [v for v in ticks(1, steps, 6) if v == int(v)] or [1.0, float(steps)]
        frame(
            on, (0.5, steps + 0.5), (0.5, depth + 0.5), positions, blocks, small=sheet.small,
            left=left or not alike, below=below or not alike, ygrid=False, lines="faint", around=True,
        )  # fmt: skip
        title(on, sheet, shown.name, fixed(shown.layers_per_token, 1))
    name_axes(figure, made, "Decode step k", "Block (1 = nearest the input)", sheet)
    scale = panel(figure, 34, 7, 60, 8)
    _shaded(scale, np.linspace(0, 1, 64)[None, :])
    frame(scale, (0, 1), (0, 1), [], [], small=sheet.small, lines="faint", around=True)
    words = "share of rows that ran the block, 0 to 1; at the right of a title: blocks per step"
    write(figure, scale.right + 6, scale.y + 1, fit(words, sheet.small, size_of(figure)[0] - 104), sheet.small)
    return figure


def _shaded(on: Panel, share: np.ndarray) -> None:
    """Fill a panel with a map of shares, the first row at the bottom: one hue, as opaque as the share is large."""
    fine = np.repeat(np.repeat(np.clip(share, 0.0, 1.0), 4, axis=0), 4, axis=1)  # no viewer blurs one into the next
    pixels = np.empty((*fine.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = SHARE_RGB, np.rint(255 * fine)
    on.figure.add_artist(Pixels(pixels, on.x, on.y, on.width, on.height))


def histogram(plot: plots.Depths, sheet: Sheet) -> Figure:
    """Share of tokens by the number of blocks they ran, one panel per arm."""
    figure, made, columns = grid(sheet, len(plot.panels), height=76, top=22)
    high = 1.06 * max(max(p.share) for p in plot.panels)
    for i, (on, shown) in enumerate(zip(made, plot.panels, strict=True)):
        depth = len(shown.share)
        left, below = outer(i, len(made), columns)
        marks = sorted({1, *(round(depth * q / 4) for q in range(1, 5))})
        found = ticks(0, high, 4)
        frame(
            on, (0.4, depth + 0.6), (0.0, high), marks, found, ylabels=[f"{100 * v:g}%" for v in found],
            small=sheet.small, left=left, below=below,
        )  # fmt: skip
        drawn = [(n, share) for n, share in enumerate(shown.share, start=1) if share > 0.0005]
        tips = [f"{shown.name}: {fixed(100 * v, 1)}% of tokens ran {n} blocks" for n, v in drawn]
        boxes(on, [(n - 0.4, 0.0, n + 0.4, v) for n, v in drawn], look(shown.swatch.method).colour, tips=tips)
        line(on, [(shown.mean, 0), (shown.mean, high)], "ink", 0.8, "2 2")
        title(on, sheet, shown.name, fixed(shown.mean, 1))
    name_axes(figure, made, "Blocks run for a token (dashed: mean)", "Share of tokens", sheet)
    return figure


def step_times(plot: plots.StepTimes, sheet: Sheet) -> Figure:
    """Distribution of the time between steps, one panel per method, each beside full's."""
    groups = plot.panels or (("full", ()),)
    rows = [[*([plot.full] if plot.full else []), *group] for _, group in groups]
    figure, made, columns = grid(
        sheet, len(groups), height=100, top=8, gap_y=16, above=[KEYED * sheet.small * len(r) + 4 for r in rows]
    )
    every = [c for shown in rows for c in shown]
    low, high = min(c.ms[0] for c in every), max(c.ms[-1] for c in every)
    bounds = (low - 0.03 * (high - low), high + 0.02 * (high - low) or 1.0)
    for i, (on, shown) in enumerate(zip(made, rows, strict=True)):
        left, below = outer(i, len(made), columns)
        frame(
            on, bounds, (0.0, 1.02), ticks(*bounds, 5), [0, 0.25, 0.5, 0.75, 1], small=sheet.small, left=left,
            below=below, xgrid=True,
        )  # fmt: skip
        keys = []
        for j, curve in enumerate(shown):
            full = curve is plot.full
            name = look(curve.swatch.method).colour
            dash = "" if full else DASHES[(j - (plot.full is not None)) % len(DASHES)]
            middle = float(np.interp(0.5, curve.share, curve.ms))
            tip = f"{curve.name}: median {fixed(middle, 3)} ms"
            line(on, list(zip(curve.ms, curve.share, strict=True)), name, 1.1 if full else 1.5, dash, tip)
            keys.append(Key(curve.name, name, 1.5, dash))
        keyed(on, sheet, keys)
    name_axes(figure, made, f"Time between decode steps, batch size {plot.batch} (ms)", "Share of steps", sheet)
    return figure
