"""Draw the plots of reports.plots with matplotlib: numbers and labels come in, nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator

from reports import plots, scatter
from reports.parts import Figure as FigurePart
from reports.style import (
    DASHES,
    SHARE_RGB,
    SIZE,
    SMALL,
    WIDTH,
    Tips,
    drawing,
    ink,
    look,
    marker_options,
    outer_labels_only,
    panels,
    plain,
)
from reports.svg import inline
from reports.text import fixed, span


def to_svg(part: FigurePart) -> str:
    """Return a figure as inline SVG.

    Raises:
        TypeError: there is no drawing for this kind of plot.
    """
    draw = _DRAW.get(type(part.plot))
    if draw is None:
        raise TypeError(f"no drawing for {type(part.plot).__name__}")
    with drawing():
        figure, tips = draw(part.plot)
        return inline(figure, part.id, part.alt, tips)


def _by_batch(plot: plots.ByBatch) -> tuple[Figure, Tips]:
    columns = min(4, len(plot.series))
    figure, axes = panels(len(plot.series), columns, width=_width(columns), height=1.3, top=0.62, gap_y=0.32)
    place_of = {batch: i for i, batch in enumerate(plot.batches)}
    tops = [v.high for s in plot.series for _, v in s.realised] + [v for s in plot.series for _, v in s.ideal] + [1.0]
    tips: Tips = {}
    for ax, series in zip(axes, plot.series, strict=True):
        for other in plot.series:
            if other is not series:
                ax.plot(
                    [place_of[b] for b, _ in other.realised],
                    [v.value for _, v in other.realised],
                    color=ink("faint"),
                    lw=0.8,
                    zorder=0.8,
                )
        colour = look(series.swatch.method).colour
        ax.axhline(1.0, color=ink("muted"), lw=0.8, zorder=1)
        ax.plot(
            [place_of[b] for b, _ in series.ideal],
            [v for _, v in series.ideal],
            color=colour,
            lw=1.1,
            ls=(0, (4, 2)),
            zorder=2,
        )
        for batch, v in series.realised:
            ax.plot(
                [place_of[batch]] * 2,
                [v.low, v.high],
                color=colour,
                lw=2.4,
                alpha=0.45,
                zorder=2,
                solid_capstyle="butt",
            )
        where, values = [place_of[b] for b, _ in series.realised], [v.value for _, v in series.realised]
        ax.plot(where, values, zorder=3, **(marker_options(series.swatch, 5) | {"linestyle": "solid"}))
        ax.set_title(series.name)
        ax.set_xlim(-0.35, len(plot.batches) - 0.65)
        ax.set_ylim(0, 1.08 * max(tops))
        ax.xaxis.set_major_locator(FixedLocator(range(len(plot.batches))))
        ax.xaxis.set_major_formatter(FixedFormatter([str(b) for b in plot.batches]))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.grid(visible=False, axis="x")
    outer_labels_only(axes, columns)
    figure.supxlabel("Batch size (rows)", fontsize=SIZE, y=0.06 / figure.get_figheight())
    figure.supylabel("Speed-up (× full model)", fontsize=SIZE, x=0.05 / figure.get_figwidth())
    _key(figure, [
        Line2D([], [], color=ink("ink"), marker="o", markersize=4, label="realised, 95% interval"),
        Line2D([], [], color=ink("ink"), lw=1.1, ls=(0, (4, 2)), label="ideal"),
        Line2D([], [], color=ink("muted"), lw=0.8, label="full model = 1"),
        Line2D([], [], color=ink("faint"), lw=0.8, label="other arms, realised"),
    ])  # fmt: skip
    return figure, tips


def _width(columns: int) -> float:
    return WIDTH if columns >= 3 else 0.65 + 3.0 * columns


def _key(figure: Figure, handles: list[Line2D], x: float = 0.5) -> None:
    """A legend in one row above everything else."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(x / width, 1 - 0.02 / height), ncols=len(handles),
                  borderaxespad=0, borderpad=0, handlelength=2.4, columnspacing=1.6)  # fmt: skip


def _promises(plot: plots.Promises) -> tuple[Figure, Tips]:
    rows = len(plot.rows)
    left = 0.25 + 0.078 * max(len(r.name) for r in plot.rows)
    figure, (ax,) = panels(1, 1, width=WIDTH, height=0.29 * rows + 0.15, left=left, top=0.34, bottom=0.5)
    tips: Tips = {}
    for y, row in enumerate(plot.rows):
        ax.plot([min(row.values), max(row.values)], [y, y], color=ink("faint"), lw=0.8, zorder=1)
        for value, (marker, size) in zip((row.target, row.layer_ratio, row.ideal), _STATIONS.values(), strict=True):
            if value is not None:
                ax.plot([value], [y], marker=marker, markersize=size, zorder=2, **_STATION)
        if row.realised:
            colour = look(row.swatch.method).colour
            ax.plot(
                [row.realised.low, row.realised.high],
                [y, y],
                color=colour,
                lw=2.2,
                alpha=0.6,
                zorder=3,
                solid_capstyle="butt",
            )
            (sign,) = ax.plot([row.realised.value], [y], zorder=4, **marker_options(row.swatch, 6.5))
            sign.set_gid(f"tip{y}")
            tips[f"tip{y}"] = (
                f"{row.name}: realised {fixed(row.realised.value)} ({span(row.realised.low, row.realised.high)})"
            )
    ax.axvline(1.0, color=ink("muted"), lw=0.8, zorder=0.9)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.set_xlim(left=min(0.9, ax.get_xlim()[0]))
    ax.yaxis.set_major_locator(FixedLocator(range(rows)))
    ax.yaxis.set_major_formatter(FixedFormatter([row.name for row in plot.rows]))
    ax.tick_params(axis="y", length=0, labelcolor=ink("ink"))
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_formatter(FuncFormatter(plain))
    ax.set_xlabel(f"Speed-up of decoding, batch size {plot.batch} (× full model)")
    handles = [Line2D([], [], marker=m, markersize=s, label=name, **_STATION) for name, (m, s) in _STATIONS.items()]
    realised = Line2D(
        [], [], color=ink("ink"), marker="o", markersize=6, lw=2.2, label="realised, 95% interval (sign of the method)"
    )
    _key(figure, [*handles, realised], left)
    return figure, tips


