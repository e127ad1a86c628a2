"""summary.csv from cells whose numbers can be worked out by hand."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records import measures, quantities
from harness.records.clock import Clock, speedup
from harness.records.folder import RunStore
from harness.records.run import load
from harness.records.summary import csv_text, summarise, write_summary
from tests.records.hand_made import FULL, SKIP, energy, full_speed, memory, quality, rows, run, speed
from tests.records.hand_made import metrics as metrics  # a fixture of every test here


def test_numbers_worked_out_by_hand():
    row = rows(full_speed(2), speed(SKIP, 2), memory(FULL, 2), memory(SKIP, 2))["Skip", 2]
    assert row["ttft_ms"] == pytest.approx(12.0)  # median of 10, 11, 12, 13, 14
    assert row["tpot_ms"] == pytest.approx(
        4.08
    )  # mean of 4 ms x (1, 1.01, ..., 1.04); two tokens per step, one per row
    assert row["tokens_per_s"] == pytest.approx(2 / 0.00408)
    assert [row[k] for k in ("speedup", "speedup_low", "speedup_high")] == pytest.approx([1.5, 1.5, 1.5])
    assert row["predicted_speedup"] == 2.0
    assert row["efficiency"] == pytest.approx(0.75)
    assert (row["layers_per_token"], row["layer_ratio"], row["computed_layers_per_token"]) == (12.0, 2.0, 16.0)
    assert (row["gflops_per_token"], row["flops_ratio"]) == (0.002, 2.0)
    assert (row["weight_mb_per_token"], row["kv_cache_mb"]) == (5.0, 3.0)
    assert (row["peak_memory_mb"], row["peak_memory_kind"], row["energy_j_per_token"]) == (400.0, "resident set", None)
    assert (row["verdict"], row["status"], row["paired_repeats"], row["notes"]) == ("faster", "ok", 5, None)
    assert (row["params"], row["trained"], row["family"]) == ("speedup=2; warmup=1", "trained", "schedule")


def test_what_weights_cost_is_empty_where_no_checkpoint_says():
    cost = {"tokens": 1_860_000, "seconds": 700.5, "device": "a processor", "steps": 700}
    skip = {**SKIP, "training": cost}
    table = {row["label"]: row for row in summarise(run(full_speed(), speed(skip), arms=(FULL, skip)))}
    names = ("training_tokens", "training_s", "training_device")
    assert [table["Skip"][name] for name in names] == [1_860_000, 700.5, "a processor"]
    assert [table["Full model"][name] for name in names] == [None] * 3


def test_baseline_row():
    row = rows(full_speed(), speed(SKIP))["Full model", 1]
    assert (row["speedup"], row["speedup_low"], row["flops_ratio"], row["verdict"]) == (1.0, 1.0, 1.0, "baseline")


def test_columns_come_in_the_promised_order():
    table = summarise(run(full_speed(), speed(SKIP), quality(FULL, [5] * 30), quality(SKIP, [5] * 30)))
    keys = list(table[0])
    promised = [
        "method", "params", "label", "checkpoint", "batch_size", "status", "ttft_ms", "tpot_ms", "tpot_p99_ms", "tokens_per_s",
        "speedup", "speedup_low", "speedup_high", "predicted_speedup", "efficiency", "layers_per_token", "layer_ratio",
        "gflops_per_token", "flops_ratio", "weight_mb_per_token", "peak_memory_mb", "kv_cache_mb", "energy_j_per_token",
    ]  # fmt: skip
    at = len(promised)
    assert keys[:at] == promised
    assert keys[at : at + 4] == ["toy/score", "toy/score_low", "toy/score_high", "toy/errors"]
    assert [list(row) for row in table] == [keys] * 2


def test_p99_needs_two_hundred_steps():
    assert rows(full_speed(), speed(SKIP, step_s=(0.004,) * 39))["Skip", 1]["tpot_p99_ms"] is None
    assert rows(full_speed(), speed(SKIP, step_s=(0.004,) * 40))["Skip", 1]["tpot_p99_ms"] == pytest.approx(
        4.16, rel=0.01
    )


def test_pairs_are_matched_by_process_repeat_and_prompt_set():
    """Comparing the i-th run of one arm with the i-th of the other mixes prompts once one run is lost."""
    full, skip = full_speed(), speed(SKIP)
    skip["runs"] = [skip["runs"][i] for i in (4, 2, 0, 1)]
    interval = speedup(full, skip)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.5, 1.5, 1.5))
    assert interval.n == 4
    for each in skip["runs"]:
        each["prompt_set"] += 5
    assert speedup(full, skip) is None
    row = rows(full, skip)["Skip", 1]
    assert (row["speedup"], row["verdict"], row["flops_ratio"]) == (None, "unusable", 2.0)
    assert row["tpot_ms"] is not None


def test_prompt_sets_of_one_repeat_are_one_pair():
    """Five prompts timed once are not five repeats: their times say nothing about the machine's noise."""
    full, skip = full_speed(), speed(SKIP)
    for cell in (full, skip):
        for i, each in enumerate(cell["runs"]):
            each |= {"repeat": 0, "prompt_set": i}
    row = rows(full, skip)["Skip", 1]
    assert (row["usable"], row["speedup"], row["verdict"]) == ("unusable", None, "unusable")
    assert row["reason"].startswith("one repeat says nothing about how far it can be trusted")


