"""What makes a speed-up unusable, what explains one beyond its work, and the control of arms that do the same work."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.records import believable, gates, summary
from harness.records.run import Run

Json = dict[str, Any]
FULL_S = 0.010
READ = {"process": 0, "memory_gb_per_s": 30.0, "cache_gb_per_s": 120.0, "last_level_cache_bytes": 32_000_000}
WITHIN, SAME, EVEN = (
    *("no speed-up outruns its work", "arms that do the same work take the same time"),
    "blocks of the full model take alike",
)


def cell(label: str, method: str, step_s: float, ideal_s: float, share: float = 1.0, spread: float = 0.01) -> Json:
    """A timed cell of batch 2 with six repeats whose steps take `step_s`, give or take `spread`; its work is `share` of full's."""
    runs = [
        {"process": 0, "repeat": r, "order": 0, "prompt_set": 0, "ttft_s": 0.1, "step_tokens": [2] * 4,
         "step_s": [step_s * (1 + spread * ((r * 7) % 5 - 2) / 2)] * 4}
        for r in range(6)
    ]  # fmt: skip
    parts = {"step_s": [step_s], "step_tokens": [2], "parts_s": {}, "block_step_s": [1.0, 1.1, 1.0, 0.9]}
    return {
        "id": f"speed--{label}", "kind": "speed", "status": "ok", "error": None, "batch_size": 2, "new_tokens": 5,
        "arm": {"label": label, "method": method, "checkpoint": label, "exact": False}, "runs": runs, "depth": 4,
        "layers_per_token": 4.0, "ideal_full_step_s": FULL_S, "ideal_step_s": ideal_s, "weight_bytes_per_token": 40e6 * share,
        "kv_bytes_per_token": 1e6 * share, "flops_per_token": 1e6 * share, "reading": [READ], "finite": True,
        "breakdown": [copy.deepcopy(parts) for _ in range(3)], "conditions": {"cpu": "x"}, "conditions_hash": "h",
        "fewer_blocks": [{"process": 0, "blocks": 2, "step_s": [ideal_s]}],
    }  # fmt: skip


def run_of(*cells: Json) -> Run:
    return Run({"suite": {}, "arms": [c["arm"] for c in cells], "environment": {}}, list(cells))


def judged(run: Run, name: str) -> gates.Gate:
    return next(gate for gate in gates.evaluate(run) if gate.name == name)


FULL = cell("Full", "full", FULL_S, FULL_S)


@pytest.mark.parametrize(
    ("step_s", "verdict", "status"),
    [
        (0.0050, "faster", gates.PASSED),  # half the work in half the time
        (0.0047, "faster", gates.PASSED),  # 1.06 of what it allows
        (0.0040, "unusable", gates.FAILED),  # 2.5 times for half the work
    ],
)
def test_a_speed_up_beyond_its_work_is_unusable(step_s: float, verdict: str, status: str) -> None:
    run = run_of(FULL, cell("Skip", "skipdecode", step_s, 0.005, 0.5))
    row = summary.summarise(run)[1]
    assert row["verdict"] == verdict and row["byte_limit"] == pytest.approx(2)
    gate = judged(run, WITHIN)
    assert gate.status == status and gate.counts and gate.limit == believable.MARGIN
    if verdict == "unusable":
        assert gate.cells == ("speed--Skip",) and "the baseline is suspect" in gate.detail
        assert row["usable"] == "unusable" and row["speedup"] is None
        assert row["reason"] == "faster than its work allows (1.25 times); the baseline is suspect"


def test_an_interval_that_reaches_the_limit_is_no_proof() -> None:
    run = run_of(FULL, cell("Skip", "skipdecode", 0.0042, 0.005, 0.5, spread=0.25))
    assert judged(run, WITHIN).status == gates.PASSED