_STATION: dict[str, Any] = {
    "color": ink("muted"),
    "linestyle": "none",
    "markerfacecolor": ink("paper"),
    "markeredgecolor": ink("muted"),
    "markeredgewidth": 1.0,
}
_STATIONS = {"target": ("|", 11.0), "layer ratio": ("s", 5.5), "ideal": ("D", 5.5)}


def _heat(plot: plots.Heat) -> tuple[Figure, Tips]:
    columns = min(4, len(plot.panels))
    figure, axes = panels(len(plot.panels), columns, width=_width(columns), height=1.35, top=0.66, gap_y=0.36)
    alike = len({p.share.shape for p in plot.panels}) == 1
    for ax, panel in zip(axes, plot.panels, strict=True):
        steps, depth = panel.share.shape
        ax.imshow(
            _shade(panel.share.T),
            origin="lower",
            aspect="auto",
            interpolation="none",
            extent=(0.5, steps + 0.5, 0.5, depth + 0.5),
        )
        ax.set_title(panel.name)
        ax.set_title(fixed(panel.layers_per_token, 1), loc="right", color=ink("muted"), fontsize=SMALL)
        ax.grid(visible=False)
        ax.spines[["top", "right"]].set_visible(True)
        for spine in ax.spines.values():
            spine.set_color(ink("faint"))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=2))
        ax.yaxis.set_major_locator(FixedLocator(sorted({1, *(round(depth * i / 4) for i in range(1, 5))})))
        ax.tick_params(length=2)
    if alike:
        outer_labels_only(axes, columns)
    figure.supxlabel("Decode step k", fontsize=SIZE, y=0.06 / figure.get_figheight())
    figure.supylabel("Block (1 = nearest the input)", fontsize=SIZE, x=0.05 / figure.get_figwidth())
    width, height = figure.get_figwidth(), figure.get_figheight()
    bar = figure.add_axes((0.55 / width, 1 - 0.2 / height, 1.1 / width, 0.12 / height))
    bar.imshow(_shade(np.linspace(0, 1, 64)[None, :]), aspect="auto", interpolation="none", extent=(0, 1, 0, 1))
    bar.set(xticks=[], yticks=[])
    bar.grid(visible=False)
    bar.spines[["top", "right"]].set_visible(True)
    legend = "share of rows that ran the block, 0 to 1; at the right of a title: blocks per step"
    figure.text(1.75 / width, 1 - 0.145 / height, legend, fontsize=SMALL, va="center")
    return figure, {}


def _shade(share: np.ndarray) -> np.ndarray:
    """One hue, more opaque where the share is larger: it reads on white, on black and in grey."""
    image = np.zeros((*share.shape, 4))
    image[..., :3] = SHARE_RGB
    image[..., 3] = share
    return image


def _step_times(plot: plots.StepTimes) -> tuple[Figure, Tips]:
    groups: Sequence[tuple[str, Sequence[plots.Curve]]] = plot.panels or (("full", ()),)
    columns = min(4, len(groups))
    lines = [len(curves) + (plot.full is not None) for _, curves in groups]
    above = [0.165 * max(lines[i : i + columns]) for i in range(0, len(lines), columns)]
    figure, axes = panels(len(groups), columns, width=_width(columns), height=1.55, top=0.12, gap_y=0.3, above=above)
    curves = [c for _, group in groups for c in group] + ([plot.full] if plot.full else [])
    low, high = min(c.ms[0] for c in curves), max(c.ms[-1] for c in curves)
    for ax, (_, group) in zip(axes, groups, strict=True):
        if plot.full:
            ax.plot(plot.full.ms, plot.full.share, color=ink("ink"), lw=1.1, label=plot.full.name)
        for i, curve in enumerate(group):
            colour = look(curve.swatch.method).colour
            ax.plot(curve.ms, curve.share, color=colour, ls=DASHES[i % len(DASHES)], lw=1.5, label=curve.name)
        ax.set_xlim(low - 0.03 * (high - low), high + 0.02 * (high - low))
        ax.set_ylim(0, 1.02)
        ax.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        ax.yaxis.set_major_formatter(FuncFormatter(plain))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(FuncFormatter(plain))
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.01),
            borderaxespad=0,
            borderpad=0.1,
            labelspacing=0.25,
            handlelength=2.6,
        )
    outer_labels_only(axes, columns)
    figure.supxlabel(
        f"Time between decode steps, batch size {plot.batch} (ms)", fontsize=SIZE, y=0.06 / figure.get_figheight()
    )
    figure.supylabel("Share of steps", fontsize=SIZE, x=0.05 / figure.get_figwidth())
    return figure, {}


_DRAW: dict[type, Callable[[Any], tuple[Figure, Tips]]] = {
    plots.TradeOff: scatter.trade_off,
    plots.ByBatch: _by_batch,
    plots.Promises: _promises,
    plots.Heat: _heat,
    plots.StepTimes: _step_times,
}
