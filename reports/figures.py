"""Draw the plots of reports.plots: numbers and labels come in, nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reports import depths, plots, scatter
from reports.axes import Key, Panel, axis_words, below_axis, legend, outer, panels, ticks
from reports.canvas import Canvas, text_width
from reports.parts import Figure, ReportView, walk
from reports.style import DASHES, Sheet, look
from reports.text import fixed, span


def draw(part: Figure, sheet: Sheet) -> Canvas:
    """Return the drawing of a figure for a sheet.

    Raises:
        TypeError: there is no drawing for this kind of plot.
    """
    how = _DRAW.get(type(part.plot))
    if how is None:
        raise TypeError(f"no drawing for {type(part.plot).__name__}")
    return how(part.plot, sheet)


def draw_all(view: ReportView, sheet: Sheet) -> dict[str, Canvas]:
    """Return the drawing of every figure of a report by the figure's id."""
    return {part.id: draw(part, sheet) for part in walk(view) if isinstance(part, Figure)}


def _places(panel: Panel, batches: tuple[int, ...], high: float) -> Panel:
    """A panel with the batch sizes side by side, not to scale, and 0 to `high` upwards."""
    return panel.within((-0.35, len(batches) - 0.65), (0.0, high))


def _by_batch(plot: plots.ByBatch, sheet: Sheet) -> Canvas:
    keys = [
        Key("realised, 95% interval", width=1.4, shape="o", fill="ink"),
        Key("ideal", width=1.1, dash="4 2"),
        Key("full model = 1", "muted", 0.8),
    ]
    behind = plot.series if plot.others else ()
    if behind:
        keys.append(Key("other arms, realised", "faint", 0.8))
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    tops = [v.high for s in plot.series for _, v in s.realised] + [v for s in plot.series for _, v in s.ideal] + [1.0]
    canvas, made, columns = panels(sheet, len(plot.series), height=94, top=44, gap_y=26)
    legend(canvas, keys, 34, sheet.small + 1, sheet.small, canvas.width - 40)
    for i, (frame, series) in enumerate(zip(made, plot.series, strict=True)):
        panel = _places(frame, plot.batches, 1.08 * max(tops))
        left, below = outer(i, len(made), columns)
        labels = [str(b) for b in plot.batches]
        panel.frame(
            list(place.values()),
            ticks(0, panel.ys[1], 6),
            sheet.small,
            xlabels=labels,
            left=left,
            below=below,
            xgrid=False,
        )
        others = [[(place[b], v.value) for b, v in s.realised] for s in behind if s is not series]
        canvas.path([panel.points(line) for line in others], "faint", 0.6)
        colour = look(series.swatch.method).colour
        panel.across(1.0, "muted")
        panel.line([(place[b], v) for b, v in series.ideal], colour, 1.1, "4 2")
        panel.line([(place[b], v.value) for b, v in series.realised], colour, 1.4)
        for batch, v in series.realised:
            x = panel.x(place[batch])
            with canvas.tip(f"{series.name}, batch {batch}: realised {fixed(v.value)} ({span(v.low, v.high)})"):
                canvas.path([[(x, panel.y(v.low)), (x, panel.y(v.high))]], colour, 2.4, alpha=0.45)
                canvas.sign(x, panel.y(v.value), series.swatch, 5)
        panel.title(series.name)
    axis_words(canvas, made, "Batch size (rows)", "Speed-up (× full model)")
    return canvas