def test_several_times_of_full_in_one_repeat_count_as_their_mean():
    """Full is timed more often than what is held against it."""
    full, skip = full_speed(), speed(SKIP)
    before = speedup(full, skip)
    again = [{**each, "order": 9, "step_s": [3 * s for s in each["step_s"]]} for each in full["runs"]]
    interval = speedup({**full, "runs": [*full["runs"], *again]}, skip)
    assert interval.value == pytest.approx(2 * before.value) and interval.n == before.n


def test_unequal_tokens_are_compared_per_token():
    """A draft that yields twice the tokens in the same time is twice as fast, not as fast."""
    skip = speed(SKIP, step_s=(0.006,) * 3)
    for each in skip["runs"]:
        each["step_tokens"] = [2] * 3
    row = rows(full_speed(), skip)["Skip", 1]
    assert row["speedup"] == pytest.approx(2.0)
    assert row["tpot_ms"] == pytest.approx(3.06)


def test_other_conditions_are_not_compared():
    row = rows(full_speed(), speed(SKIP, conditions_hash="other"))["Skip", 1]
    assert [row[k] for k in ("speedup", "flops_ratio", "efficiency")] == [None] * 3
    assert row["verdict"] == "unusable"
    assert "other conditions" in row["notes"] and "other conditions" in row["reason"]
    assert row["tpot_ms"] is not None


def test_few_or_noisy_repeats_are_inconclusive():
    few = rows(full_speed(repeats=4), speed(SKIP, repeats=4))["Skip", 1]
    assert (few["verdict"], few["speedup"]) == ("inconclusive", pytest.approx(1.5))
    assert (few["usable"], few["reason"]) == ("wide", "4 repeats count, a verdict needs 5")
    assert [rows(full_speed(), speed(SKIP))["Skip", 1][k] for k in ("usable", "reason")] == ["usable", None]


@pytest.mark.parametrize(("arm", "whose"), [(0, " of the full model"), (1, "")])
def test_one_stall_makes_a_cell_unusable_and_says_why(arm, whose):
    """One repeat of 54 times the median in five: the interquartile range does not see it, 58.28 [1.12, 3,034] was printed."""
    cells = [full_speed(), speed(SKIP)]
    for cell in cells:
        for each in cell["runs"]:
            each["prompt_set"] = 0
    cells[arm]["runs"][2]["step_s"] = [s * 54 for s in cells[arm]["runs"][2]["step_s"]]
    row = rows(*cells)["Skip", 1]
    assert (row["usable"], row["verdict"], row["speedup"]) == ("unusable", "unusable", None)
    assert row["reason"] == f"one repeat{whose} took 53 times the median", "of 1.02 times the first"
    assert row["tpot_ms"] < 4.2 and row["dispersion"] < 0.1


@pytest.mark.parametrize(("other", "mean"), [(1.0, 1.35), (1.7, 1.7)])
def test_several_times_of_one_repeat_are_judged_by_their_mean(other: float, mean: float) -> None:
    """Full was timed 105 times beside 48 arms: that one of them took 1.6 times the median made every cell wide."""
    full = full_speed()
    full["runs"] += [{**each, "order": 1} for each in full["runs"]]
    for each, slower in ((full["runs"][0], 1.7), (full["runs"][5], other)):
        each["step_s"] = [s * slower for s in each["step_s"]]
    clock = Clock.of(full)
    assert clock.slow()[0] == pytest.approx(1.7, rel=0.05) and clock.slow_repeats()[0] == pytest.approx(mean, rel=0.05)
    assert len(clock.slow_repeats()) == 5
    reason = rows(full, speed(SKIP))["Skip", 1]["reason"]
    assert ("of the full model took" in reason) == (mean > 1.5)


