"""Figures: labels that do not cover each other, signs that stay the same, sizes that stay small."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from harness.stats.intervals import Interval
from reports.draw import spreads, trade_off
from reports.draw.figures import draw, draw_all
from reports.draw.place import Box, place
from reports.draw.style import COLOURS, PAGE, PAPER, Sheet, look
from reports.draw.svg import fit, inline, sign, signs, text_width
from reports.facts import load
from reports.view.parts import Figure, Swatch
from reports.write.view import build


def test_labels_of_a_crowd_do_not_overlap() -> None:
    rng = np.random.default_rng(3)
    points = [(float(x), float(y)) for x, y in rng.normal((300, 150), (60, 40), (15, 2))]
    bounds = Box(0, 0, 640, 300)
    placed = [p.box for p in place(points, [(80.0, 9.0)] * 15, [], bounds)]
    for a, b in combinations(placed, 2):
        assert min(a.x1, b.x1) <= max(a.x0, b.x0) or min(a.y1, b.y1) <= max(a.y0, b.y0)
    for box in placed:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 640 and box.y1 <= 300
        assert not any(box.x0 < x < box.x1 and box.y0 < y < box.y1 for x, y in points)


def test_no_labels() -> None:
    assert place([], [], [], Box(0, 0, 1, 1)) == []


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


def test_points_tell_their_values() -> None:
    points = (
        trade_off.Point("Full model", Swatch("full"), Interval(1, 1, 1, 0), Interval(60, 59, 61, 9), True),
        trade_off.Point("a <b>", Swatch("calm"), Interval(2, 1.9, 2.1, 9), Interval(59, 58, 60, 9), True),
    )
    plot = trade_off.TradeOff(1, "BLEU", True, points, 60.0, 1.0)
    drawn = svg(Figure("f", "", "", "alt", plot))
    assert "<title>a &lt;b&gt;: 2.00 times (1.90 to 2.10), BLEU 59.0 (58.0 to 60.0)</title>" in drawn


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
    assert len(drawn) >= 9
    for ident, drawing in drawn.items():
        assert drawing.width <= sheet.width
        root = ElementTree.fromstring(f'<svg xmlns:xlink="http://www.w3.org/1999/xlink">{drawing.body}</svg>')
        for text in root.iter("text"):
            size = float(text.get("font-size", drawing.size))
            wide = text_width(text.text or "", size)
            x, y = float(text.get("x", 0)), float(text.get("y", 0))
            if text.get("transform"):
                assert size - 1 <= x and wide / 2 <= y + 1 and y + wide / 2 <= drawing.height + 1, (ident, text.text)
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
