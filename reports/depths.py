"""Draw what is spread: blocks over positions, tokens over depths, steps over times."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from reports import plots
from reports.drawing import colour, fit
from reports.panels import axes, frame, grid, key, keyed, line, name_axes, outer, ticks, title
from reports.style import DASHES, SHARE_RGB, Sheet, look
from reports.text import fixed


def heat(plot: plots.Heat, sheet: Sheet) -> Figure:
    """Share of rows that ran a block at a decode step, one panel per arm."""
    alike = len({p.share.shape for p in plot.panels}) == 1
    figure, made, columns = grid(sheet, len(plot.panels), height=90, top=46, gap_y=20 if alike else 32)
    for i, (ax, shown) in enumerate(zip(made, plot.panels, strict=True)):
        steps, depth = shown.share.shape
        _shaded(ax, shown.share.T, (0.5, steps + 0.5, 0.5, depth + 0.5))
        left, below = outer(i, len(made), columns)
        blocks = sorted({1, *(round(depth * q / 4) for q in range(1, 5))})
        positions = [v for v in ticks(1, steps, 6) if v == int(v)] or [1.0, float(steps)]
        frame(
            ax, (0.5, steps + 0.5), (0.5, depth + 0.5), positions, blocks,
            left=left or not alike, below=below or not alike, ygrid=False,
        )  # fmt: skip
        title(ax, sheet, shown.name, fixed(shown.layers_per_token, 1))
    name_axes(figure, made, "Decode step k", "Block (1 = nearest the input)", sheet)
    scale = axes(figure, 34, 7, 60, 8)
    _shaded(scale, np.linspace(0, 1, 64)[None, :], (0, 1, 0, 1))
    frame(scale, (0, 1), (0, 1), [], [])
    words = "share of rows that ran the block, 0 to 1; at the right of a title: blocks per step"
    room = 72 * figure.get_size_inches()[0] - 104
    scale.annotate(
        fit(words, sheet.small, room), (1, 0), (6, 1), "axes fraction", "offset points", fontsize=sheet.small,
        va="baseline",
    )  # fmt: skip
    return figure


def _shaded(ax: Axes, share: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Fill the axes with a map of shares, the first row at the bottom: one hue, as opaque as the share is large."""
    fine = np.repeat(np.repeat(np.clip(share, 0.0, 1.0), 4, axis=0), 4, axis=1)  # no viewer blurs one into the next
    pixels = np.empty((*fine.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = SHARE_RGB, np.rint(255 * fine)
    image = AxesImage(ax, extent=extent, origin="lower", interpolation="none")
    image.set_data(pixels)
    ax.add_image(image)
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour("faint"))


def histogram(plot: plots.Depths, sheet: Sheet) -> Figure:
    """Share of tokens by the number of blocks they ran, one panel per arm."""
    figure, made, columns = grid(sheet, len(plot.panels), height=76, top=22)
    high = 1.06 * max(max(p.share) for p in plot.panels)
    for i, (ax, shown) in enumerate(zip(made, plot.panels, strict=True)):
        depth = len(shown.share)
        left, below = outer(i, len(made), columns)
        marks = sorted({1, *(round(depth * q / 4) for q in range(1, 5))})
        frame(
            ax, (0.4, depth + 0.6), (0.0, high), marks, ticks(0, high, 4), left=left, below=below,
            format_y=lambda v: f"{100 * v:g}%",
        )  # fmt: skip
        drawn = [(n, share) for n, share in enumerate(shown.share, start=1) if share > 0.0005]
        boxes = [[(n - 0.4, 0), (n - 0.4, v), (n + 0.4, v), (n + 0.4, 0)] for n, v in drawn]
        tips = [f"{shown.name}: {fixed(100 * v, 1)}% of tokens ran {n} blocks" for n, v in drawn]
        fill = colour(look(shown.swatch.method).colour)
        ax.add_collection(PolyCollection(boxes, facecolors=fill, linewidths=0, urls=tips, zorder=2), autolim=False)
        line(ax, [(shown.mean, 0), (shown.mean, high)], "ink", 0.8, "2 2")
        title(ax, sheet, shown.name, fixed(shown.mean, 1))
    name_axes(figure, made, "Blocks run for a token (dashed: mean)", "Share of tokens", sheet)
    return figure


def step_times(plot: plots.StepTimes, sheet: Sheet) -> Figure:
    """Distribution of the time between steps, one panel per method, each beside full's."""
    groups = plot.panels or (("full", ()),)
    rows = [[*([plot.full] if plot.full else []), *group] for _, group in groups]
    figure, made, columns = grid(
        sheet, len(groups), height=100, top=8, gap_y=16, above=[1.45 * sheet.small * len(r) + 4 for r in rows]
    )
    every = [c for shown in rows for c in shown]
    low, high = min(c.ms[0] for c in every), max(c.ms[-1] for c in every)
    bounds = (low - 0.03 * (high - low), high + 0.02 * (high - low) or 1.0)
    for i, (ax, shown) in enumerate(zip(made, rows, strict=True)):
        left, below = outer(i, len(made), columns)
        frame(ax, bounds, (0.0, 1.02), ticks(*bounds, 5), [0, 0.25, 0.5, 0.75, 1], left=left, below=below, xgrid=True)
        keys = []
        for j, curve in enumerate(shown):
            full = curve is plot.full
            name = look(curve.swatch.method).colour
            dash = "" if full else DASHES[(j - (plot.full is not None)) % len(DASHES)]
            middle = float(np.interp(0.5, curve.share, curve.ms))
            tip = f"{curve.name}: median {fixed(middle, 3)} ms"
            line(ax, list(zip(curve.ms, curve.share, strict=True)), name, 1.1 if full else 1.5, dash, tip)
            keys.append((curve.name, key("", name, 1.5, dash)))
        keyed(ax, sheet, keys)
    name_axes(figure, made, f"Time between decode steps, batch size {plot.batch} (ms)", "Share of steps", sheet)
    return figure
