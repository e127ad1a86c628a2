"""What a run of a paper's suite keeps: planned cells, published rows, shortened prompts, metrics that could not be had."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.measure.prepare import prepare
from harness.measure.quality import quality
from harness.measure.setup import timed_examples
from harness.models.load import load_model
from harness.records import beside
from harness.records.run import load
from harness.records.summary import summarise
from harness.run import plan, sweep
from harness.suites.suite import Suite, load_suite
from harness.tasks import bertscore
from tests.fakes import InProcess

SUITE = """
model: {model}
methods:
  - {{name: full, label: Full model}}
  - {{name: fixed_exit, label: Fixed exit 2, budget: 2}}
batch_sizes: [2]
tasks: [{{name: cnn_dm, max_prompt_tokens: 60, expected_tokens: 7, metrics: [rouge2, bertscore, bleu]}}]
new_tokens: 4
max_new_tokens: 5
repeats: 1
threads: 1
memory: false
energy: false
published:
  - {{key: delcorro2023skipdecode, tables: [rouge-l], tasks: {{CNN/DM: cnn_dm}}, arms: {{Full model: Full model}}}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "test.csv", "w", newline="", encoding="utf-8") as file:
        rows = [("a short one", "short"), ("word " * 200, "many words"), ("another " * 90, "others")]
        csv.writer(file).writerows([("article", "highlights"), *rows])
    return folder


def suite_for(model: str, folder: Path) -> Suite:
    path = folder / "mine.yaml"
    path.write_text(SUITE.format(model=model))
    return load_suite(path)


def test_cells_are_those_planned_and_published_rows_stand_apart(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = "read once, when the run is prepared"
    monkeypatch.setattr("harness.measure.setup.task_examples", lambda *_: pytest.fail(again))
    suite = suite_for(str(checkpoint), tmp_path)
    suite = suite.model_copy(update={"tasks": (suite.tasks[0].model_copy(update={"metrics": ("rouge2", "bleu")}),)})
    planned = plan.plan(suite, data)
    assert sweep.run_suite(suite, tmp_path / "run", data=data, workers=InProcess()).failed == 0
    run = load(tmp_path / "run")
    assert {cell.id for cell in planned.cells} == {cell["id"] for cell in run.cells}
    pairs = beside.pairs(run.record)
    assert [(p.label, p.column, p.row.model, p.row.value) for p in pairs] == [
        ("Full model", "cnn_dm/rougeL", "OPT-1.3B", 29.5),
        ("Full model", "cnn_dm/rougeL", "OPT-6.7B", 30.2),
    ]
    # Nothing published is among the measured: the same rows with and without it.
    bare = summarise(type(run)({**run.record, "published": []}, run.cells))
    assert summarise(run) == bare and {row["label"] for row in bare} == {"Full model", "Fixed exit 2"}
    assert "cnn_dm/rouge2" in bare[0] and "cnn_dm/rougeL" not in bare[0]


def test_a_quality_cell_names_its_metrics_and_what_was_cut(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Any:
        raise OSError("no hub")

    monkeypatch.setattr(bertscore, "load_scorer", fails)
    suite = suite_for(str(checkpoint), tmp_path)
    arm = {"label": "Full model", "method": "full", "spec": "full", "checkpoint": str(checkpoint)}
    prepared = prepare(suite, [arm], data)
    assert prepared["expected_tokens"] == {"cnn_dm": 7}
    card = load_model(checkpoint).card
    cost = {key: card["cost"][key] for key in ("tokens", "steps", "seconds", "device")}
    assert prepared["arms"][0]["training"] == {**cost, "data_hash": card["data_hash"], "start": None}
    assert prepared["prompts"] == timed_examples(suite, load_model(checkpoint), data)
    cell = quality(suite, arm, 0, prepared, data, None)
    assert cell["prompts_shortened"] == 2
    assert all(len(e["prompt"]) < 400 and e["prompt"].endswith("\n\nSummary:") for e in cell["examples"])
    assert cell["metrics"] == ["rouge2", "bleu"] == list(cell["metric_signatures"])
    assert [list(e["stats"]) for e in cell["examples"]] == [["rouge2", "bleu", "agreement"]] * 3
    assert list(cell["metrics_skipped"]) == ["bertscore"]
    assert "no hub" in cell["metrics_skipped"]["bertscore"] or "not installed" in cell["metrics_skipped"]["bertscore"]


def test_a_checkpoint_for_each_task(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    for task in ("cnn_dm", "restaurants"):
        shutil.copytree(checkpoint, tmp_path / f"tiny-{task}")
    suite = suite_for(f"{tmp_path}/tiny-{{task}}", tmp_path)
    first = {"name": "cnn_dm", "max_prompt_tokens": 60, "expected_tokens": 7, "metrics": ["bleu"]}
    second = {"name": "restaurants", "limit": 3, "expected_tokens": 6, "metrics": ["bleu"]}
    suite = Suite.model_validate({**suite.plain(), "tasks": [first, second]})
    arm = {"label": "Full model", "method": "full", "spec": "full", "checkpoint": suite.model}
    prepared = prepare(suite, [arm], data)
    used = [quality(suite, arm, index, prepared, data, None)["checkpoint"] for index in (0, 1)]
    assert [Path(name).name for name in used] == ["tiny-cnn_dm", "tiny-restaurants"]
    shutil.rmtree(tmp_path / "tiny-restaurants")
    with pytest.raises(BadInput, match="tiny-restaurants"):
        prepare(suite, [arm], data)


def test_metrics_a_task_does_not_have_are_refused_before_anything_runs(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    suite = suite_for(str(checkpoint), tmp_path)
    wrong = suite.tasks[0].model_copy(update={"metrics": ("slot_error_rate",)})
    arm = {"label": "Full model", "method": "full", "spec": "full", "checkpoint": str(checkpoint)}
    with pytest.raises(BadInput, match="task cnn_dm has no metric 'slot_error_rate'"):
        prepare(suite.model_copy(update={"tasks": (wrong,)}), [arm], data)
