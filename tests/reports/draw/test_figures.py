"""Figures: labels that do not cover each other, signs that stay the same, sizes that stay small."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from harness.stats.intervals import Interval
from reports.draw import speed, spreads, trade_off
from reports.draw.canvas import settings
from reports.draw.figures import draw, draw_all
from reports.draw.style import COLOURS, PAGE, PAPER, Sheet, look
from reports.draw.svg import fit, inline, sign, signs, text_width
from reports.facts import load
from reports.facts.facts import gather
from reports.view.parts import Figure, Swatch
from reports.write.view import build


def test_methods_look_the_same_everywhere_and_unlike_each_other() -> None:
    names = [
        "full",
        "skipdecode",
        "calm",
        "fixed_exit",
        "random_skip",
        "unified_skip",
        "d3",
        "layerskip",
        "shortgpt",
        "swift",
    ]
    looks = [look(n) for n in names]
    assert len({(v.colour, v.marker) for v in looks}) == len(names)
    assert look("a method of tomorrow") == look("a method of tomorrow")
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", [n for n in COLOURS if n not in ("rule", "band", "faint", "paper")])
def test_contrast_on_both_pages(name: str) -> None:
    for shade, paper in zip(COLOURS[name], COLOURS["paper"], strict=True):
        high, low = sorted((_luminance(shade), _luminance(paper)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3


def test_a_hollow_sign_is_hollow() -> None:
    assert 'fill="var(--paper)"' in signs([Swatch("skipdecode", hollow=True)])
    assert 'fill="var(--blue)"' in signs([Swatch("skipdecode")])
    assert sign(Swatch("full")) != sign(Swatch("calm"))


def test_a_sign_shows_a_shape_that_is_there() -> None:
    used = [Swatch("skipdecode"), Swatch("calm"), Swatch("calm", hollow=True), Swatch('a "method" <of> tomorrow')]
    shapes = re.findall(r'id="([^"]+)"', signs([*used, *used]))
    assert len(shapes) == len(set(shapes)) == 4
    assert [re.findall(r'href="#([^"]+)"', sign(swatch)) for swatch in used] == [[s] for s in map(_shape, used)]
    assert {*map(_shape, used)} == {*shapes}


def _shape(swatch: Swatch) -> str:
    (name,) = re.findall(r'id="([^"]+)"', signs([swatch]))
    return str(name)


def svg(figure: Figure) -> str:
    return inline(draw(figure, PAGE), figure.alt)


def heat(steps: int = 63, depth: int = 24) -> Figure:
    panel = spreads.HeatPanel(
        "An arm with $two$ dollars & <angles>", np.linspace(0, 1, steps * depth).reshape(steps, depth), 12.0
    )
    return Figure("fig-one", "title", "caption", 'alt with "quotes" & <angles>', spreads.Heat((panel,)))


def test_drawing_is_inline_and_escaped() -> None:
    drawn = svg(heat())
    assert drawn.startswith('<svg role="img" aria-label="alt with &quot;quotes&quot; &amp; &lt;angles&gt;"')
    assert "An arm with $two$ dollars &amp; &lt;angles&gt;" in drawn
    assert "\n<text" in drawn, "text stays text"
    assert drawn == svg(heat())
    assert len(drawn) < 20_000


def curve(
    name: str, *points: tuple[str, float, float], method: str = "skipdecode", control: bool = False
) -> trade_off.Line:
    """A method's curve from (setting, speed, quality), with intervals of a tenth and a point."""
    made = (
        trade_off.Point(f"{name} {s}", s, Interval(x, x / 1.1, 1.1 * x, 9), Interval(y, y - 1, y + 1, 9))
        for s, x, y in points
    )
    return trade_off.Line(name, Swatch(method), control, tuple(made))


LINES = (
    curve("SkipDecode", ("2x", 1.9, 59.0), ("4x", 3.1, 57.0)),
    curve("a <b>", ("0.9", 0.8, 58.0), ("0.5", 1.5, 2.0), method="calm"),
    curve("Random skip", ("12", 2.0, 0.1), method="random_skip", control=True),
)


def trade(lines: tuple[trade_off.Line, ...] = LINES, sheet: Sheet = PAGE) -> str:
    """The drawing of these curves at a full model of 60."""
    plot = trade_off.TradeOff(1, "BLEU", True, lines, 60.0, 1.0)
    return draw(Figure("f", "", "", "alt", plot), sheet).body


def test_points_tell_their_values() -> None:
    assert "<title>a &lt;b&gt; 0.9: 0.80 times (0.73 to 0.88), BLEU 58.0 (57.0 to 59.0)</title>" in trade()


