"""What the sections add: the best choice, where a method stops paying, gates, depths, and where a step's time goes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from harness.records import published
from reports.draw import canvas, figures, speed, spreads
from reports.draw.figures import draw
from reports.draw.speed import Breakdown, Tax
from reports.draw.spreads import Depths, blocks_run
from reports.draw.style import PAGE, Sheet
from reports.facts import load
from reports.facts.facts import Facts, gather
from reports.view import answer, choice, papers
from reports.view.parts import Figure, Fold, Prose, Table
from reports.view.tasks import lm_eval_table
from reports.write import sections
from tests.reports.conftest import html_of
from tests.reports.page import Page
from tests.reports.synthetic import ARMS, write_run


@pytest.fixture(scope="module")
def facts(quick_run: Path) -> Facts:
    return gather(load.load([quick_run])[0])


def column(table: Table, title: str) -> list[str]:
    index = next(i for i, c in enumerate(table.columns) if c.title == title)
    return [row[index].text for row in table.rows]


def test_the_best_choice_is_the_fastest_that_loses_no_more(facts: Facts) -> None:
    table = choice.choice_table(facts)
    assert table is not None
    assert column(table, "Loss accepted") == ["0", "0.5", "1", "2", "5", "10"]
    for row, loss in zip(table.rows, (0.0, 0.5, 1.0, 2.0, 5.0, 10.0), strict=True):
        allowed = {
            arm.short: facts.speed[arm.label, 1].interval.value  # type: ignore[union-attr]
            for arm in facts.others
            if all(_worst_end(facts, arm.label, m) >= -loss for m in ("bleu", "rougeL", "slot_error_rate"))
            and facts.speed[arm.label, 1].verdict == "faster"
        }
        assert row[1].text == (max(allowed, key=lambda name: allowed[name]) if allowed else "full model")
    assert table.rows[-1][1].text != table.rows[0][1].text, "the data must be able to show a difference"


def _worst_end(facts: Facts, arm: str, metric: str) -> float:
    """The worse end of the interval of a difference, turned so that more is better."""
    gap = facts.quality[arm, "restaurants", metric].difference
    assert gap is not None
    return -gap.high if metric == "slot_error_rate" else gap.low


def test_an_open_interval_is_no_choice(small_run: Path) -> None:
    """With 12 examples nothing is shown, so nothing may be recommended."""
    facts = gather(load.load([small_run])[0])
    assert choice.choice_table(facts) is None
    assert answer.best(facts, 100.0, 1) is None


def test_where_an_arm_stops_paying(facts: Facts) -> None:
    table = choice.crossover_table(facts)
    assert table is not None
    columns = [column(table, title) for title in ("Method", "Faster than full", "Crosses 1 at batch size")]
    words = {name: rest for name, *rest in zip(*columns, strict=True)}
    assert words["SkipDecode 2x"] == ["at every batch size measured", "–"]
    faster, place = words["CALM softmax 0.9"]
    assert faster.startswith("at batch size 1") and "slower at 16" in faster
    ratio = {b: facts.speed["CALM softmax 0.9", b].interval.value for b in (1, 4, 16)}  # type: ignore[union-attr]
    low = max(b for b, v in ratio.items() if v >= 1)
    high = min(b for b, v in ratio.items() if v < 1)
    assert low <= float(place.removeprefix("about ")) <= high


def test_depths_are_told_only_where_the_shares_tell_them() -> None:
    schedule = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1.0]])
    assert blocks_run(schedule) == pytest.approx([0, 2 / 3, 1 / 3, 0])
    exits = np.array([[1, 1, 0.5, 0.5], [1, 0.25, 0.25, 0]])
    assert blocks_run(exits) == pytest.approx([0.375, 0.25, 0.125, 0.25])
    assert blocks_run(np.array([[1, 0.2, 0.5, 1]])) is None, "who ran block 3 without block 2 is not known"
    assert blocks_run(np.array([[0.5, 0.5]])) is None


def test_the_histogram_agrees_with_the_mean(facts: Facts) -> None:
    figure = spreads.depths(facts)
    assert figure is not None and isinstance(figure.plot, Depths)
    for panel in figure.plot.panels:
        arm = next(a for a in facts.arms if a.short.startswith(panel.name.rstrip("…")))
        assert sum(panel.share) == pytest.approx(1.0, abs=2e-3)
        assert panel.mean == pytest.approx(facts.speed[arm.label, 1].raw("layers_per_token"), abs=0.05)


def test_the_tax_is_what_the_batch_computed_beyond_its_rows(facts: Facts) -> None:
    figure = speed.tax(facts)
    assert figure is not None and isinstance(figure.plot, Tax)
    (row,) = figure.plot.rows
    assert row.name == "CALM softmax 0.9"
    assert all(computed >= mean for _, mean, computed in row.depths)
    assert row.depths[-1][2] - row.depths[-1][1] > row.depths[0][2] - row.depths[0][1]


def test_parts_of_a_step(facts: Facts) -> None:
    """An arm's own instrumented passes come first; without them only the full model's step is taken apart."""
    figure = speed.breakdown(facts, 1)
    assert figure is not None and isinstance(figure.plot, Breakdown)
    (full,) = figure.plot.rows
    assert dict(full.parts) == pytest.approx(
        {"blocks": 24 * 0.21, "head": 0.26, "embedding": 0.02, "host and rest": 0.18}, rel=1e-6
    )
    assert "Only the full model’s step was taken apart" in figure.caption
    own = {
        "embed_ms": 0.1, "attention_ms": 2.0, "feed_ms": 2.0, "head_ms": 0.5, "exit_tests_ms": 0.5, "kv_fill_ms": 0.1,
        "sampling_ms": 0.1, "host_ms": 0.2,
    }  # fmt: skip
    calm = facts.speed["CALM softmax 0.9", 1]
    timed = {**facts.speed, ("CALM softmax 0.9", 1): replace(calm, row={**calm.row, **own})}
    figure = speed.breakdown(replace(facts, speed=timed), 1)
    assert figure is not None and isinstance(figure.plot, Breakdown)
    assert [row.name for row in figure.plot.rows] == ["Full model", "CALM softmax 0.9"]
    parts = dict(figure.plot.rows[1].parts)
    assert parts == pytest.approx(
        {
            "embedding": 0.1,
            "attention": 2.0,
            "feed-forward": 2.0,
            "head": 0.5,
            "exit tests": 0.5,
            "K/V fill": 0.1,
            "host and rest": 0.3,
        }
    )
    assert "Only" not in figure.caption
    canvas = draw(figure, PAGE)
    for name in parts:
        assert f">{name}</text>" in canvas.body


def test_lm_eval_tasks_stand_together(tmp_path: Path) -> None:
    tasks = ("restaurants", "lm_eval:blimp_a", "lm_eval:lambada")
    folder = write_run(tmp_path, ARMS[:2], (1,), tasks, examples=24, new_tokens=6)
    facts = gather(load.load([folder])[0])
    table = lm_eval_table(facts, [t for t in facts.tasks if t.startswith("lm_eval:")])
    assert [c.group for c in table.columns] == ["", *["blimp_a"] * 3, *["lambada"] * 3]
    assert column(table, "from full")[0] == "–" and column(table, "from full")[1] != "–"


def test_what_was_not_measured_is_one_sentence_and_no_section_is_empty(tmp_path: Path) -> None:
    folder = write_run(tmp_path, ARMS[:2], (1,), examples=4, new_tokens=6, kinds=("speed", "quality"))
    page = html_of(folder)
    assert "Not in this run: memory, energy, speed against batch size (one was timed)." in Page(page).text()
    assert not re.search(r'<section id="(beside)"', page)
    for section in re.findall(r"<section id=.*?</section>", page, re.DOTALL):
        assert re.search(r"<(p|table|figure|svg|dl)\b", section)


def test_published_numbers_stand_beside_ours(quick_run: Path) -> None:
    paper = published.load("delcorro2023skipdecode")
    rows = [r for r in paper.rows if r.metric == "rougeL" and r.model == "OPT-1.3B" and r.task == "E2E"][:2]
    carried = {
        "paper": paper.head(),
        "beside": {"key": paper.bibkey, "tasks": {"E2E": "restaurants"}, "arms": {"SkipDecode 2x": rows[1].setting}},
        "rows": [r.model_dump(mode="json") for r in rows],
    }
    data = load.load([quick_run])[0]
    facts = gather(replace(data, record={**data.record, "published": [carried]}))
    (fold,) = (b for b in papers.blocks(facts) if isinstance(b, Fold))
    table, *_ = (b for b in fold.blocks if isinstance(b, Table))
    assert column(table, "paper") == [f"{rows[1].value:.1f}"]
    ours = facts.quality["SkipDecode 2x", "restaurants", "rougeL"].value
    assert column(table, "ours") == [f"{ours.value:.1f}"]
    assert table.rows[0][-1].text == f"{rows[1].comparable} [1]" and f"[1] {rows[1].reason}" in table.note


def test_what_differs_and_what_nothing_here_measures_is_told(quick_run: Path) -> None:
    """A speed-up stands beside ours; the tokens of each step, which no column has, stand apart; a table says what differs."""
    paper = published.load("xia2024specbench")
    rows = [r for r in paper.rows if r.setting == "PLD" and r.task == "Spec-Bench"]
    carried = {
        "paper": paper.head(),
        "beside": {"key": paper.bibkey, "arms": {"SkipDecode 2x": "PLD"}},
        "rows": [r.model_dump(mode="json") for r in rows],
    }
    data = load.load([quick_run])[0]
    facts = gather(replace(data, record={**data.record, "published": [carried]}))
    apart = next(b for b in papers.blocks(facts) if isinstance(b, Table))
    said = {row[0].text: (row[1].text, row[2].text) for row in apart.rows}
    assert said["Batch size"] == ("1", ", ".join(map(str, facts.batch_sizes[:-1])) + f" and {facts.batch_sizes[-1]}")
    assert "Vicuna-7B-v1.3" in said["Model"][0] and "opt-e2e-mini/full" in said["Model"][1]
    assert "A100" in said["Hardware, decoding"][0] and "full model over method" in said["A ratio divides"][1]
    (fold,) = (b for b in papers.blocks(facts) if isinstance(b, Fold))
    beside, alone = (b for b in fold.blocks if isinstance(b, Table))
    assert column(beside, "paper") == [f"{r.value:.2f}" for r in rows if r.metric == "speedup"]
    assert column(alone, "paper") == [f"{r.value:.2f}" for r in rows if r.metric == "accepted_per_step"]


def test_claims_are_told_in_words(quick_run: Path) -> None:
    """Target, executed and realised; and the distance from the own full model, with whether our interval holds the paper's."""
    paper = published.load("delcorro2023skipdecode")
    rows = [r for r in paper.rows if r.metric in ("rougeL", "layers_per_token") and r.model == "OPT-1.3B"]
    beside = {
        "key": paper.bibkey,
        "tasks": {"E2E": "restaurants"},
        "arms": {"Full model": "Full model", "SkipDecode 2x": "SkipDecode 2x"},
    }
    carried = {"paper": paper.head(), "beside": beside, "rows": [r.model_dump(mode="json") for r in rows]}
    data = load.load([quick_run])[0]
    facts = gather(replace(data, record={**data.record, "published": [carried]}))
    text = " ".join(p for b in papers.blocks(facts) if isinstance(b, Prose) for p in b.paragraphs)
    assert "executes 14.7 layers per token there where the full model executes 24: 1.63x fewer." in text
    timed = [row for row in data.summary if row["label"] == "SkipDecode 2x"]
    assert timed and all(f"at batch {row['batch_size']} {row['speedup']:.2f} [" in text for row in timed)
    layers = timed[0]["restaurants/layers_per_token"]
    assert f"executes {layers:.1f} of 24.0 ({24 / layers:.2f}x fewer)" in text
    ours, low, high = (timed[0][f"restaurants/rougeL_diff{end}"] for end in ("", "_low", "_high"))
    place = "inside" if low <= 67.9 - 67.6 <= high else "outside"
    assert "SkipDecode 2x +0.3 there, here " in text and f"({place})" in text
    # An arm that has no number here gets no sentence, and nothing is said of it.
    without = replace(data, record={**data.record, "published": [carried]}, cells=())
    assert "realised" not in text and "there, here" not in " ".join(
        p for b in papers.blocks(replace(facts, data=without)) if isinstance(b, Prose) for p in b.paragraphs
    )


