"""What makes a speed-up unusable, what explains one beyond its prediction, and the control of arms that do the same work."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.records import believable, gates, summary
from harness.records.folder import Run

Json = dict[str, Any]
FULL_S = 0.010
READ = {"process": 0, "memory_gb_per_s": 30.0, "cache_gb_per_s": 120.0, "last_level_cache_bytes": 32_000_000}
WITHIN, SAME = "no speed-up outruns its prediction", "arms that do the same work take the same time"


def cell(label: str, method: str, step_s: float, ideal_s: float, weights: float = 80e6, spread: float = 0.01) -> Json:
    """A timed cell of batch 2 with six repeats whose steps take `step_s`, give or take `spread`."""
    runs = [
        {"process": 0, "repeat": r, "order": 0, "prompt_set": 0, "ttft_s": 0.1, "step_tokens": [2] * 4,
         "step_s": [step_s * (1 + spread * ((r * 7) % 5 - 2) / 2)] * 4}
        for r in range(6)
    ]  # fmt: skip
    return {
        "id": f"speed--{label}", "kind": "speed", "status": "ok", "error": None, "batch_size": 2, "new_tokens": 5,
        "arm": {"label": label, "method": method, "checkpoint": label, "exact": False}, "runs": runs, "depth": 4,
        "layers_per_token": 4.0, "ideal_full_step_s": FULL_S, "ideal_step_s": ideal_s, "weight_bytes_per_token": weights / 2,
        "kv_bytes_per_token": 1e6, "reading": [READ], "conditions": {"cpu": "x"}, "conditions_hash": "h", "finite": True,
    }  # fmt: skip


def run_of(*cells: Json) -> Run:
    return Run({"suite": {}, "arms": [c["arm"] for c in cells], "environment": {}}, list(cells))


def judged(run: Run, name: str) -> gates.Gate:
    return next(gate for gate in gates.evaluate(run) if gate.name == name)


@pytest.mark.parametrize(
    ("step_s", "verdict", "status"),
    [
        (0.0050, "faster", gates.PASSED),  # as predicted
        (0.0047, "faster", gates.PASSED),  # 1.06 of it
        (0.0040, "unusable", gates.FAILED),  # 2.5 times for half the work
    ],
)
def test_a_speed_up_beyond_its_prediction_is_unusable(step_s: float, verdict: str, status: str) -> None:
    run = run_of(cell("Full", "full", FULL_S, FULL_S), cell("Skip", "skipdecode", step_s, 0.005, 79e6))
    row = summary.summarise(run)[1]
    assert row["verdict"] == verdict
    gate = judged(run, WITHIN)
    assert gate.status == status and gate.counts and gate.limit == believable.MARGIN
    if verdict == "unusable":
        assert gate.cells == ("speed--Skip",) and "the baseline is suspect" in gate.detail
        assert row["notes"].startswith("faster than its work allows (1.25")


def test_an_interval_that_reaches_the_limit_is_no_proof() -> None:
    wide = cell("Skip", "skipdecode", 0.0042, 0.005, 79e6, spread=0.8)
    run = run_of(cell("Full", "full", FULL_S, FULL_S), wide)
    assert judged(run, WITHIN).status == gates.PASSED


@pytest.mark.parametrize(
    ("weights", "change", "explained"),
    [
        (20e6, {}, True),  # what is left fits a cache of 32 MB, the full model's 80 MB do not
        (40e6, {}, False),  # it does not fit
        (20e6, {"last_level_cache_bytes": 90_000_000}, False),  # the full model fits too
        (20e6, {"last_level_cache_bytes": None}, False),  # nobody knows
        (20e6, {"cache_gb_per_s": 3.0}, False),  # faster than the cache can be read
    ],
)
def test_only_evidence_in_the_record_explains_more(weights: float, change: Json, explained: bool) -> None:
    full, skip = cell("Full", "full", FULL_S, FULL_S), cell("Skip", "skipdecode", 0.004, 0.005, weights)
    for each in (full, skip):
        each["reading"] = [{**READ, **change}]
    run = run_of(full, skip)
    row, gate = summary.summarise(run)[1], judged(run, WITHIN)
    assert row["verdict"] == ("faster" if explained else "unusable")
    assert gate.status == (gates.PASSED if explained else gates.FAILED)
    if explained:
        assert "fits the last-level cache (32 MB), what the full model's reads (82 MB) does not" in row["notes"]
        assert "explained" in gate.detail


def test_rates_stand_beside_each_other() -> None:
    row = summary.summarise(run_of(cell("Full", "full", FULL_S, FULL_S)))[0]
    assert row["weight_gb_per_s"] == pytest.approx(80e6 / FULL_S / 1e9, rel=0.02)
    assert row["read_gb_per_s"] == 30.0
    old = cell("Full", "full", FULL_S, FULL_S)
    del old["reading"]
    assert summary.summarise(run_of(old))[0]["read_gb_per_s"] is None


def test_arms_that_do_the_same_work_are_a_control() -> None:
    base = cell("Full", "full", FULL_S, FULL_S)
    near, far = (copy.deepcopy(cell(f"Full on {n}", "full", s, FULL_S)) for n, s in (("near", 0.0101), ("far", 0.0085)))
    assert judged(run_of(base), SAME).status == gates.NOT_APPLICABLE
    assert judged(run_of(base, near), SAME).status == gates.PASSED
    gate = judged(run_of(base, near, far), SAME)
    assert gate.status == gates.FAILED and not gate.counts
    assert "Full on far reads 1.18" in gate.detail and "rank nothing" in gate.detail
