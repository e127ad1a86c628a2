"""An executor that answers at once with cells of the right shape.

What the sweep does with answers and failures is tested with it in milliseconds; what real workers do, in run/test_sweep.py and
run/test_local.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.models.kernels import choices
from harness.run.executors.base import Outcome
from harness.suites.suite import Suite

Json = dict[str, Any]
Hook = Callable[[str, tuple[Any, ...]], None]

MACHINE = {"seconds": 1.0, "load_average": [0.0, 0.0], "cpu": {"foreign_share": 0.0, "steal_share": 0.0}, "gpus": None}
TOKENS = [5, 6, 7, 8]


def suite(**changes: Any) -> Suite:
    values: Json = {
        "name": "fake",
        "model": "m",
        "methods": [
            "full",
            {"name": "skipdecode", "label": "Skip", "speedup": 2},
            {"name": "layerskip", "label": "Draft"},
        ],
        "batch_sizes": [4, 1, 2],
        "tasks": ["restaurants"],
        "new_tokens": 4,
        "processes": 2,
        "repeats": 5,
        **changes,
    }
    return Suite.model_validate(values)


class InProcess:
    """Runs jobs in this process: that each has one of its own is tested elsewhere, and starting them takes most of the time.

    Kernels are not chosen: an earlier choice would stay for the tests that follow.
    """

    slots = 1

    def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float | None = None) -> Outcome[Any]:
        kept = choices.table()
        try:
            return Outcome(function(*arguments), dict(MACHINE))
        finally:
            choices.install(kept)

    def close(self) -> None:
        """Nothing is held."""


class FakeExecutor:
    """Answers jobs from canned values; `hook(function, arguments)` may raise, as a worker would fail."""

    def __init__(self, hook: Hook | None = None, slots: int = 1) -> None:
        self.hook, self.slots = hook, slots
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.closed = False
        self.alive: Callable[[str], None] | None = None
        self.counters: list[str] = []
        """Energy counters that can be read."""
        self._lock = threading.Lock()

    def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float | None = None) -> Outcome[Any]:
        name = function.__name__
        with self._lock:
            self.calls.append((name, arguments))
        if self.hook:
            self.hook(name, arguments)
        return Outcome(getattr(self, f"_{name}")(*arguments), dict(MACHINE))

    def close(self) -> None:
        self.closed = True

    def batches(self, label: str) -> list[int]:
        """The batch sizes at which the speed of an arm was asked for, once per call."""
        return [a[2] for f, a in self.calls if f == "speed" and any(arm["label"] == label for arm in a[1])]

    def _prepare(self, suite: Suite, arms: Sequence[Json], data: Path | None) -> Json:
        exact = {"full", "layerskip"}
        full = [
            {
                **arm,
                "params": {},
                "family": "schedule",
                "exact": arm["method"] in exact,
                "trained": "not needed",
                "weights": "w",
            }
            for arm in arms
        ]
        return {"arms": full, "expected_tokens": {"restaurants": 4}, "kernels": {}, "energy_counters": self.counters}

    def _quality(self, suite: Suite, arm: Json, index: int, *_: Any) -> Json:
        examples = [
            {"id": f"e{i}", "tokens": 4, "token_ids": TOKENS, "ended": True, "output": "text", "prompt": "p", "references": ["r"],
             "layers_per_token": 4.0, "stats": {"agreement": [4, 4]}}
            for i in range(4)
        ]  # fmt: skip
        found: Json = {
            "task": "restaurants",
            "examples": examples,
            "max_new_tokens": 4,
            "conditions": {"prompts_hash": "q"},
        }
        if arm["method"] == "layerskip":
            found["divergences"] = {"count": 0, "first": []}
        return found

    def _speed(self, suite: Suite, arms: Sequence[Json], batch: int, process: int, *_: Any) -> Json:
        return {arm["label"]: self._share(arm, batch, process, place) for place, arm in enumerate(arms)}

    def _share(self, arm: Json, batch: int, process: int, place: int) -> Json:
        runs = [
            {"process": process, "repeat": r, "order": place, "prompt_set": 0, "ttft_s": 0.1,
             "step_s": [0.01 * (1 + place)] * 3, "step_tokens": [batch] * 3}
            for r in range(5)
        ]  # fmt: skip
        rows = [TOKENS for _ in range(batch)]
        outputs = [
            {
                "examples": [f"e{i}" for i in range(batch)],
                "tokens": rows,
                "margins": [[1.0] * 4] * batch,
                "scales": [2.0] * batch,
            }
        ]
        found: Json = {
            "status": "ok", "error": None, "runs": runs, "batch_size": batch, "new_tokens": 4, "depth": 4, "finite": True,
            "repeatable": True, "tokens_hash": "t", "prompts_seen": ["p"], "outputs": outputs, "layers_per_token": 4.0,
            "flops_per_token": 1e6, "ideal_full_step_s": 0.01, "ideal_step_s": 0.01 * (1 + place),
            "weight_bytes_per_token": 1e6, "kv_bytes_per_token": 1e3,
            "conditions": {"prompts_hash": "p", "batch_size": batch, "cpu": "x"},
        }  # fmt: skip
        if arm["method"] == "layerskip":
            found["divergences"] = {"count": 0, "first": []}
        return found

    def _peak_memory(self, suite: Suite, arm: Json, batch: int, *_: Any) -> Json:
        return {
            "batch_size": batch,
            "peak_rss_bytes": 10**9,
            "baseline_rss_bytes": 10**8,
            "conditions": {"batch_size": batch},
        }

    def _energy_per_token(self, suite: Suite, arm: Json, batch: int, *_: Any) -> Json:
        return {"batch_size": batch, "energy_j_per_token": 0.25, "conditions": {"batch_size": batch}}
