"""Draw the plots of reports.plots: numbers and labels come in, nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from reports import depths, plots, scatter
from reports.drawing import Drawing, colour, finish, fit, settings, text_width
from reports.panels import (
    axes,
    bars,
    blank,
    frame,
    grid,
    key,
    keyed,
    legend,
    line,
    name_axes,
    outer,
    plain,
    shapes,
    signs,
    ticks,
    title,
    width_of,
)
from reports.parts import Figure, ReportView, walk
from reports.style import DASHES, Sheet, look
from reports.text import fixed, span


def draw(part: Figure, sheet: Sheet) -> Drawing:
    """Return the drawing of a figure for a sheet.

    Raises:
        TypeError: there is no drawing for this kind of plot.
    """
    how = _DRAW.get(type(part.plot))
    if how is None:
        raise TypeError(f"no drawing for {type(part.plot).__name__}")
    with settings(sheet, part.id):
        return finish(how(part.plot, sheet), sheet)


def draw_all(view: ReportView, sheet: Sheet) -> dict[str, Drawing]:
    """Return the drawing of every figure of a report by the figure's id."""
    return {part.id: draw(part, sheet) for part in walk(view) if isinstance(part, Figure)}


def _by_batch(plot: plots.ByBatch, sheet: Sheet) -> Canvas:
    keys = [
        key("realised, 95% interval", width=1.4, marker="o", fill="ink"),
        key("ideal", width=1.1, dash="4 2"),
        key("full model = 1", "muted", 0.8),
    ]
    behind = plot.series if plot.others else ()
    if behind:
        keys.append(key("other arms, realised", "faint", 0.8))
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    tops = [v.high for s in plot.series for _, v in s.realised] + [v for s in plot.series for _, v in s.ideal] + [1.0]
    figure, made, columns = grid(sheet, len(plot.series), height=88, top=44)
    legend(figure, keys, sheet, 34)
    for i, (ax, series) in enumerate(zip(made, plot.series, strict=True)):
        _places(ax, plot.batches, 1.08 * max(tops), outer(i, len(made), columns))
        bars(ax, [[(place[b], v.value) for b, v in s.realised] for s in behind if s is not series], "faint", 0.6)
        name = look(series.swatch.method).colour
        bars(ax, [[(-0.35, 1.0), (len(place) - 0.65, 1.0)]], "muted", 0.8)
        line(ax, [(place[b], v) for b, v in series.ideal], name, 1.1, "4 2")
        line(ax, [(place[b], v.value) for b, v in series.realised], name, 1.4)
        bars(ax, [[(place[b], v.low), (place[b], v.high)] for b, v in series.realised], name, 2.4, 0.45)
        tips = [
            f"{series.name}, batch {b}: realised {fixed(v.value)} ({span(v.low, v.high)})" for b, v in series.realised
        ]
        signs(ax, [(place[b], v.value) for b, v in series.realised], series.swatch, tips, 5)
        title(ax, sheet, series.name)
    name_axes(figure, made, "Batch size (rows)", "Speed-up (× full model)", sheet)
    return figure


def _places(
    ax: Axes, batches: tuple[int, ...], high: float, shown: tuple[bool, bool], format_y: Callable[[float], str] = plain
) -> None:
    """An axes with the batch sizes side by side, not to scale, and 0 to `high` upwards."""
    left, below = shown
    bounds = (-0.35, len(batches) - 0.65)
    labels = [str(b) for b in batches]
    frame(
        ax,
        bounds,
        (0.0, high),
        range(len(batches)),
        ticks(0, high, 5),
        xlabels=labels,
        left=left,
        below=below,
        format_y=format_y,
    )