def _rates(plot: plots.Rates, sheet: Sheet) -> Canvas:
    groups = plot.panels or (("", ()),)
    step = sheet.small + 3.5
    above = [step * (len(curves) + (plot.full is not None)) for _, curves in groups]
    canvas, made, columns = panels(sheet, len(groups), height=94, left=46, top=8, gap_y=18, above=above)
    every = [c for _, group in groups for c in group] + ([plot.full] if plot.full else [])
    high = 1.06 * max(v for c in every for _, v in c.rates)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    for i, (frame, (_, group)) in enumerate(zip(made, groups, strict=True)):
        panel = _places(frame, plot.batches, high)
        left, below = outer(i, len(made), columns)
        labels = [str(b) for b in plot.batches]
        panel.frame(
            list(place.values()), ticks(0, high, 5), sheet.small, xlabels=labels, left=left, below=below, xgrid=False,
            format_y=lambda v: f"{v:,.0f}",
        )  # fmt: skip
        shown = [*([plot.full] if plot.full else []), *group]
        for j, curve in enumerate(shown):
            colour = look(curve.swatch.method).colour
            dash = DASHES[(j - (plot.full is not None)) % len(DASHES)] if curve is not plot.full else ""
            panel.line([(place[b], v) for b, v in curve.rates], colour, 1.3, dash)
            for batch, v in curve.rates:
                with canvas.tip(f"{curve.name}, batch {batch}: {v:,.0f} tokens/s"):
                    canvas.sign(panel.x(place[batch]), panel.y(v), curve.swatch, 4)
            key = Key(canvas.fit(curve.name, sheet.small, panel.width - 24), colour, 1.3, dash, swatch=curve.swatch)
            legend(canvas, (key,), panel.x0, panel.y0 - 4 - step * (len(shown) - 1 - j), sheet.small, panel.width)
    axis_words(canvas, made, "Batch size (rows)", "Tokens per second, all rows")
    return canvas


_STATIONS = {"target": ("d", "muted"), "layer ratio": ("s", "muted"), "ideal": ("D", "muted")}


def _rows(names: list[str], sheet: Sheet, *, pitch: float, top: float) -> tuple[Canvas, Panel]:
    """A canvas with one named line per row and a panel beside the names."""
    width = sheet.column
    room = min(0.42 * width, 8 + sheet.letters * max(text_width(name, sheet.small) for name in names))
    pitch *= 0.5 + 0.5 * sheet.tall
    canvas = Canvas(width, top + pitch * len(names) + 34, sheet)
    panel = Panel(canvas, room, top, width - room - 10, pitch * len(names), ys=(len(names) - 0.5, -0.5))
    for i, name in enumerate(names):
        y = panel.y(i) + 0.34 * sheet.small
        canvas.text(room - 6, y, canvas.fit(name, sheet.small, room - 8), size=sheet.small, anchor="end")
    return canvas, panel