def words(body: str) -> list[tuple[str, float, float, float]]:
    """(words, x, y, width) of every text that stands upright."""
    root = ElementTree.fromstring(f'<svg xmlns:xlink="http://www.w3.org/1999/xlink">{body}</svg>')
    found = []
    for text in root.iter("text"):
        if "rotate" not in text.get("transform", ""):
            size = float(text.get("font-size", "7"))
            wide = text_width(text.text or "", size)
            x = (
                float(text.get("x", 0))
                - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")]
            )
            found.append((text.text or "", x, float(text.get("y", 0)), wide))
    return found


@pytest.mark.parametrize("sheet", [PAGE, PAPER], ids=["page", "paper"])
def test_a_curve_is_named_once_and_its_settings_stand_at_its_points(sheet: Sheet) -> None:
    told = [text for text, *_ in words(trade(sheet=sheet))]
    for name in ("SkipDecode", "a <b>", "2x", "4x", "0.9", "full model"):
        assert told.count(name) == 1, name
    assert "0.5" not in [t for t in told if t == "a <b> 0.5"]


def test_what_is_of_no_use_does_not_stretch_the_axis() -> None:
    """A quality of 0.1 beside 60 stands at the edge with its value, and the axis begins near what can be used."""
    body = trade()
    told = [text for text, *_ in words(body)]
    assert "Random skip: 0.1" in told and "<title>Random skip 12: 2.00 times" in body
    ticks = [float(text) for text in told if re.fullmatch(r"\d\d(\.\d)?", text)]
    assert ticks and min(ticks) >= 50


def test_a_crowd_at_the_edge_is_named_where_there_is_room() -> None:
    """Twenty names do not fit under one another; who is not written here stands in the caption."""
    lost = tuple(curve(f"Lost {i}", ("x", 2.0 + i / 100, 0.1)) for i in range(20))
    named = [place for place in words(trade((*LINES[:1], *lost))) if place[0].startswith(("Lost", "SkipDecode"))]
    assert "SkipDecode" in [place[0] for place in named] and 1 < len(named) < 21
    for i, (_, x, y, wide) in enumerate(named):
        for _, other, height, room in named[:i]:
            assert abs(y - height) > 5 or x + wide <= other + 1 or other + room <= x + 1


def test_a_shallower_model_has_a_name_and_the_full_model_on_other_weights_has_none() -> None:
    """Both are drawn with the full model's sign; only the second needs no more than the legend."""
    shallow = curve("6 blocks", ("", 3.0, 61.0), method="full", control=True)
    other = replace(curve("Other weights", ("", 1.02, 59.5), method="full", control=True), named=False)
    told = [text for text, *_ in words(trade((*LINES, shallow, other)))]
    assert told.count("6 blocks") == 1 and "Other weights" not in told


def test_words_far_from_their_mark_are_led_to_it() -> None:
    """Names that cannot stand beside a crowd have a line to it; beside a lonely mark there is none."""
    crowd = tuple(curve(f"Crowded {i}", ("", 2.0 + i / 200, 59.0 + i / 50)) for i in range(12))
    alone, crowded = (
        set(re.findall(r"stroke: (#\w+); stroke-width: 0.5", trade(lines)))
        for lines in (LINES[:1], (*LINES[:1], *crowd))
    )
    assert len(alone) == 1 and crowded > alone, "thin lines are the grid's, and those that lead"


def test_the_caption_names_what_lies_at_the_edge(quick_run: Path) -> None:
    facts = gather(load.load([quick_run])[0])
    figures = list(trade_off.trade_offs(facts))
    assert figures
    for figure in figures:
        plot = figure.plot
        assert isinstance(plot, trade_off.TradeOff)
        least = plot.quality * (1 - trade_off.USEFUL) - plot.margin
        for one in plot.lines:
            if all(p.quality.value < least for p in one.points):
                assert f"{one.name} (" in figure.caption, one.name
            if any(p.quality.value > plot.quality for p in one.points):
                assert f"{one.name} (" not in figure.caption, one.name


def test_the_names_of_a_crowd_do_not_cover_each_other() -> None:
    rng = np.random.default_rng(3)
    lines = tuple(
        curve(
            f"Method {i}",
            *(("x", float(x), float(y)) for x, y in zip(rng.uniform(0.5, 4, 2), rng.uniform(52, 60, 2), strict=True)),
        )
        for i in range(7)
    )
    named = [place for place in words(trade(lines)) if place[0].startswith(("Method", "full model"))]
    assert len(named) == 8
    for i, (_, x, y, wide) in enumerate(named):
        for _, other, height, room in named[:i]:
            assert abs(y - height) > 5 or x + wide <= other + 1 or other + room <= x + 1