def _rates(plot: plots.Rates, sheet: Sheet) -> Canvas:
    groups = plot.panels or (("", ()),)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    rows = [[*([plot.full] if plot.full else []), *group] for _, group in groups]
    figure, made, columns = grid(
        sheet, len(groups), height=88, left=46, top=8, gap_y=16, above=[1.45 * sheet.small * len(r) + 4 for r in rows]
    )
    high = 1.06 * max(v for shown in rows for c in shown for _, v in c.rates)
    for i, (ax, shown) in enumerate(zip(made, rows, strict=True)):
        _places(ax, plot.batches, high, outer(i, len(made), columns), format_y=lambda v: f"{v:,.0f}")
        keys = []
        for j, curve in enumerate(shown):
            drawn, full = look(curve.swatch.method), curve is plot.full
            dash = "" if full else DASHES[(j - (plot.full is not None)) % len(DASHES)]
            line(ax, [(place[b], v) for b, v in curve.rates], drawn.colour, 1.3, dash)
            tips = [f"{curve.name}, batch {b}: {v:,.0f} tokens/s" for b, v in curve.rates]
            signs(ax, [(place[b], v) for b, v in curve.rates], curve.swatch, tips, 4)
            fill = "paper" if curve.swatch.hollow else drawn.colour
            keys.append((curve.name, key("", drawn.colour, 1.3, dash, drawn.marker, fill)))
        keyed(ax, sheet, keys)
    name_axes(figure, made, "Batch size (rows)", "Tokens per second, all rows", sheet)
    return figure


_STATIONS = {"target": ("d", "muted"), "layer ratio": ("s", "muted"), "ideal": ("D", "muted")}


def _rows(names: list[str], sheet: Sheet, *, pitch: float, top: float) -> tuple[Canvas, Axes]:
    """A figure with one named line per row and axes beside the names."""
    width = sheet.column
    room = min(0.42 * width, 8 + max(text_width(name, sheet.small) for name in names))
    pitch *= 0.5 + 0.5 * sheet.tall
    figure = blank(width, top + pitch * len(names) + 34)
    ax = axes(figure, room, top, width - room - 10, pitch * len(names))
    ax.spines[["left", "bottom"]].set_visible(False)
    words = [fit(name, sheet.small, room - 8) for name in names]
    ax.set_yticks(range(len(names)), words, color=colour("ink"))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.xaxis.grid(True)
    return figure, ax


def _promises(plot: plots.Promises, sheet: Sheet) -> Canvas:
    keys = [key(name, shade, marker=shape) for name, (shape, shade) in _STATIONS.items()]
    keys.append(key("realised, 95% interval (sign of the method)", "ink", 2.2, marker="o", fill="ink"))
    left = 0.3 * sheet.column if sheet.column > 300 else 4
    top = legend(blank(sheet.column, 99), keys, sheet, left) + 10
    figure, ax = _rows([row.name for row in plot.rows], sheet, pitch=17, top=top)
    legend(figure, keys, sheet, left)
    every = [v for row in plot.rows for v in row.values]
    every += [v for row in plot.rows if row.realised for v in (row.realised.low, row.realised.high)]
    low, high = min(0.9, *every), max(every)
    ax.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    ax.set_xticks(found := ticks(*ax.get_xlim(), 8), [f"{v:g}" for v in found])
    bars(ax, [[(1.0, -0.5), (1.0, len(plot.rows) - 0.5)]], "muted", 0.8)
    bars(ax, [[(min(row.values), i), (max(row.values), i)] for i, row in enumerate(plot.rows)], "faint", 0.8)
    for station, (marker, shade) in _STATIONS.items():
        values = [(i, row, getattr(row, station.replace(" ", "_"))) for i, row in enumerate(plot.rows)]
        known = [(i, row, value) for i, row, value in values if value is not None]
        tips = [f"{row.name}: {station} {fixed(value)}" for _, row, value in known]
        shapes(ax, [(value, i) for i, _, value in known], marker, shade, "paper", tips, 6)
    for i, row in enumerate(plot.rows):
        if row.realised:
            v = row.realised
            bars(ax, [[(v.low, i), (v.high, i)]], look(row.swatch.method).colour, 2.2, 0.6)
            signs(
                ax, [(v.value, i)], row.swatch, [f"{row.name}: realised {fixed(v.value)} ({span(v.low, v.high)})"], 6.5
            )
    name_axes(figure, [ax], f"Speed-up of decoding, batch size {plot.batch} (× full model)", "", sheet)
    return figure