def test_a_repeat_measured_again_takes_the_place_of_a_disturbed_one():
    """Both stay in the cell; the first does not count, the second does, and the cell is usable."""
    full, skip = full_speed(), speed(SKIP)
    skip["runs"][2] |= {"step_s": [1.0] * 3, "disturbed": "took 250 times the median"}
    for cell, seconds in ((full, 0.006), (skip, 0.004)):
        cell["runs"].append({**cell["runs"][2], "repeat": 5, "again": 2, "step_s": [seconds] * 3})
        cell["runs"][-1].pop("disturbed", None)
    row = rows(full, skip)["Skip", 1]
    assert (row["usable"], row["paired_repeats"], row["speedup"]) == ("usable", 5, pytest.approx(1.5))
    skip["runs"][-1]["disturbed"] = "took 250 times the median"
    assert rows(full, skip)["Skip", 1]["reason"].startswith("one repeat took 2")


def test_work_of_others_makes_a_cell_wide():
    machine = [{"cpu": {"foreign_share": 0.45, "steal_share": 0.03}}]
    row = rows(full_speed(machine=machine), speed(SKIP, machine=machine))["Skip", 1]
    assert (row["usable"], row["verdict"]) == ("wide", "faster"), "half as fast again is no noise"
    assert row["reason"] == "other programs had 48 % of the processor meanwhile"


def test_failed_and_missing_cells_leave_empty_columns():
    failed = {**speed(SKIP), "status": "failed", "error": "out of memory", "runs": None}
    table = rows(full_speed(), full_speed(8), failed, batch_sizes=[1, 8])
    empty = quantities.columns(late=False)
    for batch, status in ((1, "failed"), (8, "missing")):
        row = table["Skip", batch]
        assert [row[c] for c in empty] == [None] * len(empty)
        assert (row["status"], row["verdict"], row["notes"]) == (status, "inconclusive", f"speed {status}")
    assert table["Full model", 8]["status"] == "ok"


def test_status_is_the_worst_of_the_rows_cells():
    """A failed memory process must show, without costing the speed-up that was measured."""
    row = rows(
        full_speed(), speed(SKIP), memory(FULL), memory(SKIP, status="failed"), quality(FULL, [5] * 30), tasks=["toy"]
    )["Skip", 1]
    assert (row["status"], row["notes"]) == ("failed", "memory failed; quality on toy missing")
    assert (row["verdict"], row["peak_memory_mb"]) == ("faster", None)


def test_without_the_full_model_nothing_is_compared():
    row = rows({**full_speed(), "status": "failed"}, speed(SKIP), quality(SKIP, [5] * 30))["Skip", 1]
    assert [row[k] for k in ("speedup", "flops_ratio", "efficiency")] == [None] * 3
    assert not any(key.endswith("_diff") for key in row)
    assert (row["verdict"], row["quality_verdict"]) == ("unusable", "inconclusive")
    assert row["toy/score"] == 50.0


def test_values_that_cannot_be_are_empty_not_zero():
    row = rows(full_speed(), speed(SKIP, ideal_step_s=None, flops_per_token=0, layers_per_token=None))["Skip", 1]
    assert [row[k] for k in ("predicted_speedup", "efficiency", "layer_ratio", "flops_ratio")] == [None] * 4


def test_gpu_memory_is_the_allocators():
    seen = {"cuda_reserved_bytes": 3e9, "nvml_process_bytes": None, "nvml_device_bytes": 5e9}
    row = rows(full_speed(), memory(FULL, cuda_peak_allocated_bytes=2e9, **seen))["Full model", 1]
    assert (row["peak_memory_mb"], row["peak_memory_kind"]) == (2000.0, "CUDA allocated")
    assert [row[f"{k}_mb"] for k in ("reserved_memory", "nvml_process", "nvml_device")] == [3000.0, None, 5000.0]


