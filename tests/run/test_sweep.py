"""A suite end to end on a tiny checkpoint: cells, gates, resume after a kill, failures that stay single."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.records import gates
from harness.records.run import load
from harness.run import sweep
from harness.suites.suite import Suite, load_suite
from tests.fakes import InProcess


def write_suite(folder: Path, checkpoint: Path, extra: str = "") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(
        f"""
model: {checkpoint}
methods:
  - {{name: full, label: Full model}}
  - {{name: skipdecode, label: SkipDecode 2x, speedup: 2}}
  - {{name: calm, label: CALM classifier, confidence: classifier, threshold: 0.5}}
batch_sizes: [1, 3]
tasks: [{{name: restaurants, limit: 4}}]
new_tokens: 6
max_new_tokens: 10
processes: 1
repeats: 5
energy: false
threads: 1
quality_batch_size: 3
limits: {{dispersion: 1000, noisy_share: 1}}  # steps of a fraction of a millisecond, on a machine that does other things
{extra}"""
    )
    return path


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Path]:
    """One finished run."""
    folder = tmp_path_factory.mktemp("sweep")
    suite = load_suite(write_suite(folder, checkpoint))
    assert sweep.run_suite(suite, folder / "run", command=["depthbench", "run", "tiny.yaml"]).failed == 0
    return suite, folder / "run"


def test_every_cell_is_there_once(finished: tuple[Suite, Path]) -> None:
    run = load(finished[1])
    kinds = [
        (cell["kind"], cell["arm"]["label"], cell.get("batch_size") if cell["kind"] != "quality" else cell["task"])
        for cell in run.cells
    ]
    assert len(kinds) == len(set(kinds)) == 3 * (2 + 2 + 1)
    assert all(cell["status"] == "ok" for cell in run.cells) and run.record["finished"]


def test_speed_cells_hold_raw_values_under_equal_conditions(finished: tuple[Suite, Path]) -> None:
    cells = [cell for cell in load(finished[1]).cells if cell["kind"] == "speed"]
    for batch in (1, 3):
        same = [cell for cell in cells if cell["batch_size"] == batch]
        assert len({cell["conditions_hash"] for cell in same}) == 1
        orders = [[run["order"] for run in cell["runs"]] for cell in same]
        # ABBA: an arm that went first in one repeat goes last in the next.
        assert all(order[0] + order[1] == len(same) - 1 for order in orders)
        for cell in same:
            asked = [run for run in cell["runs"] if "again" not in run]  # a busy machine has some measured again
            assert len(asked) == 5 and cell["finite"] and cell["repeatable"]
            assert all(len(run["step_s"]) == 5 and run["step_tokens"] == [batch] * 5 for run in cell["runs"])
            assert len(cell["layers_by_position"]) == 5 and cell["depth"] == 4
    full = next(cell for cell in cells if cell["arm"]["method"] == "full")
    assert full["tokens_unlike_full"] == 0 and full["layers_per_token"] == 4


def test_arms_know_settings_and_training(finished: tuple[Suite, Path]) -> None:
    arms = {arm["label"]: arm for arm in load(finished[1]).record["arms"]}
    assert arms["Full model"]["trained"] == "not needed" and arms["Full model"]["exact"]
    assert arms["CALM classifier"]["trained"] == "trained"
    assert arms["SkipDecode 2x"]["trained"] == "schedule only"
    assert arms["SkipDecode 2x"]["params"]["max_layers"] == 3 and arms["SkipDecode 2x"]["params"]["horizon"] > 10


def test_quality_keeps_every_example(finished: tuple[Suite, Path]) -> None:
    cells = {c["arm"]["label"]: c for c in load(finished[1]).cells if c["kind"] == "quality"}
    for label, cell in cells.items():
        assert [e["id"] for e in cell["examples"]] == [f"restaurants-test-{i:04d}" for i in range(4)]
        assert all(set(e["stats"]) == {"bleu", "rougeL", "slot_error_rate", "agreement"} for e in cell["examples"])
        same, compared = map(sum, zip(*(e["stats"]["agreement"] for e in cell["examples"]), strict=True))
        assert same == compared if label == "Full model" else same <= compared
    lines = (finished[1] / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 4 and {"output", "scores", "references"} <= set(json.loads(lines[0]))


def test_gates_are_judged_from_what_workers_recorded(finished: tuple[Suite, Path]) -> None:
    """The facts are there: outputs with margins, prompts as seen, the machine during the measurement, one version of the code."""
    judged = {gate.name: gate for gate in load(finished[1]).gates}
    for name in ("conditions identical across arms", "prompts identical across arms",
                 "token counts right", "no empty generation", "finite logits",
                 "timed outputs equal scored outputs", "one version of the code"):  # fmt: skip
        assert judged[name].status == gates.PASSED, judged[name]
    assert "12 timed rows" in judged["timed outputs equal scored outputs"].detail
    for cell in load(finished[1]).cells:
        assert cell["machine"] and cell["machine"][0]["seconds"] > 0 and "commit" in cell["code"]
        assert cell["conditions"]["threads"] == 1 and cell["conditions"]["cpu"]
    assert all(arm["weights"] for arm in load(finished[1]).record["arms"])


def test_other_weights_may_not_continue_a_run(finished: tuple[Suite, Path]) -> None:
    """Defect 13: what was measured belongs to the weights it was measured on, not to their name."""
    suite, out = finished
    before = (out / "run.json").read_text()
    record = json.loads(before)
    record["arms"][0]["weights"] = "0" * 16
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"another arms: arms.0.weights is \"0000"):
        sweep.run_suite(suite, out, resume=True, workers=InProcess())
    record = json.loads(before)
    record["arms"][0]["beside_weights"]["end_tokens"] = [9]  # what else changes a generation
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"another arms: arms.0.beside_weights.end_tokens.0 is 9 there and 1 now"):
        sweep.run_suite(suite, out, resume=True, workers=InProcess())
    (out / "run.json").write_text(before)


def test_memory_comes_from_a_process_of_its_own(finished: tuple[Suite, Path]) -> None:
    for cell in load(finished[1]).cells:
        if cell["kind"] == "memory":
            assert cell["peak_rss_bytes"] >= cell["baseline_rss_bytes"] * 0.9 > 1e7
            assert cell["cuda_peak_allocated_bytes"] is None and "energy_j_per_token" not in cell


def test_summary_has_a_finite_speed_up_for_every_method(finished: tuple[Suite, Path]) -> None:
    with open(finished[1] / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        if row["usable"] == "unusable":  # the machine may be busy while this runs
            assert row["reason"] and not row["speedup"]
        else:
            assert float(row["speedup_low"]) <= float(row["speedup"]) <= float(row["speedup_high"])
        assert row["restaurants/bleu"] and row["energy_j_per_token"] == ""


def test_a_finished_run_is_left_alone(finished: tuple[Suite, Path]) -> None:
    suite, out = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert sweep.run_suite(suite, out, resume=True, workers=InProcess()).failed == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before
    with pytest.raises(BadInput, match="--resume"):
        sweep.run_suite(suite, out)


def test_another_suite_may_not_continue_a_run(finished: tuple[Suite, Path], checkpoint: Path, tmp_path: Path) -> None:
    other = load_suite(write_suite(tmp_path, checkpoint), ["repeats=6"])
    with pytest.raises(BadInput, match="another suite: suite.repeats is 5 there and 6 now"):
        sweep.run_suite(other, finished[1], resume=True, workers=InProcess())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("new_tokens=200", "new_tokens: 200 after prompts of up to"),
        ("methods.1.speedup=9", "at most the model's 4 blocks"),
        ("model=/no/such", "is neither bundled"),
        ("methods.1.checkpoint=/no/such", "is neither bundled"),
    ],
)
def test_what_does_not_fit_is_refused_before_measuring(
    checkpoint: Path, tmp_path: Path, override: str, message: str
) -> None:
    suite = load_suite(write_suite(tmp_path, checkpoint), [override])
    with pytest.raises(BadInput, match=message):
        sweep.run_suite(suite, tmp_path / "run", workers=InProcess())
    assert not list((tmp_path / "run" / "cells").iterdir())
