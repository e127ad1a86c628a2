"""Draw what is spread: blocks over positions, tokens over depths, steps over times."""

from __future__ import annotations

import numpy as np

from reports import plots
from reports.axes import Key, axis_words, legend, outer, panels, ticks
from reports.canvas import Canvas
from reports.style import DASHES, SHARE_RGB, Sheet, look
from reports.text import fixed


def heat(plot: plots.Heat, sheet: Sheet) -> Canvas:
    """Share of rows that ran a block at a decode step, one panel per arm."""
    alike = len({p.share.shape for p in plot.panels}) == 1
    canvas, made, columns = panels(sheet, len(plot.panels), height=97, top=46, gap_y=22 if alike else 34)
    for i, (frame, shown) in enumerate(zip(made, plot.panels, strict=True)):
        steps, depth = shown.share.shape
        panel = frame.within((0.5, steps + 0.5), (0.5, depth + 0.5))
        canvas.image(panel.x0, panel.y0, panel.width, panel.height, shown.share.T[::-1], SHARE_RGB)
        canvas.rect(panel.x0, panel.y0, panel.width, panel.height, "", edge="faint")
        left, below = outer(i, len(made), columns)
        blocks = sorted({1, *(round(depth * q / 4) for q in range(1, 5))})
        positions = [v for v in ticks(1, steps, 6) if v == int(v)] or [1.0, float(steps)]
        panel.frame(
            positions, blocks, sheet.small, left=left or not alike, below=below or not alike, xgrid=False, ygrid=False,
            axes=False,
        )  # fmt: skip
        panel.title(shown.name, fixed(shown.layers_per_token, 1))
    axis_words(canvas, made, "Decode step k", "Block (1 = nearest the input)")
    canvas.image(34, 7, 80, 8, np.linspace(0, 1, 64)[None, :], SHARE_RGB)
    canvas.rect(34, 7, 80, 8, "", edge="faint")
    words = "share of rows that ran the block, 0 to 1; at the right of a title: blocks per step"
    canvas.text(120, 7 + sheet.small, canvas.fit(words, sheet.small, canvas.width - 124), size=sheet.small)
    return canvas


def histogram(plot: plots.Depths, sheet: Sheet) -> Canvas:
    """Share of tokens by the number of blocks they ran, one panel per arm."""
    canvas, made, columns = panels(sheet, len(plot.panels), height=80, top=22)
    high = 1.06 * max(max(p.share) for p in plot.panels)
    for i, (frame, shown) in enumerate(zip(made, plot.panels, strict=True)):
        depth = len(shown.share)
        panel = frame.within((0.4, depth + 0.6), (0.0, high))
        left, below = outer(i, len(made), columns)
        marks = sorted({1, *(round(depth * q / 4) for q in range(1, 5))})
        panel.frame(
            marks, ticks(0, high, 4), sheet.small, left=left, below=below, xgrid=False,
            format_y=lambda v: f"{100 * v:g}%",
        )  # fmt: skip
        colour = look(shown.swatch.method).colour
        for blocks, share in enumerate(shown.share, start=1):
            if share > 0.0005:
                x = panel.x(blocks - 0.4)
                with canvas.tip(f"{shown.name}: {fixed(100 * share, 1)}% of tokens ran {blocks} blocks"):
                    canvas.rect(x, panel.y(share), panel.x(blocks + 0.4) - x, panel.y(0) - panel.y(share), colour)
        mean = panel.x(shown.mean)
        canvas.path([[(mean, panel.y0), (mean, panel.y(0))]], "ink", 0.8, dash="2 2")
        panel.title(shown.name, fixed(shown.mean, 1))
    axis_words(canvas, made, "Blocks run for a token (dashed: mean)", "Share of tokens")
    return canvas


def step_times(plot: plots.StepTimes, sheet: Sheet) -> Canvas:
    """Distribution of the time between steps, one panel per method, each beside full's."""
    groups = plot.panels or (("full", ()),)
    step = sheet.small + 3.5
    above = [step * (len(curves) + (plot.full is not None)) for _, curves in groups]
    canvas, made, columns = panels(sheet, len(groups), height=112, top=8, gap_y=18, above=above)
    every = [c for _, group in groups for c in group] + ([plot.full] if plot.full else [])
    low, high = min(c.ms[0] for c in every), max(c.ms[-1] for c in every)
    for i, (frame, (_, group)) in enumerate(zip(made, groups, strict=True)):
        panel = frame.within((low - 0.03 * (high - low), high + 0.02 * (high - low) or 1.0), (0.0, 1.02))
        left, below = outer(i, len(made), columns)
        panel.frame(ticks(*panel.xs, 5), [0, 0.25, 0.5, 0.75, 1], sheet.small, left=left, below=below)
        shown = [*([plot.full] if plot.full else []), *group]
        for j, curve in enumerate(shown):
            is_full = curve is plot.full
            colour = look(curve.swatch.method).colour
            dash = "" if is_full else DASHES[(j - (plot.full is not None)) % len(DASHES)]
            middle = float(np.interp(0.5, curve.share, curve.ms))
            with canvas.tip(f"{curve.name}: median {fixed(middle, 3)} ms"):
                panel.line(list(zip(curve.ms, curve.share, strict=True)), colour, 1.1 if is_full else 1.5, dash)
            key = Key(canvas.fit(curve.name, sheet.small, panel.width - 24), colour, 1.5, dash)
            legend(canvas, (key,), panel.x0, panel.y0 - 4 - step * (len(shown) - 1 - j), sheet.small, panel.width)
    axis_words(canvas, made, f"Time between decode steps, batch size {plot.batch} (ms)", "Share of steps")
    return canvas
