"""What a training says and keeps of itself: signs of life, time left, the curve of losses."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

from harness.train.meter import PICTURE, TABLE, Curve, Meter, minutes


def test_signs_of_life_with_time_left(tmp_path: Path) -> None:
    """A line after five silent seconds, none before; what is left is reckoned from the steps of this start alone."""
    now, lines = [100.0], list[str]()
    meter = Meter("weights", Curve(tmp_path, "tiny"), True, lambda: now[0], lines.append)
    counted = {"args": {}, "attributes": {"tokens": 4000, "seconds": 30.0}}
    meter.resume({"stateful_callbacks": {"Meter": counted}})
    state = SimpleNamespace(global_step=10, max_steps=40, log_history=[])
    meter.on_train_begin(None, state, None)
    for second in range(1, 13):
        now[0] += 1.0
        meter.tokens += 50
        meter.on_substep_end(None, state, None)
        if second % 2 == 0:
            state.global_step += 1
            meter.on_step_end(None, state, None)
    assert lines == ["step 12/40, 50 tokens/s, 1:10 left", "step 14/40, 50 tokens/s, 1:05 left"]
    assert meter.state()["attributes"] == {"tokens": 4600, "seconds": 42.0}


def test_curve_as_table_and_picture(tmp_path: Path) -> None:
    """Training and validation loss of one step are one row; a stage that goes on replaces what it had."""
    curve = Curve(tmp_path, "tiny")
    logged = {"step": 1, "loss": 3.0, "learning_rate": 0.1, "tokens": 10, "seconds": 1.0}
    curve.put("weights", [logged])
    curve.put(
        "weights", [logged, {"step": 1, "eval_loss": 2.5, "tokens": 10, "seconds": 1.5}, {"step": 1, "runtime": 9}]
    )
    curve.put("probe", [{**logged, "step": 2}])
    with open(tmp_path / TABLE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["step"], row["loss"], row["validation_loss"]) for row in rows] == [
        ("weights", "1", "3.0", "2.5"),
        ("probe", "2", "3.0", ""),
    ]
    curve.draw()
    first = (tmp_path / PICTURE).read_text()
    curve.draw()
    assert "<svg" in first and (tmp_path / PICTURE).read_text() == first


def test_hours_show_where_there_are_any() -> None:
    assert [minutes(value) for value in (5, 125, 3725)] == ["0:05", "2:05", "1:02:05"]
