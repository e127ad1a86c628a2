"""Each gate passes on a good run, fails on a run with that one defect, and says what, where and how much."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.records import gates
from harness.records.gates import FAILED, NOT_APPLICABLE, NOT_MEASURED, PASSED, Gate
from harness.records.run import Run, load
from harness.run import sweep
from tests.fakes import FakeExecutor, suite

Change = Callable[[dict[str, Any]], None]
GPU = {
    "uuid": "GPU-1", "samples": 100, "throttled_samples": 0, "throttle_reasons": {}, "foreign_processes": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("gates") / "run"
    assert sweep.run_suite(suite(), out, workers=FakeExecutor()).failed == 0
    return load(out)


def judged(run: Run, change: Change | None = None, cell: str = "speed--draft", device: str = "cpu") -> dict[str, Gate]:
    run = copy.deepcopy(run)
    run.record["suite"]["device"] = device
    for each in run.cells:
        if device != "cpu":
            each["machine"] = [{**machine, "gpus": [copy.deepcopy(GPU)]} for machine in each["machine"]]
        if change and each["id"].startswith(cell):
            change(each)
    return {gate.name: gate for gate in gates.evaluate(run)}


def test_a_good_run_passes(good: Run) -> None:
    found = judged(good)
    assert not any(gate.stops for gate in found.values())
    assert {name for name, gate in found.items() if gate.status != PASSED} == {
        "no foreign process on the GPU", "throttled samples", "arms that do the same work take the same time",
        "blocks of the full model take alike", "the full model can do the tasks",
    }  # fmt: skip
    assert found["timed outputs equal scored outputs"].detail.startswith("21 timed rows")


def _set(path: str, value: Any) -> Change:
    def change(cell: dict[str, Any]) -> None:
        place: Any = cell
        *parts, last = path.split(".")
        for part in parts:
            place = place[int(part) if part.isdigit() else part]
        place[int(last) if last.isdigit() else last] = value

    return change


def _other_threads(cell: dict[str, Any]) -> None:
    cell["conditions"]["threads"] = 4
    cell["conditions_hash"] = "other"


def _noisy(cell: dict[str, Any]) -> None:
    first = cell["runs"][0]
    cell["runs"] = [{**first, "repeat": i, "step_s": [i + 0.1] * 3} for i in range(8)]


@pytest.mark.parametrize(
    ("name", "cell", "change", "says"),
    [
        ("conditions identical across arms", "quality--draft", _other_threads, "threads 4, not None as quality--full"),
        ("prompts identical across arms", "speed--draft", _set("prompts_seen", ["other"]), "other prompts than speed"),
        ("prompts identical across arms", "quality--draft", _set("examples.0.id", "e9"), "other prompts than quality"),
        ("token counts right", "speed--draft", _set("runs.0.step_tokens", [1, 1]), "tokens in a repeat instead of"),
        ("token counts right", "quality--draft", _set("examples.1.tokens", 3), "4 tokens kept, 3 counted"),
        ("token counts right", "quality--draft", _set("max_new_tokens", 3), "4 tokens, more than 3"),
        ("no empty generation", "quality--draft", _set("examples.2.output", " "), "e2 has no text"),
        ("finite logits", "speed--draft", _set("finite", False), "not finite"),
        ("timed outputs equal scored outputs", "speed--draft", _set("outputs.0.tokens.0", [5, 6, 9, 8]),
         "e0 parts at token 2, margin 1"),
        ("timed outputs equal scored outputs", "speed--draft", _set("repeatable", False), "other tokens than its warm-up"),
        ("timed cells are usable", "speed--draft", lambda cell: _noisy(cell), "spans 97% of their median"),
    ],
)  # fmt: skip
def test_one_defect_fails_one_gate(good: Run, name: str, cell: str, change: Change, says: str) -> None:
    before, after = judged(good), judged(good, change, cell)
    gate = after[name]
    assert gate.status == FAILED and gate.stops and gate.value and says in gate.detail and gate.cells
    assert all(c.startswith(cell) for c in gate.cells)
    assert gate.fault and gate.advice and f"failed: {gate.fault}: " in gates.lines([gate])[0]
    others = {n for n in after if after[n].status != before[n].status} - {name}
    assert not others


def test_few_noisy_cells_are_named_and_do_not_fail_the_run(good: Run) -> None:
    timed = [cell["id"] for cell in good.cells if cell["kind"] == "speed"]
    run = copy.deepcopy(good)
    run.record.setdefault("suite", {})["limits"] = {"noisy_share": 1 / len(timed)}
    gate = judged(run, lambda cell: _noisy(cell), timed[-1])["timed cells are usable"]
    assert gate.status == FAILED and not gate.stops and gate.cells == (timed[-1],) and "remeasure" in gate.advice
    run.record["suite"]["limits"] = {"noisy_share": 0.9 / len(timed)}
    assert judged(run, lambda cell: _noisy(cell), timed[-1])["timed cells are usable"].stops


def test_an_empty_text_of_a_method_that_changes_the_text_is_told_and_stops_nothing(good: Run) -> None:
    def lossy(cell: dict[str, Any]) -> None:
        cell["arm"]["exact"] = False
        cell["examples"][2]["output"] = ""

    gate = judged(good, lossy, "quality--draft")["no empty generation"]
    assert gate.status == FAILED and not gate.stops and gate.value == 1
    assert judged(good)["no empty generation"].counts


def _parts(*found: dict[str, Any]) -> Change:
    return _set("divergences", {"count": len(found), "first": list(found)})


def test_lossless_methods_match_or_part_at_a_tie(good: Run) -> None:
    """A tie of the two best logits excuses a divergence, and is told; a margin that the dtype resolves does not."""
    name = "lossless methods match the full model"
    apart = {"row": 0, "position": 2, "margin": 0.5, "scale": 10.0}
    gate = judged(good, _parts(apart))[name]
    assert gate.stops and gate.value == 3 and "row 0 parts at token 2, margin 0.5" in gate.detail
    tie = {"example": "e1", "position": 3, "margin": 1e-5, "scale": 10.0}
    gate = judged(good, _parts(tie))[name]
    assert gate.status == PASSED and "3 parted at a tie" in gate.detail
    assert judged(good, _parts({**tie, "margin": None}))[name].status == FAILED
    assert judged(good, _set("divergences", None))[name].detail.endswith("(no full model on the same checkpoint)")


def test_a_difference_at_a_tie_is_no_difference_of_outputs(good: Run) -> None:
    def at_a_tie(cell: dict[str, Any]) -> None:
        cell["outputs"][0]["tokens"][0] = [5, 6, 9, 8]
        cell["outputs"][0]["margins"][0] = [1.0, 1.0, 1e-6, 1.0]

    gate = judged(good, at_a_tie)["timed outputs equal scored outputs"]
    assert gate.status == PASSED and "3 parted at a tie" in gate.detail


def test_gpu_gates(good: Run) -> None:
    for name in ("no foreign process on the GPU", "throttled samples"):
        assert judged(good, device="cuda")[name].status == PASSED
    foreign = judged(good, _set("machine.0.gpus.0.foreign_processes", [{"pid": 7, "name": "train"}]), device="cuda")
    assert (
        foreign["no foreign process on the GPU"].stops
        and "train (process 7)" in foreign["no foreign process on the GPU"].detail
    )
    hot = judged(good, _set("machine.0.gpus.0.throttled_samples", 90), device="cuda")["throttled samples"]
    assert hot.stops and hot.value == pytest.approx(3 * 90 / (18 * 100)) and hot.limit == 0.05 and len(hot.cells) == 3

    def silent(cell: dict[str, Any]) -> None:
        for machine in cell["machine"]:
            for gpu in machine["gpus"] or []:
                gpu["foreign_processes"] = None

    untold = judged(good, silent, cell="", device="cuda")
    assert untold["no foreign process on the GPU"].status == NOT_MEASURED
    assert judged(good)["no foreign process on the GPU"].status == NOT_APPLICABLE


def test_the_gpu_that_was_measured_is_the_one_that_is_judged(good: Run) -> None:
    def another(cell: dict[str, Any]) -> None:
        cell["device_uuid"] = "GPU-1"
        cell["machine"][0]["gpus"].append({**GPU, "uuid": "GPU-2", "foreign_processes": [{"pid": 9, "name": "x"}]})

    assert judged(good, another, device="cuda")["no foreign process on the GPU"].status == PASSED


def test_a_busy_processor_is_told_and_does_not_stop(good: Run) -> None:
    def busy(cell: dict[str, Any]) -> None:
        cell["machine"] = [{"cpu": {"foreign_share": 0.4, "steal_share": None}}] * 2

    gate = judged(good, busy)["other work on the processor"]
    assert gate.status == FAILED and gate.value == 0.4 and not gate.stops


def test_limits_are_the_suites(good: Run) -> None:
    run = copy.deepcopy(good)
    run.record["suite"]["limits"]["foreign_cpu_share"] = 0.5
    for cell in run.cells:
        cell["machine"][0]["cpu"]["foreign_share"] = 0.4
    assert {g.name: g for g in gates.evaluate(run)}["other work on the processor"].status == PASSED


def test_older_runs_without_facts_are_judged_by_what_they_have(good: Run) -> None:
    """A run of before cells named the code: nothing is invented, nothing crashes."""
    cells = [{key: value for key, value in cell.items() if key != "code"} for cell in good.cells]
    found = {gate.name: gate for gate in gates.evaluate(Run(good.record, cells))}
    assert found["one version of the code"].status == NOT_MEASURED
    assert found["token counts right"].status == found["finite logits"].status == PASSED


def test_the_judgement_is_kept_in_the_folder(tmp_path: Path) -> None:
    run = sweep.run_suite(suite(), tmp_path / "run", workers=FakeExecutor())
    kept = json.loads((tmp_path / "run" / gates.FILE).read_text())["gates"]
    assert [(gate["name"], gate["status"]) for gate in kept] == [(gate.name, gate.status) for gate in run.gates]
    assert load(tmp_path / "run").gates == run.gates