def test_parameters_chosen_by_tuning_name_their_source(small_run: Path) -> None:
    """A reader must see that an arm's setting was picked, on what data, for what goal and at what cost."""
    assert "Parameters chosen by measurement" not in html_of(small_run)
    path = small_run / "run.json"
    run = json.loads(path.read_text())
    source = {
        "file": "calm-3x.json",
        "goal": {"target_speedup": 3.0, "max_loss": None},
        "data": {"split": "validation"},
    }
    run["suite"]["methods"] = [{"name": "calm", "label": "CALM <tuned>", "tuned": source | {"cost": {"seconds": 41.5}}}]
    path.write_text(json.dumps(run))
    text = " ".join(Page(html_of(small_run)).text().split())
    for words in (
        "Parameters chosen by measurement",
        "CALM <tuned>",
        "file calm-3x.json",
        "goal target speedup 3",
        "data split validation",
        "cost seconds 41.5",
    ):
        assert words in text, words
    assert "max loss" not in text


@dataclass(frozen=True)
class Dot:
    """A plot of a kind that no section knows."""

    value: float


def test_a_new_kind_of_figure_is_one_row(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands at the end of the section its row names, and is drawn, with no other place that knows it."""

    def draw(plot: Dot, sheet: Sheet) -> Canvas:
        figure = canvas.blank(sheet.column, 50)
        canvas.shapes(figure.subplots(), [(plot.value, 0)], "o", "blue", "blue", ["a dot"], 5)
        return figure

    figure = Figure("fig-dot", "A dot", "n = 1.", "A dot.", Dot(1.0))
    monkeypatch.setitem(figures.FIGURES, Dot, figures.Kind("layers", lambda facts: (figure,), draw))
    (layers,) = (s for s in sections.sections(facts) if s.id == "layers")
    assert layers.blocks[-1] is figure and len(layers.blocks) > 1
    assert "<title>a dot</title>" in figures.draw(figure, PAGE).body