def test_energy_comes_from_its_own_cell():
    row = rows(full_speed(), memory(FULL), energy(FULL))["Full model", 1]
    assert (row["energy_j_per_token"], row["energy_above_idle_j_per_token"], row["idle_w"]) == (0.5, 0.3, 60.0)
    assert row["cpu_energy_j_per_token"] is None
    assert rows(full_speed(), memory(FULL))["Full model", 1]["energy_j_per_token"] is None
    failed = rows(full_speed(), energy(FULL, status="failed"))["Full model", 1]
    assert (failed["energy_j_per_token"], failed["status"]) == (None, "failed")


def test_geometric_mean_of_prompts_comes_second():
    """A long prompt at ratio 1 and a short one at 4: the totals say nearly 1, the prompts' mean 2."""
    full, skip = full_speed(), speed(SKIP)
    for cell, short in ((full, 0.0004), (skip, 0.0001)):
        for i, each in enumerate(cell["runs"]):
            each["step_s"] = [short] * 3 if i % 2 else [0.01] * 3
    row = rows(full, skip)["Skip", 1]
    assert row["speedup"] == pytest.approx((0.03 + 0.0012) / (0.03 + 0.0003)), "each prompt by its time"
    assert row["speedup_geomean"] == pytest.approx(2.0)
    assert row["speedup_geomean_low"] <= 2.0 <= row["speedup_geomean_high"]


def test_breakdown_is_per_token():
    """Two rows, a step that yields four tokens: half the step belongs to each token of a row."""
    parts = {part: [0.001, 0.003, 0.002] for part in measures.PARTS}
    one = {"process": 0, "prompt_set": 0, "step_s": [0.008] * 3, "step_tokens": [4, 4, 4], "parts_s": parts}
    row = rows(full_speed(2), speed(SKIP, 2, breakdown=[one]))["Skip", 2]
    assert [row[f"{part}_ms"] for part in measures.PARTS] == pytest.approx([1.0] * 8)
    assert rows(full_speed(2), speed(SKIP, 2))["Skip", 2]["host_ms"] is None


def test_batch_tax_is_for_exits():
    """Depth of the batch's last row over the mean of the rows; a schedule has none to pay."""
    table = rows(full_speed(), speed({**SKIP, "family": "exit"}))
    assert table["Skip", 1]["batch_tax"] == pytest.approx(16 / 12)
    assert rows(full_speed(), speed(SKIP))["Skip", 1]["batch_tax"] is None


def test_scatter_beyond_the_limit_marks_a_cell():
    """Noise that both arms share keeps the ratio narrow; the cell is marked all the same."""
    factors, full, skip = (1.0, 2.0, 1.0, 2.0, 1.0), full_speed(), speed(SKIP)
    for cell in (full, skip):
        for factor, each in zip(factors, cell["runs"], strict=True):
            each |= {"step_s": [s * factor for s in each["step_s"]], "prompt_set": 0}
    row = rows(full, skip, limits={"dispersion": 0.25})["Skip", 1]
    assert row["dispersion"] > 0.25
    assert (row["usable"], row["verdict"], row["speedup"]) == ("unusable", "unusable", None)
    assert "of their median" in row["reason"]
    assert rows(full, skip, limits={"dispersion": 2.0})["Skip", 1]["verdict"] == "faster"


def test_fixed_length_and_natural_end_never_share_a_number():
    """A cell timed to natural ends is no speed; time per request comes from the scored batches alone."""
    natural = speed(SKIP, conditions={"end_of_sequence": "natural"})
    row = rows(full_speed(), natural)["Skip", 1]
    assert [row[k] for k in ("tpot_ms", "tokens_per_s")] == [None, None]
    assert "natural end" in row["notes"]
    batches = [{"rows": 3, "seconds": 0.6, "tokens": 40}, {"rows": 1, "seconds": 0.2, "tokens": 9}]
    cells = (full_speed(), speed(SKIP), quality(FULL, [5] * 30), quality(SKIP, [5] * 30, batches=batches))
    row = rows(*cells)["Skip", 1]
    assert row["toy/request_ms"] == pytest.approx(200.0)
    assert row["tpot_ms"] == pytest.approx(4.08)


def test_no_arms_no_cells():
    empty = run(arms=())
    assert summarise(empty) == []
    assert csv_text([]).startswith("method,params,label")


