"""Cells whose numbers can be worked out by hand, and metrics to score them with."""

import pytest

from harness.records import readings
from harness.records.readings import Reading
from harness.records.run import Run
from harness.records.summary import summarise

FULL = {
    "label": "Full model",
    "method": "full",
    "checkpoint": "m/full",
    "params": {},
    "family": "schedule",
    "exact": True,
}
SKIP = {
    "label": "Skip",
    "method": "skipdecode",
    "checkpoint": "m/skip",
    "params": {"speedup": 2, "horizon": None, "warmup": 1},
    "family": "schedule",
    "exact": False,
    "trained": "trained",
}


@pytest.fixture(autouse=True)
def metrics(monkeypatch):
    """Two metrics of hand: `score` (percent, higher is better) and `errors` (percent, lower is better)."""
    better = {"score": "higher", "errors": "lower", "agreement": "higher"}

    def read(name: str) -> Reading | None:
        return Reading(name, better[name], lambda t: 100 * t[..., 0] / t[..., 1]) if name in better else None

    monkeypatch.setattr(readings, "reading", read)


def record(kind: str, arm: dict, tail: str, **body: object) -> dict:
    base = {"schema_version": 1, "status": "ok", "error": None, "conditions": {}, "conditions_hash": f"{kind}{tail}"}
    return {**base, "id": f"{kind}-{arm['method']}-{tail}", "kind": kind, "arm": arm, **body}


def speed(arm: dict, batch: int = 1, step_s: tuple = (0.004,) * 3, repeats: int = 5, **changes: object) -> dict:
    runs = [
        {"process": 0, "repeat": r, "order": 0, "prompt_set": r % 2, "ttft_s": 0.01 + 0.001 * r,
         "step_s": [s * (1 + 0.01 * r) for s in step_s], "step_tokens": [batch] * len(step_s)}
        for r in range(repeats)
    ]  # fmt: skip
    body = {
        "batch_size": batch, "runs": runs, "depth": 24, "layers_per_token": 12.0, "computed_layers_per_token": 16.0,
        "flops_per_token": 2e6, "weight_bytes_per_token": 5e6, "kv_cache_bytes": 3_000_000,
        "ideal_step_s": 0.002, "ideal_full_step_s": 0.004, "finite": True,
    }  # fmt: skip
    return record("speed", arm, f"b{batch}", **{**body, **changes})


def full_speed(batch: int = 1, **changes: object) -> dict:
    own = {"layers_per_token": 24.0, "computed_layers_per_token": 24.0, "flops_per_token": 4e6, "ideal_step_s": 0.004}
    return speed(FULL, batch, (0.006,) * 3, **{**own, **changes})


def memory(arm: dict, batch: int = 1, **changes: object) -> dict:
    body = {"peak_rss_bytes": 4e8, "cuda_peak_allocated_bytes": None, "batch_size": batch}
    return record("memory", arm, f"b{batch}", **{**body, **changes})


def energy(arm: dict, batch: int = 1, **changes: object) -> dict:
    body = {"energy_j_per_token": 0.5, "energy_above_idle_j_per_token": 0.3, "idle_w": 60.0, "batch_size": batch}
    return record("energy", arm, f"b{batch}", **{**body, **changes})


def quality(
    arm: dict, right: list, task: str = "toy", names: tuple = ("score", "errors", "agreement"), **more: object
) -> dict:
    examples = [{"id": f"e{i}", "stats": {n: [float(r), 10.0] for n in names}} for i, r in enumerate(right)]
    return record("quality", arm, task, **{"task": task, "examples": examples, "layers_per_token": 11.5, **more})


def run(*cells: dict, arms: tuple = (FULL, SKIP), **suite: object) -> Run:
    return Run({"schema_version": 1, "name": "x", "suite": suite, "arms": list(arms)}, list(cells))


def rows(*cells: dict, **suite: object) -> dict:
    return {(row["label"], row["batch_size"]): row for row in summarise(run(*cells, **suite))}