def _promises(plot: plots.Promises, sheet: Sheet) -> Canvas:
    keys = [Key(name, colour, shape=shape) for name, (shape, colour) in _STATIONS.items()]
    keys.append(Key("realised, 95% interval (sign of the method)", "ink", 2.2, shape="o", fill="ink"))
    probe = Canvas(0, 0, sheet)
    head = legend(probe, keys, 0, 0, sheet.small, sheet.column * 0.6) + 8
    canvas, panel = _rows([row.name for row in plot.rows], sheet, pitch=19, top=head)
    every = [v for row in plot.rows for v in row.values]
    every += [v for row in plot.rows if row.realised for v in (row.realised.low, row.realised.high)]
    low, high = min(0.9, *every), max(every)
    panel = panel.within((low - 0.04 * (high - low), high + 0.04 * (high - low)), panel.ys)
    legend(canvas, keys, panel.x0, sheet.small + 1, sheet.small, canvas.width - panel.x0)
    panel.frame(ticks(*panel.xs, 8), [], sheet.small, axes=False)
    panel.down(1.0, "muted")
    for i, row in enumerate(plot.rows):
        y = panel.y(i)
        canvas.path([[(panel.x(min(row.values)), y), (panel.x(max(row.values)), y)]], "faint", 0.8)
        stations = zip((row.target, row.layer_ratio, row.ideal), _STATIONS.items(), strict=True)
        for value, (name, (shape, colour)) in stations:
            if value is not None:
                with canvas.tip(f"{row.name}: {name} {fixed(value)}"):
                    canvas.shape(panel.x(value), y, shape, 6.5, colour)
        if row.realised:
            colour = look(row.swatch.method).colour
            tip = f"{row.name}: realised {fixed(row.realised.value)} ({span(row.realised.low, row.realised.high)})"
            with canvas.tip(tip):
                ends = [(panel.x(row.realised.low), y), (panel.x(row.realised.high), y)]
                canvas.path([ends], colour, 2.2, alpha=0.6)
                canvas.sign(panel.x(row.realised.value), y, row.swatch, 6.5)
    words = f"Speed-up of decoding, batch size {plot.batch} (× full model)"
    below_axis(canvas, panel.x0 + panel.width / 2, words)
    return canvas


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
    canvas, panel = _rows([row.name for row in plot.rows], sheet, pitch=17, top=22)
    longest = max(sum(v for _, v in row.parts) for row in plot.rows)
    room = canvas.wide(fixed(longest, 2), sheet.small) + 6  # for the sum at the end of a bar
    panel = panel.within((0.0, longest * panel.width / (panel.width - room)), panel.ys)
    panel.frame(ticks(*panel.xs, 8), [], sheet.small, axes=False)
    x = panel.x0
    for name in names:
        colour, alpha = PART_COLOURS.get(name, ("pink", 0.8))
        canvas.rect(x, 4, 9, 7, colour, alpha=alpha)
        canvas.text(x + 12, 4 + sheet.small, name, size=sheet.small)
        x += 24 + canvas.wide(name, sheet.small)
    for i, row in enumerate(plot.rows):
        parts, at = dict(row.parts), 0.0
        for name in names:
            value = parts.get(name, 0.0)
            colour, alpha = PART_COLOURS.get(name, ("pink", 0.8))
            if value > 0:
                with canvas.tip(f"{row.name}: {name} {fixed(value, 3)} ms of {fixed(sum(parts.values()), 3)} ms"):
                    left = panel.x(at)
                    canvas.rect(left, panel.y(i) - 5, panel.x(at + value) - left, 10, colour, alpha=alpha)
            at += value
        canvas.text(panel.x(at) + 4, panel.y(i) + 0.34 * sheet.small, fixed(at, 2), size=sheet.small, colour="muted")
    words = f"Time of a decode step, batch size {plot.batch} (ms)"
    below_axis(canvas, panel.x0 + panel.width / 2, words)
    return canvas


def _tax(plot: plots.Tax, sheet: Sheet) -> Canvas:
    keys = (
        Key("blocks the batch computed (its last row decides)", width=1.4, shape="o", fill="ink"),
        Key("blocks a row needed, mean", width=1.1, dash="4 2"),
        Key("the tax", "faint", patch=True),
    )
    canvas, made, columns = panels(sheet, len(plot.rows), height=94, top=44)
    legend(canvas, keys, 34, sheet.small + 1, sheet.small, canvas.width - 40)
    place = {batch: float(i) for i, batch in enumerate(plot.batches)}
    for i, (frame, row) in enumerate(zip(made, plot.rows, strict=True)):
        panel = _places(frame, plot.batches, 1.06 * plot.depth)
        left, below = outer(i, len(made), columns)
        labels = [str(b) for b in plot.batches]
        for batch, mean, computed in row.depths:
            x = panel.x(place[batch])
            canvas.rect(x - 4, panel.y(computed), 8, max(panel.y(mean) - panel.y(computed), 0.0), "faint")
        panel.frame(
            list(place.values()),
            ticks(0, plot.depth, 5),
            sheet.small,
            xlabels=labels,
            left=left,
            below=below,
            xgrid=False,
        )
        colour = look(row.swatch.method).colour
        panel.line([(place[b], mean) for b, mean, _ in row.depths], colour, 1.1, "4 2")
        panel.line([(place[b], computed) for b, _, computed in row.depths], colour, 1.4)
        for batch, mean, computed in row.depths:
            tip = f"{row.name}, batch {batch}: a row needed {fixed(mean, 1)} blocks, the batch computed {fixed(computed, 1)}"
            with canvas.tip(tip):
                canvas.sign(panel.x(place[batch]), panel.y(computed), row.swatch, 5)
        panel.title(row.name)
    axis_words(canvas, made, "Batch size (rows)", f"Blocks per token, of {plot.depth}")
    return canvas


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
