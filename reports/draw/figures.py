"""Draw the plots of reports.view.plots: numbers and labels come in, nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure as Canvas

from reports.draw import depths, scatter
from reports.draw.drawing import finish, settings
from reports.draw.keys import KEYED, Key, keyed, legend, legend_height
from reports.draw.panels import (
    CAP,
    Panel,
    bars,
    blank,
    boxes,
    frame,
    grid,
    line,
    name_axes,
    outer,
    panel,
    plain,
    shapes,
    signs,
    ticks,
    title,
    write,
)
from reports.draw.style import DASHES, Sheet, look
from reports.draw.svg import Drawing, fit, text_width
from reports.text import fixed, span
from reports.view import plots
from reports.view.parts import Figure, ReportView, walk


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
        Key("realised, 95% interval", width=1.4, marker="o", inside="ink"),
        Key("ideal", width=1.1, dash="4 2"),
        Key("full model = 1", "muted", 0.8),
    ]
    behind = plot.series if plot.others else ()
    if behind:
        keys.append(Key("other arms, realised", "faint", 0.8))
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    tops = [v.high for s in plot.series for _, v in s.realised] + [v for s in plot.series for _, v in s.ideal] + [1.0]
    figure, made, columns = grid(sheet, len(plot.series), height=88, top=44)
    legend(figure, keys, sheet, 34)
    for i, (on, series) in enumerate(zip(made, plot.series, strict=True)):
        _places(on, plot.batches, 1.08 * max(tops), sheet, outer(i, len(made), columns))
        bars(on, [[(place[b], v.value) for b, v in s.realised] for s in behind if s is not series], "faint", 0.6)
        name = look(series.swatch.method).colour
        bars(on, [[(-0.35, 1.0), (len(place) - 0.65, 1.0)]], "muted", 0.8)
        line(on, [(place[b], v) for b, v in series.ideal], name, 1.1, "4 2")
        line(on, [(place[b], v.value) for b, v in series.realised], name, 1.4)
        bars(on, [[(place[b], v.low), (place[b], v.high)] for b, v in series.realised], name, 2.4, 0.45)
        tips = [
            f"{series.name}, batch {b}: realised {fixed(v.value)} ({span(v.low, v.high)})" for b, v in series.realised
        ]
        signs(on, [(place[b], v.value) for b, v in series.realised], series.swatch, tips, 5)
        title(on, sheet, series.name)
    name_axes(figure, made, "Batch size (rows)", "Speed-up (× full model)", sheet)
    return figure


def _places(
    on: Panel, batches: tuple[int, ...], high: float, sheet: Sheet, shown: tuple[bool, bool],
    format_y: Callable[[float], str] = plain,
) -> None:  # fmt: skip
    """Frame a panel with the batch sizes side by side, not to scale, and 0 to `high` upwards."""
    left, below = shown
    found = ticks(0, high, 5)
    frame(
        on, (-0.35, len(batches) - 0.65), (0.0, high), range(len(batches)), found, xlabels=[str(b) for b in batches],
        ylabels=[format_y(v) for v in found], small=sheet.small, left=left, below=below,
    )  # fmt: skip


def _rates(plot: plots.Rates, sheet: Sheet) -> Canvas:
    groups = plot.panels or (("", ()),)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    rows = [[*([plot.full] if plot.full else []), *group] for _, group in groups]
    figure, made, columns = grid(
        sheet, len(groups), height=88, left=46, top=8, gap_y=16, above=[KEYED * sheet.small * len(r) + 4 for r in rows]
    )
    high = 1.06 * max(v for shown in rows for c in shown for _, v in c.rates)
    for i, (on, shown) in enumerate(zip(made, rows, strict=True)):
        _places(on, plot.batches, high, sheet, outer(i, len(made), columns), format_y=lambda v: f"{v:,.0f}")
        keys = []
        for j, curve in enumerate(shown):
            drawn, full = look(curve.swatch.method), curve is plot.full
            dash = "" if full else DASHES[(j - (plot.full is not None)) % len(DASHES)]
            line(on, [(place[b], v) for b, v in curve.rates], drawn.colour, 1.3, dash)
            tips = [f"{curve.name}, batch {b}: {v:,.0f} tokens/s" for b, v in curve.rates]
            signs(on, [(place[b], v) for b, v in curve.rates], curve.swatch, tips, 4)
            fill = "paper" if curve.swatch.hollow else drawn.colour
            keys.append(Key(curve.name, drawn.colour, 1.3, dash, drawn.marker, fill))
        keyed(on, sheet, keys)
    name_axes(figure, made, "Batch size (rows)", "Tokens per second, all rows", sheet)
    return figure


_STATIONS = {"target": ("d", "muted"), "layer ratio": ("s", "muted"), "ideal": ("D", "muted")}


def _rows(
    names: list[str], values: list[float], sheet: Sheet, *, pitch: float, top: float, room_right: float = 10.0
) -> tuple[Canvas, Panel]:
    """A figure with one named line per row, and beside the names a panel that reaches from the least value to the greatest."""
    width = sheet.column
    room = min(0.42 * width, 8 + max(text_width(name, sheet.small) for name in names))
    pitch *= 0.5 + 0.5 * sheet.tall
    figure = blank(width, top + pitch * len(names) + 34)
    on = panel(figure, room, top, width - room - room_right, pitch * len(names))
    bounds = (min(values), max(values))
    frame(
        on, bounds, (len(names) - 0.5, -0.5), ticks(*bounds, 8), range(len(names)), xgrid=True, ygrid=False, lines="",
        ylabels=[fit(name, sheet.small, room - 8) for name in names], small=sheet.small, labels="ink",
    )  # fmt: skip
    return figure, on


def _promises(plot: plots.Promises, sheet: Sheet) -> Canvas:
    keys = [Key(name, shade, marker=shape) for name, (shape, shade) in _STATIONS.items()]
    keys.append(Key("realised, 95% interval (sign of the method)", "ink", 2.2, marker="o", inside="ink"))
    left = 0.3 * sheet.column if sheet.column > 300 else 4
    every = [v for row in plot.rows for v in row.values]
    every += [v for row in plot.rows if row.realised for v in (row.realised.low, row.realised.high)]
    low, high = min(0.9, *every), max(every)
    bounds = [low - 0.04 * (high - low), high + 0.04 * (high - low)]
    top = legend_height(keys, sheet, left, sheet.column) + 10
    figure, on = _rows([row.name for row in plot.rows], bounds, sheet, pitch=17, top=top)
    legend(figure, keys, sheet, left)
    bars(on, [[(1.0, -0.5), (1.0, len(plot.rows) - 0.5)]], "muted", 0.8)
    bars(on, [[(min(row.values), i), (max(row.values), i)] for i, row in enumerate(plot.rows)], "faint", 0.8)
    for station, (marker, shade) in _STATIONS.items():
        values = [(i, row, getattr(row, station.replace(" ", "_"))) for i, row in enumerate(plot.rows)]
        known = [(i, row, value) for i, row, value in values if value is not None]
        tips = [f"{row.name}: {station} {fixed(value)}" for _, row, value in known]
        shapes(on, [(value, i) for i, _, value in known], marker, shade, "paper", tips, 6)
    for i, row in enumerate(plot.rows):
        if row.realised:
            v = row.realised
            tip = f"{row.name}: realised {fixed(v.value)} ({span(v.low, v.high)})"
            bars(on, [[(v.low, i), (v.high, i)]], look(row.swatch.method).colour, 2.2, 0.6)
            signs(on, [(v.value, i)], row.swatch, [tip], 6.5)
    name_axes(figure, [on], f"Speed-up of decoding, batch size {plot.batch} (× full model)", "", sheet)
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
    totals = [sum(v for _, v in row.parts) for row in plot.rows]
    room = text_width(fixed(max(totals), 2), sheet.small) + 14  # for the sum at the end of a bar
    figure, on = _rows(
        [row.name for row in plot.rows], [0.0, max(totals)], sheet, pitch=16, top=24, room_right=room
    )  # fmt: skip
    looks = {name: PART_COLOURS.get(name, ("pink", 0.8)) for name in names}
    keys = [Key(name, shade, block=alpha) for name, (shade, alpha) in looks.items()]
    legend(figure, keys, sheet, 34 if sheet.column > 300 else 4)
    before = [0.0] * len(plot.rows)
    for name, (shade, alpha) in looks.items():
        sides, tips = [], []
        for i, (row, total) in enumerate(zip(plot.rows, totals, strict=True)):
            value = max(dict(row.parts).get(name, 0.0), 0.0)
            if value:
                sides.append((before[i], i - 0.3, before[i] + value, i + 0.3))
                tips.append(f"{row.name}: {name} {fixed(value, 3)} ms of {fixed(total, 3)} ms")
            before[i] += value
        boxes(on, sides, shade, alpha, tips)
    for i, total in enumerate(totals):
        x, y = on.across(before[i]) + 4, on.up(i) - CAP / 2 * sheet.small
        write(figure, x, y, fixed(total, 2), sheet.small, "muted")
    name_axes(figure, [on], f"Time of a decode step, batch size {plot.batch} (ms)", "", sheet)
    return figure


def _tax(plot: plots.Tax, sheet: Sheet) -> Canvas:
    keys = (
        Key("blocks the batch computed (its last row decides)", width=1.4, marker="o", inside="ink"),
        Key("blocks a row needed, mean", width=1.1, dash="4 2"),
        Key("the tax", "faint", block=1.0),
    )
    figure, made, columns = grid(sheet, len(plot.rows), height=88, top=44)
    legend(figure, keys, sheet, 34 if sheet.column > 300 else 4)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    for i, (on, row) in enumerate(zip(made, plot.rows, strict=True)):
        _places(on, plot.batches, 1.06 * plot.depth, sheet, outer(i, len(made), columns))
        bars(on, [[(place[b], mean), (place[b], max(mean, run))] for b, mean, run in row.depths], "faint", 7)
        name = look(row.swatch.method).colour
        line(on, [(place[b], mean) for b, mean, _ in row.depths], name, 1.1, "4 2")
        line(on, [(place[b], computed) for b, _, computed in row.depths], name, 1.4)
        tips = [
            f"{row.name}, batch {b}: a row needed {fixed(mean, 1)} blocks, the batch computed {fixed(computed, 1)}"
            for b, mean, computed in row.depths
        ]
        signs(on, [(place[b], computed) for b, _, computed in row.depths], row.swatch, tips, 5)
        title(on, sheet, row.name)
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
