"""The A/A check with an executor that answers at once: what it counts, when it passes, what it refuses."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.run import selfcheck, sweep
from harness.suites.suite import Suite, load_suite
from tests.fakes import FakeExecutor, suite


def twice(**changes: Any) -> Suite:
    methods = [{"name": "full", "label": "A"}, {"name": "full", "label": "B"}]
    return suite(methods=methods, batch_sizes=[1], tasks=[], prompt_tokens=4, memory=False, **changes)


class Noisy(FakeExecutor):
    """Times with noise that both arms share and some of their own; B takes `factor(seed)` as long as A."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        super().__init__()
        self._factor = factor

    def _speed(self, suite: Suite, arms: Any, batch: int, process: int, *more: Any) -> Any:
        found = super()._speed(suite, arms, batch, process, *more)
        for place, arm in enumerate(arms):
            for run in found[arm["label"]]["runs"]:
                shared = random.Random(f"{suite.seed} {process} {run['repeat']}").uniform(1, 1.1)
                own = random.Random(f"{suite.seed} {process} {run['repeat']} {place}").uniform(1, 1.02)
                run["step_s"] = [0.01 * shared * own * (self._factor(suite.seed) if place else 1.0)] * 3
        return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeExecutor], None]:
    def use(workers: FakeExecutor) -> None:
        inner = sweep.run_suite
        monkeypatch.setattr(selfcheck, "run_suite", lambda *a, **k: inner(*a, **k, workers=workers))

    return use


def test_twenty_tries_of_an_honest_measurement_pass(runs: Any, tmp_path: Path) -> None:
    runs(Noisy(lambda seed: 1.0))
    told: list[str] = []
    record = selfcheck.check(twice(processes=5, repeats=5), tmp_path, 20, tell=told.append)
    assert record["passed"] and record["needed"] == 19
    assert record["counts"]["1"][selfcheck.SAME] >= 19 and record["counts"]["1"][selfcheck.DIFFERENCE] == 0
    assert len(record["tries"]) == len(told) == 20 and record["intervals_holding_1"] >= 19
    assert json.loads((tmp_path / selfcheck.RECORD).read_text()) == record
    assert all(0.98 < each["ratio"] < 1.02 for each in record["tries"])
    assert selfcheck.lines(record)[0].startswith("batch 1: no difference in ")


def test_a_biased_measurement_is_found_out(runs: Any, tmp_path: Path) -> None:
    """Were the second arm always 3 % slower (an order effect, say), the check must not pass."""
    runs(Noisy(lambda seed: 1.03))
    record = selfcheck.check(twice(processes=5, repeats=5), tmp_path, 3)
    assert not record["passed"]
    assert record["counts"]["1"] == {selfcheck.SAME: 0, selfcheck.DIFFERENCE: 3, selfcheck.NOISY: 0}


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ({"verdict": "no difference detected", "speedup_low": 0.95, "speedup_high": 1.05}, selfcheck.SAME),
        # 1 lies outside 95 % and inside 99 %, the level of verdicts: one try of 20 looks so where nothing is wrong.
        ({"verdict": "inconclusive", "speedup_low": 0.957, "speedup_high": 0.993}, selfcheck.SAME),
        ({"verdict": "inconclusive", "speedup_low": 0.85, "speedup_high": 1.15}, selfcheck.NOISY),
        ({"verdict": "inconclusive", "speedup_low": None, "speedup_high": None}, selfcheck.NOISY),
        ({"verdict": "faster", "speedup_low": 1.02, "speedup_high": 1.05}, selfcheck.DIFFERENCE),
    ],
)
def test_a_try_is_a_difference_none_or_too_noisy(row: dict[str, Any], outcome: str) -> None:
    assert selfcheck._outcome({"status": "ok", **row}) == outcome
    assert selfcheck._outcome({"status": "failed", "verdict": "faster"}) == selfcheck.NOISY


def test_finished_tries_are_kept(runs: Any, tmp_path: Path) -> None:
    workers = Noisy(lambda seed: 1.0)
    runs(workers)
    selfcheck.check(twice(), tmp_path, 1)
    asked = sum(function == "speed" for function, _ in workers.calls)
    record = selfcheck.check(twice(), tmp_path, 2)
    assert sum(function == "speed" for function, _ in workers.calls) == 2 * asked
    assert record["tries_done"] == 2
    assert (tmp_path / "try-01" / "run.json").exists() and (tmp_path / "try-02" / "run.json").exists()


@pytest.mark.parametrize(
    "methods",
    [
        ["full"],
        ["full", {"name": "skipdecode", "speedup": 2}],
        ["full", {"name": "full", "label": "other", "checkpoint": "elsewhere"}],
    ],
)
def test_anything_but_full_twice_is_refused(tmp_path: Path, methods: Any) -> None:
    with pytest.raises(BadInput, match="twice on the same weights"):
        selfcheck.check(suite(methods=methods), tmp_path, 1)
    with pytest.raises(BadInput, match="--tries 0"):
        selfcheck.check(twice(), tmp_path, 0)


def test_the_bundled_suite_is_such_a_one() -> None:
    chosen = load_suite("selfcheck")
    assert {(e.name, chosen.checkpoint(e)) for e in chosen.methods} == {("full", "opt-e2e-mini/full")}
    assert chosen.processes >= 5 and chosen.repeats >= 15