def test_file_is_stable_and_numbers_have_six_digits(tmp_path):
    store = RunStore(tmp_path)
    store.write_run({"name": "x", "suite": {}, "arms": [FULL, {**SKIP, "label": 'a "quoted", label'}]})
    for cell in (full_speed(), {**speed(SKIP), "arm": {**SKIP, "label": 'a "quoted", label'}}):
        store.write_cell(cell)
    first = write_summary(store, load(tmp_path)).read_bytes()
    assert write_summary(store, load(tmp_path)).read_bytes() == first
    assert b"\r" not in first
    lines = list(csv.DictReader(io.StringIO(first.decode())))
    assert lines[1]["label"] == 'a "quoted", label'
    assert lines[1]["tpot_ms"] == "4.08"
    assert lines[1]["tokens_per_s"] == "245.098"
    assert lines[1]["peak_memory_mb"] == ""
    assert csv_text([{"a": -0.0, "b": 1234567.0, "c": 1e-7 / 3, "d": None, "e": 3}]) == (
        "a,b,c,d,e\n0,1.23457e+06,3.33333e-08,,3\n"
    )


def test_a_frame_has_the_rows_of_the_file_with_proper_types(tmp_path):
    """Missing is NaN in every column, never 0 or an empty text; counts and times can be computed with at once."""
    table = run(full_speed(), speed(SKIP), memory(FULL), quality(FULL, [5] * 30), quality(SKIP, [5] * 30))
    frame = table.frame()
    assert list(frame.columns) == list(table.summary[0]) and len(frame) == 2
    assert frame["batch_size"].dtype == "int64" and frame["speedup"].dtype == frame["toy/examples"].dtype == "float64"
    skip = frame.set_index("label").loc["Skip"]
    assert skip["speedup"] == pytest.approx(1.5) and skip["verdict"] == "faster"
    assert frame["peak_memory_mb"].isna().tolist() == [False, True] and frame["peak_memory_kind"].isna().tolist() == [
        False,
        True,
    ]
    assert frame["energy_j_per_token"].isna().all() and frame["energy_j_per_token"].dtype == "float64"
    assert run(arms=()).frame().empty


def test_rows_come_from_the_folder_alone(tmp_path: Path):
    """What is read back from JSON gives the same rows as what was in memory."""
    cells = [full_speed(), speed(SKIP), quality(FULL, [5] * 30), quality(SKIP, [5] * 30)]
    store = RunStore(tmp_path)
    store.write_run({"name": "x", "suite": {}, "arms": [FULL, SKIP]})
    for cell in cells:
        store.write_cell(json.loads(json.dumps(cell)))
    assert summarise(load(tmp_path)) == summarise(run(*cells))


def test_extra_columns_follow_the_metrics():
    keys = list(summarise(run(full_speed(), speed(SKIP), quality(FULL, [5] * 30), quality(SKIP, [5] * 30)))[0])
    order = [
        "toy/agreement_high",
        "toy/score_diff",
        "quality_verdict",
        "verdict",
        "trained",
        "usable",
        "reason",
        "notes",
    ]
    assert sorted(order, key=keys.index) == order


def test_the_baseline_is_the_first_full_at_the_same_batch_size():
    """A run has `full` once per checkpoint; dividing by another one, or by another batch size, is another number."""
    other = {**FULL, "label": "Full model (Skip weights)", "checkpoint": "m/skip"}
    second = {**speed(other, step_s=(0.012,) * 3), "id": "speed-full-other-b1"}
    eight = full_speed(8, runs=[{**r, "step_s": [0.02] * 3, "step_tokens": [8] * 3} for r in full_speed(8)["runs"]])
    table = run(full_speed(), second, eight, speed(SKIP), speed(SKIP, 8), arms=(FULL, other, SKIP))
    found = {(row["label"], row["batch_size"]): row for row in summarise(table)}
    assert found["Skip", 1]["speedup"] == pytest.approx(1.5)
    assert found["Skip", 8]["speedup"] == pytest.approx(0.02 / 0.00408, rel=1e-3)
    again = found["Full model (Skip weights)", 1]
    assert (again["speedup"], again["verdict"]) == (pytest.approx(0.5), "slower")


def test_logits_that_are_not_finite_are_noted():
    assert "not finite" in rows(full_speed(), speed(SKIP, finite=False))["Skip", 1]["notes"]


def test_summarising_needs_no_torch():
    code = (
        "import sys; from harness.records.run import Run; from harness.records.summary import summarise; "
        "summarise(Run({'arms': []}, [])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