def test_ratios_stand_on_a_logarithmic_axis_over_the_points_alone() -> None:
    """An interval from 0.1 to 100 stretches no axis: it is cut at the edge, and an arrow says so."""
    wide = trade_off.Point("wide", "", Interval(2.0, 0.1, 100.0, 9), Interval(59, 58, 60, 9))
    near = trade_off.Point("near", "", Interval(1.5, 1.4, 1.6, 9), Interval(58, 57, 59, 9))
    with settings(PAGE, "t"):
        plot = trade_off.TradeOff(
            1, "BLEU", True, (trade_off.Line("m", Swatch("calm"), False, (near, wide)),), 60.0, 1.0
        )
        (on,) = trade_off.draw(plot, PAGE).axes
        assert on.get_xscale() == "log"
        low, high = on.get_xlim()
        assert 0.5 < low < 1.0 and 2.0 < high < 3.0
        arrows = {line.get_marker() for line in on.lines}
        assert {"<", ">"} <= arrows


def test_an_unknown_plot_is_refused() -> None:
    with pytest.raises(TypeError, match="no drawing for int"):
        draw(Figure("f", "", "", "", 3), PAGE)


def test_names_inside_several_drawings_do_not_clash(quick_html: str) -> None:
    names = re.findall(r'\bid="([^"]+)"', quick_html)
    assert len(names) == len(set(names))
    assert set(re.findall(r'xlink:href="#([^"]+)"', quick_html)) <= set(names)


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    svg(heat())
    assert dict(matplotlib.rcParams) == before
    code = "import sys, reports.draw.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("sheet", [PAGE, PAPER], ids=["page", "paper"])
def test_no_text_leaves_its_drawing(quick_run: Path, sheet: Sheet) -> None:
    drawn = draw_all(build(load.load([quick_run])), sheet)
    assert len(drawn) >= 8
    for ident, drawing in drawn.items():
        assert drawing.width <= sheet.width
        root = ElementTree.fromstring(f'<svg xmlns:xlink="http://www.w3.org/1999/xlink">{drawing.body}</svg>')
        for text in root.iter("text"):
            size = float(text.get("font-size", drawing.size))
            wide = text_width(text.text or "", size)
            x, y = float(text.get("x", 0)), float(text.get("y", 0))
            if moved := re.match(r"translate\(([\d.]+) ([\d.]+)\)", text.get("transform", "")):
                x, y = map(float, moved.groups())
            if "rotate" in text.get("transform", ""):
                below = wide / 2 if text.get("text-anchor") == "middle" else 0.0
                assert size - 1 <= x and y + below <= drawing.height + 1 and wide - below - 1 <= y, (ident, text.text)
                continue
            left = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")]
            assert left >= -1 and left + wide <= drawing.width + 1, (ident, text.text)
            assert 0.5 * size <= y <= drawing.height, (ident, text.text)


def test_a_long_name_is_cut_to_its_room() -> None:
    assert fit("SkipDecode", 8, 200) == "SkipDecode"
    cut = fit("SkipDecode on some weights", 8, 60)
    assert cut.endswith("…") and text_width(cut, 8) <= 60


def test_a_map_of_shares_keeps_them() -> None:
    """Four pixels a side for each share, so that no viewer blurs one into the next; opacity is the share."""
    panel = spreads.HeatPanel("a", np.array([[0.0, 1.0], [0.5, 0.25]]), 1.0)
    body = draw(Figure("f", "", "", "alt", spreads.Heat((panel,))), PAGE).body
    images = re.findall(r"data:image/png;base64,\s*([^\"]+)", body)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[0]))).convert("RGBA"))
    assert pixels.shape == (8, 8, 4)
    shares = np.sort(pixels[::4, ::4, 3].ravel())
    assert shares.tolist() == [0, 64, 128, 255]


def test_the_words_of_an_axis_stand_beside_its_ticks() -> None:
    """With panels in several rows the words beside all of them lie at the height of some panel's ticks."""
    series = speed.Series("", Swatch("calm"), tuple((b, Interval(0.3, 0.2, 4.0, 5)) for b in (1, 8)), ())
    plot = speed.ByBatch((1, 8), tuple((f"family {i}", (series,)) for i in range(6)))
    with settings(PAGE, "axis"):
        figure = speed.draw_by_batch(plot, PAGE)
        FigureCanvasAgg(figure).draw()
        words = next(t for t in figure.texts if t.get_text().startswith("Speed-up")).get_window_extent()
        ticks = [t.get_window_extent() for on in figure.axes for t in on.get_yticklabels() if t.get_text()]
    assert ticks and not any(words.overlaps(tick) for tick in ticks)