def test_bytes_or_operations_whichever_allows_more() -> None:
    """With many rows a step is bound by operations: a method that saves more of these may gain more than its bytes say."""
    skip = cell("Skip", "skipdecode", 0.0040, 0.005, 0.5)
    skip["flops_per_token"] = 1e6 / 2.5
    assert judged(run_of(FULL, skip), WITHIN).status == gates.PASSED
    assert believable.work_limit(FULL, skip) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("ideal_s", "blocks", "measured", "explained"),
    [
        (0.0039, [1.0, 1.1, 1.0, 0.9], True, True),  # the full model's own step shows it with fewer blocks
        (0.0050, [1.0, 1.1, 1.0, 0.9], True, False),  # it does not
        (
            0.0039,
            [1.0, 9.0, 1.0, 0.9],
            True,
            False,
        ),  # one of its blocks is slow: whoever skips it gains what nobody should
        (0.0039, [1.0, 1.1, 1.0, 0.9], False, False),  # nobody measured it
    ],
)
def test_only_evidence_in_the_record_explains_more(
    ideal_s: float, blocks: list[float], measured: bool, explained: bool
) -> None:
    full, skip = copy.deepcopy(FULL), cell("Skip", "skipdecode", 0.004, ideal_s, 0.5)
    for one in full["breakdown"]:
        one["block_step_s"] = blocks
    if not measured:
        full["fewer_blocks"] = []
    run = run_of(full, skip)
    row, gate = summary.summarise(run)[1], judged(run, WITHIN)
    assert row["verdict"] == ("faster" if explained else "unusable")
    assert gate.status == (gates.PASSED if explained else gates.FAILED)
    if explained:
        assert row["explanation"].startswith(
            "above its byte limit of 2.00: the full model's own step is 2.56 times faster with"
        )
        assert "explained" in gate.detail


def test_a_slow_block_of_the_full_model_fails_a_gate() -> None:
    assert judged(run_of(FULL), EVEN).status == gates.PASSED
    slow = copy.deepcopy(FULL)
    for one in slow["breakdown"]:
        one["block_step_s"][2] = 5.0
    gate = judged(run_of(slow), EVEN)
    assert (
        gate.status == gates.FAILED
        and gate.counts
        and gate.value is not None
        and gate.value > 4
        and "block 2" in gate.detail
    )
    beside = copy.deepcopy(slow)
    for run in beside["runs"]:
        run["machine"] = {"foreign_share": 0.5, "steal_share": 0.0}
    assert judged(run_of(beside), EVEN).status == gates.NOT_APPLICABLE, (
        "the first block waits for the second thread's turn"
    )
    slow["breakdown"][0]["block_step_s"][2] = 1.0  # it was disturbed, not slow
    assert judged(run_of(slow), EVEN).status == gates.PASSED


def test_where_a_slow_block_begins_is_the_suite_s_to_say_and_older_records_have_sums() -> None:
    slow = copy.deepcopy(FULL)
    for one in slow["breakdown"]:
        one["block_step_s"][2] = 5.0
    lenient = Run({"suite": {"limits": {"slow_block": 10}}, "arms": [slow["arm"]], "environment": {}}, [slow])
    assert judged(lenient, EVEN).status == gates.PASSED
    for one in slow["breakdown"]:
        one["blocks_s"] = one.pop("block_step_s")
    assert judged(run_of(slow), EVEN).status == gates.FAILED


def test_rates_stand_beside_each_other() -> None:
    row = summary.summarise(run_of(FULL))[0]
    assert row["weight_gb_per_s"] == pytest.approx(80e6 / FULL_S / 1e9, rel=0.02)
    assert row["read_gb_per_s"] == 30.0
    old = copy.deepcopy(FULL)
    del old["reading"]
    assert summary.summarise(run_of(old))[0]["read_gb_per_s"] is None


def test_arms_that_do_the_same_work_are_a_control() -> None:
    near, far = (cell(f"Full on {n}", "full", s, FULL_S) for n, s in (("near", 0.0101), ("far", 0.0085)))
    assert judged(run_of(FULL), SAME).status == gates.NOT_APPLICABLE
    assert judged(run_of(FULL, near), SAME).status == gates.PASSED
    gate = judged(run_of(FULL, near, far), SAME)
    assert gate.status == gates.FAILED and not gate.counts
    assert "Full on far reads 1.18" in gate.detail and "rank nothing" in gate.detail
