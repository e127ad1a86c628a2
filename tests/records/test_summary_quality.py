"""What summary.csv says of scores: differences from the full model, tests on them, verdicts."""

import numpy as np
import pytest

from harness.records.summary import summarise
from tests.records.hand_made import FULL, SKIP, full_speed, quality, rows, run, speed
from tests.records.hand_made import metrics as metrics  # a fixture of every test here


def test_the_margin_is_the_suites():
    cells = [full_speed(), speed(SKIP), quality(FULL, [7] * 30), quality(SKIP, [6] * 30)]
    assert rows(*cells)["Skip", 1]["quality_verdict"] == "loses quality"
    assert rows(*cells, quality_margin=15.0)["Skip", 1]["quality_verdict"] == "keeps quality"
    assert summarise(run(*cells, quality_margin=15.0), margin=1.0)[1]["quality_verdict"] == "loses quality"


def test_a_task_at_chance_decides_no_verdict():
    """Its full model has nothing that a method could lose: neither `keeps quality` nor `loses quality` follows."""
    cells = [full_speed(), speed(SKIP), quality(FULL, [7] * 30), quality(SKIP, [6] * 30)]
    cells += [quality(FULL, [7] * 30, task="told"), quality(SKIP, [7] * 30, task="told")]
    assert rows(*cells)["Skip", 1]["quality_verdict"] == "loses quality"
    for cell in cells:
        if cell.get("task") == "toy":
            cell["informative"] = {"score": {"value": 7, "chance": 7, "informative": False, "reason": "is a guess"}}
    row = rows(*cells)["Skip", 1]
    assert row["quality_verdict"] == "keeps quality" and row["toy/score_diff"], "the difference is still shown"
    assert rows(*cells[:4])["Skip", 1]["quality_verdict"] == "inconclusive"


def test_right_and_wrong_answers_are_tested_as_such():
    """0/1 scores get McNemar's test, and 40 equal answers are not proof of a loss below one point."""
    full, skip = quality(FULL, [0] * 40, names=("score",)), quality(SKIP, [0] * 40, names=("score",))
    for cell, right in ((full, 20), (skip, 20)):
        for i, example in enumerate(cell["examples"]):
            example["stats"]["score"] = [float(i < right), 1.0]
    row = rows(full_speed(), speed(SKIP), full, skip)["Skip", 1]
    assert (row["toy/score"], row["toy/score_diff"], row["toy/score_mcnemar_p"]) == (50.0, 0.0, 1.0)
    assert row["toy/score_diff_low"] < -1
    assert row["quality_verdict"] == "inconclusive"
    for example in skip["examples"][:12]:
        example["stats"]["score"] = [0.0, 1.0]
    row = rows(full_speed(), speed(SKIP), full, skip)["Skip", 1]
    assert row["toy/score_diff"] == pytest.approx(-30.0)
    assert row["toy/score_mcnemar_p"] == pytest.approx(2 / 2**12)
    assert row["quality_verdict"] == "loses quality"


def test_quality_columns_and_verdict():
    rng = np.random.default_rng(0)
    full = rng.integers(4, 9, 100)
    cells = [full_speed(), full_speed(8), speed(SKIP), speed(SKIP, 8)]
    table = rows(*cells, quality(FULL, full.tolist()), quality(SKIP, (full - 1).tolist()))
    row = table["Skip", 1]
    assert row["toy/score"] == pytest.approx(10 * (full - 1).mean())
    assert row["toy/score_low"] < row["toy/score"] < row["toy/score_high"]
    assert [row[f"toy/score_diff{e}"] for e in ("", "_low", "_high")] == pytest.approx([-10, -10, -10])
    assert row["quality_verdict"] == "loses quality"
    assert "toy/agreement" in row
    assert "toy/agreement_diff" not in row
    assert table["Skip", 8]["toy/score"] == row["toy/score"]  # repeated on every batch size
    assert table["Full model", 1]["quality_verdict"] == "baseline"
    assert table["Full model", 1]["toy/score_diff"] is None
    assert (row["toy/examples"], row["toy/layers_per_token"]) == (100, 11.5)


def test_quality_is_judged_by_the_first_metric_and_its_direction():
    """One point more errors is a loss, one point more score is none."""
    more, less = [7] * 30, [5] * 30
    for names, verdict in ((("score", "errors"), "keeps quality"), (("errors", "score"), "loses quality")):
        cells = (quality(FULL, less, names=names), quality(SKIP, more, names=names))
        assert rows(full_speed(), speed(SKIP), *cells)["Skip", 1]["quality_verdict"] == verdict


def test_quality_over_several_tasks():
    """One lost task loses; a task that was not scored leaves the question open."""
    same, worse = [7] * 30, [5] * 30
    cells = [full_speed(), speed(SKIP), quality(FULL, same, "a"), quality(FULL, same, "b"), quality(SKIP, same, "a")]
    assert rows(*cells)["Skip", 1]["quality_verdict"] == "inconclusive"
    assert rows(*cells, quality(SKIP, same, "b"))["Skip", 1]["quality_verdict"] == "keeps quality"
    assert rows(*cells, quality(SKIP, worse, "b"))["Skip", 1]["quality_verdict"] == "loses quality"
    other = quality(SKIP, same, "b", conditions_hash="another batch size")
    assert rows(*cells, other)["Skip", 1]["quality_verdict"] == "inconclusive"


def test_examples_are_paired_by_id():
    """Output order differs between arms when batches are sorted by length; row i is not example i."""
    full, skip = quality(FULL, list(range(1, 41))), quality(SKIP, list(range(1, 41)))
    skip["examples"].reverse()
    row = rows(full_speed(), speed(SKIP), full, skip)["Skip", 1]
    assert [row[f"toy/score_diff{e}"] for e in ("", "_low", "_high")] == [0.0, 0.0, 0.0]
    assert row["quality_verdict"] == "keeps quality"


def test_only_shared_examples_are_compared():
    """An arm that was scored on fewer examples is compared on those, and its own score is of its own."""
    full, skip = quality(FULL, [9] * 10 + [5] * 30), quality(SKIP, [9] * 10 + [5] * 30)
    full["examples"] = full["examples"][5:]
    del skip["examples"][-5:]
    row = rows(full_speed(), speed(SKIP), full, skip)["Skip", 1]
    assert (row["toy/examples"], row["toy/score_diff"]) == (35, 0.0)
    assert row["toy/score"] == pytest.approx((10 * 90 + 25 * 50) / 35)


def test_unknown_metric_is_left_out_not_guessed():
    cells = (quality(FULL, [5] * 30, names=("score", "novel")), quality(SKIP, [5] * 30, names=("score", "novel")))
    assert not any("novel" in key for key in rows(full_speed(), speed(SKIP), *cells)["Skip", 1])