# From dark to light, so that neighbours differ in grey too.
PART_COLOURS = {
    "blocks": ("blue", 1.0),
    "head": ("green", 0.55),
    "exit tests": ("orange", 1.0),
    "K/V fill": ("amber", 0.5),
    "embedding": ("ink", 0.75),
    "host and rest": ("grey", 0.4),
}


def _breakdown(plot: plots.Breakdown, sheet: Sheet) -> Canvas:
    names = [part for part in PART_COLOURS if any(part in dict(row.parts) for row in plot.rows)]
    names += sorted({part for row in plot.rows for part, _ in row.parts} - set(names))
    figure, ax = _rows([row.name for row in plot.rows], sheet, pitch=16, top=24)
    looks = {name: PART_COLOURS.get(name, ("pink", 0.8)) for name in names}
    patches = [Patch(facecolor=colour(c), alpha=a, linewidth=0, label=name) for name, (c, a) in looks.items()]
    legend(figure, patches, sheet, 34 if sheet.column > 300 else 4)
    totals = [sum(v for _, v in row.parts) for row in plot.rows]
    wide = width_of(ax)
    room = text_width(fixed(max(totals), 2), sheet.small) + 6  # for the sum at the end of a bar
    ax.set_xlim(0, max(totals) * wide / (wide - room))
    ax.set_xticks(found := ticks(*ax.get_xlim(), 8), [f"{v:g}" for v in found])
    for i, (row, total) in enumerate(zip(plot.rows, totals, strict=True)):
        parts, at = dict(row.parts), 0.0
        for name in names:
            value = parts.get(name, 0.0)
            shade, alpha = looks[name]
            if value > 0:
                tip = f"{row.name}: {name} {fixed(value, 3)} ms of {fixed(total, 3)} ms"
                ax.barh(i, value, 0.6, left=at, color=colour(shade), alpha=alpha, linewidth=0, url=tip, zorder=2)
            at += value
        ax.annotate(
            fixed(at, 2), (at, i), (4, 0), textcoords="offset points", va="center_baseline", fontsize=sheet.small,
            color=colour("muted"),
        )  # fmt: skip
    name_axes(figure, [ax], f"Time of a decode step, batch size {plot.batch} (ms)", "", sheet)
    return figure


def _tax(plot: plots.Tax, sheet: Sheet) -> Canvas:
    keys = (
        key("blocks the batch computed (its last row decides)", width=1.4, marker="o", fill="ink"),
        key("blocks a row needed, mean", width=1.1, dash="4 2"),
        Patch(facecolor=colour("faint"), linewidth=0, label="the tax"),
    )
    figure, made, columns = grid(sheet, len(plot.rows), height=88, top=44)
    legend(figure, keys, sheet, 34 if sheet.column > 300 else 4)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    for i, (ax, row) in enumerate(zip(made, plot.rows, strict=True)):
        _places(ax, plot.batches, 1.06 * plot.depth, outer(i, len(made), columns))
        bars(ax, [[(place[b], mean), (place[b], max(mean, run))] for b, mean, run in row.depths], "faint", 7)
        name = look(row.swatch.method).colour
        line(ax, [(place[b], mean) for b, mean, _ in row.depths], name, 1.1, "4 2")
        line(ax, [(place[b], computed) for b, _, computed in row.depths], name, 1.4)
        tips = [
            f"{row.name}, batch {b}: a row needed {fixed(mean, 1)} blocks, the batch computed {fixed(computed, 1)}"
            for b, mean, computed in row.depths
        ]
        signs(ax, [(place[b], computed) for b, _, computed in row.depths], row.swatch, tips, 5)
        title(ax, sheet, row.name)
    name_axes(figure, made, "Batch size (rows)", f"Blocks per token, of {plot.depth}", sheet)
    return figure


_DRAW: dict[type, Callable[[Any, Sheet], Canvas]] = {
    plots.TradeOff: scatter.trade_off,
    plots.ByBatch: _by_batch,
    plots.Rates: _rates,
    plots.Tax: _tax,
    plots.Promises: _promises,
    plots.Breakdown: _breakdown,
    plots.Heat: depths.heat,
    plots.Depths: depths.histogram,
    plots.StepTimes: depths.step_times,
}
