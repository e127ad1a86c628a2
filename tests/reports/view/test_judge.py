"""The words for what scores show, what a table says of a cell that cannot be used, and curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.stats.intervals import Interval
from reports.facts import judge, load
from reports.facts.arms import curves, parted
from reports.facts.facts import Facts, gather, judged
from reports.facts.scores import MetricInfo, Quality
from reports.view import answer, verdicts
from reports.view.verdicts import top_table
from tests.reports.synthetic import ARMS, Synthetic, edit_cells, write_run

ARM = "SkipDecode 2x"


@pytest.fixture(scope="module")
def facts(quick_run: Path) -> Facts:
    return gather(load.load([quick_run])[0])


def with_gaps(facts: Facts, **gaps: tuple[float, float, float, int]) -> Facts:
    """The facts with other differences from full for one arm, by metric: (value, low, high, n)."""
    quality = dict(facts.quality)
    for metric, gap in gaps.items():
        quality[ARM, "restaurants", metric] = Quality(quality[ARM, "restaurants", metric].value, Interval(*gap))
    return replace(facts, quality=quality)


def arm_of(facts: Facts, label: str = ARM):  # type: ignore[no-untyped-def]
    return next(arm for arm in facts.arms if arm.label == label)


KEPT = {"rougeL": (0.0, -0.2, 0.2, 300), "slot_error_rate": (0.0, -0.2, 0.2, 300)}


@pytest.mark.parametrize(
    ("gap", "state"),
    [
        ((1.0, 0.4, 1.6, 300), judge.BETTER),
        ((0.1, -0.4, 0.6, 300), judge.KEEPS),
        ((-0.5, -0.8, -0.2, 300), judge.SMALL),
        ((-0.5, -1.6, 0.6, 300), judge.OPEN),
        ((-3.0, -4.0, -2.0, 300), judge.LOSES),
        ((-3.0, -4.0, -2.0, 10), judge.OPEN),
    ],
)
def test_five_words(facts: Facts, gap: tuple[float, float, float, int], state: str) -> None:
    found = judge.metric(with_gaps(facts, bleu=gap), arm_of(facts), "restaurants", facts.tasks["restaurants"][0])
    assert found is not None and found.state == state


def test_the_verdict_is_that_of_the_worst_metric_and_names_it(facts: Facts) -> None:
    """BLEU is kept; slot errors, where less is better, rise by 4 points."""
    changed = with_gaps(facts, **{**KEPT, "bleu": (0.1, -0.4, 0.6, 300), "slot_error_rate": (4.0, 3.0, 5.0, 300)})
    found = judge.arm(changed, arm_of(changed))
    assert found is not None and (found.state, found.metric.name) == (judge.LOSES, "slot_error_rate")
    assert not judge.within(changed, arm_of(changed), 2.0) and judge.within(changed, arm_of(changed), 5.0)


def test_how_many_examples_would_settle_it(facts: Facts) -> None:
    """An interval of plus and minus 2 around a difference that lies 1 from the margin takes four times the examples."""
    found = judge.metric(
        with_gaps(facts, bleu=(0.0, -2.0, 2.0, 300)), arm_of(facts), "restaurants", facts.tasks["restaurants"][0]
    )
    assert found is not None and found.state == judge.OPEN and found.needed == 1200


def test_a_metric_without_points_is_judged_in_percent() -> None:
    perplexity = MetricInfo("perplexity", "Perplexity", "", "lower", lambda totals: totals)
    assert perplexity.margin(1.0, 250.0) == 2.5
    assert MetricInfo("bleu", "BLEU", "points", "higher", lambda totals: totals).margin(1.0, 60.0) == 1.0


def test_a_task_that_shows_nothing_is_left_out_and_said(facts: Facts) -> None:
    """The full model at chance on a task of lm-eval: no verdict rests on it."""
    name = "lm_eval:blimp_x"
    share = MetricInfo("acc", "acc", "%", "higher", lambda totals: totals)
    quality = dict(facts.quality)
    for arm in facts.arms:
        gap = None if arm.baseline else Interval(-20.0, -25.0, -15.0, 300)
        quality[arm.label, name, "acc"] = Quality(Interval(50.5, 44.0, 57.0, 300), gap)
    changed = replace(facts, quality=quality, tasks={**facts.tasks, name: (share,)}, kept={})
    assert judge.informative(changed) == ("restaurants",)
    assert "guessing 50" in judge.uninformative(changed)[name]
    before, after = judge.arm(facts, arm_of(facts)), judge.arm(changed, arm_of(changed))
    assert before is not None and after is not None and before.state == after.state
    table = verdicts.verdict_table(changed)
    assert "not informative" in table.note and not any("blimp" in column.group for column in table.columns)
    scored = {
        **facts.scored,
        ("Full model", name): {"informative": {"acc": {"informative": False, "reason": "at chance"}}},
    }
    quality["Full model", name, "acc"] = Quality(Interval(80.0, 76.0, 84.0, 300), None)
    said = replace(changed, quality=quality, scored=scored, kept={})  # type: ignore[arg-type]
    assert judge.uninformative(said) == {name: "at chance"}, "what the run says of itself comes first"
    assert name in judge.informative(replace(changed, quality=quality, kept={}))


def test_an_unusable_cell_has_its_reason_and_no_number(facts: Facts) -> None:
    """Neither ratio, colour, nor place in the answer; the row of the summary says why."""
    assert judged({"usable": "unusable", "reason": "disturbed"}) == ("unusable", "disturbed")
    named = answer.choice(facts, 1)[1]
    assert named is not None
    timed = facts.speed[named.label, 1]
    row = {**timed.row, "usable": "unusable", "reason": "4 of 5 repeats were disturbed"}
    changed = replace(facts, speed={**facts.speed, (named.label, 1): replace(timed, row=row)})
    assert facts.ratio(named, 1) is not None and changed.ratio(named, 1) is None
    assert named not in (answer.best(changed, loss, 1) for loss in answer.LOSSES)
    table = verdicts.verdict_table(changed)
    at = next(i for i, c in enumerate(table.columns) if c.title == "batch 1")
    cell = next(r[at] for r in table.rows if r[0].text == named.short)
    assert (cell.text, cell.detail, cell.ends) == ("unusable", "4 of 5 repeats were disturbed", None)
    assert cell.tone not in ("good", "bad")


def test_the_baseline_unusable(facts: Facts) -> None:
    timed = facts.speed["Full model", 1]
    row = {**timed.row, "usable": "unusable", "reason": "the machine slept"}
    changed = replace(facts, speed={**facts.speed, ("Full model", 1): replace(timed, row=row)})
    assert (
        "the machine slept" in answer.sentences(changed)[0]
        and "nothing can be compared" in answer.sentences(changed)[0]
    )


def test_an_exact_method_is_set_against_the_full_model_on_its_own_weights(tmp_path: Path) -> None:
    """On other weights than the baseline's its texts differ from the baseline's, and are those of the full model there."""
    other = Synthetic("Full model (other weights)", "full", "schedule", checkpoint="other", exact=True, damage=0.3)
    draft = Synthetic("Draft", "layerskip", "draft", checkpoint="other", exact=True, damage=0.3)
    folder = write_run(tmp_path, (ARMS[0], other, draft), (1,), examples=24, new_tokens=6, processes=1)
    cells = folder / "cells"
    (theirs,) = cells.glob("quality-full-model--other*.json")
    examples = json.loads(theirs.read_text())["examples"]
    edit_cells(folder, "quality-draft-*", examples=examples)
    edit_cells(folder, "speed-draft-*", tokens_unlike_full=0)
    facts = gather(load.load([folder])[0])
    assert facts.same == {"Draft": 24 + 2}
    gap = facts.quality["Draft", "restaurants", "bleu"].difference
    assert gap is not None and (gap.low, gap.value, gap.high) == (0.0, 0.0, 0.0)
    words = [cell.text for row in verdicts.verdict_table(facts).rows for cell in row[1:2] if row[0].text == "Draft"]
    assert words == [judge.KEEPS]
    edit_cells(folder, "quality-draft-*", examples=[{**examples[0], "output": "another"}, *examples[1:]])
    assert gather(load.load([folder])[0]).same == {}


def test_a_curve_is_a_method_at_its_settings(facts: Facts) -> None:
    found = {curve.name: curve.settings for curve in curves(facts.others)}
    assert found["SkipDecode"] == ("2x", "3x", "5x")
    assert found["SkipDecode 2x, schedule only"] == ("",) and "CALM softmax 0.9" in found


@pytest.mark.parametrize(
    ("labels", "name", "rest"),
    [
        (("A 1 (w)", "A 2 (w)"), "A (w)", ("1", "2")),
        (("A", "A 2"), "", ("A", "A 2")),
        (("A 1", "B 2"), "", ("A 1", "B 2")),
        (("A 1",), "A 1", ("",)),
        (("A 75 %", "A 50 %"), "A", ("75 %", "50 %")),
    ],
)
def test_what_labels_share(labels: tuple[str, ...], name: str, rest: tuple[str, ...]) -> None:
    assert parted(labels) == (name, rest)


def test_the_first_screen_has_eight_rows_at_most(tmp_path: Path) -> None:
    folder = write_run(tmp_path, ARMS, (1, 8), examples=24, new_tokens=6, processes=1)
    table = top_table(gather(load.load([folder])[0]))
    assert table is not None and len(table.rows) == 8
    assert table.rows[0][0].text == "Full model"
    assert {column.title for column in table.columns} >= {"Method", "batch 1", "batch 8", "Needs training"}
    assert sum(column.key for column in table.columns) == 2
