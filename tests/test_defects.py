"""Defects found in existing benchmark tools, each one a test of ours. The numbers are those of the list they come from.

Here are those of conditions, failures, resuming and comparing; those of measuring and scoring stand with what they concern.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import compare, executor, gates, sweep
from harness.errors import CellFailed
from harness.store import load_run
from tests.fakes import FakeExecutor, suite


def test_2_result_files_are_json_and_empty_outputs_are_counted(tmp_path: Path) -> None:
    """Defect 2: four json.dump calls into one file do not parse; empty generations vanished from the mean."""

    class Silent(FakeExecutor):
        def _quality(self, *arguments: Any) -> Any:
            found = super()._quality(*arguments)
            found["examples"][0]["output"] = ""
            return found

    assert sweep.run_suite(suite(), tmp_path, workers=Silent()) == 0
    for path in [tmp_path / "run.json", tmp_path / "gates.json", *(tmp_path / "cells").iterdir()]:
        json.loads(path.read_text())
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 4 and sum(line["output"] == "" for line in lines) == 3
    gate = next(g for g in gates.load_gates(tmp_path) if g.name == "no empty generation")
    assert gate.stops and gate.value == 3


def test_4_token_counts_of_all_arms_are_checked(tmp_path: Path) -> None:
    """Defect 4: a missed stop let token counts differ between arms, and nobody looked."""

    class Longer(FakeExecutor):
        def _share(self, arm: Any, *arguments: Any) -> Any:
            share = super()._share(arm, *arguments)
            if arm["label"] == "Skip":
                share["runs"][0]["step_tokens"][0] += 1
            return share

    sweep.run_suite(suite(), tmp_path, workers=Longer())
    gate = next(g for g in gates.load_gates(tmp_path) if g.name == "token counts right")
    assert gate.stops and all("skip" in cell for cell in gate.cells)


def test_5_a_failure_never_carries_numbers_of_another_measurement(tmp_path: Path) -> None:
    """Defect 5: out of memory was written as "ERROR" beside the previous question's steps, tokens and time."""

    def exhausted(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "peak_memory" and arguments[1]["label"] == "Skip":
            raise CellFailed("CUDA out of memory", executor.OUT_OF_MEMORY)

    sweep.run_suite(suite(batch_sizes=[2]), tmp_path, workers=FakeExecutor(exhausted))
    cell = next(c for c in load_run(tmp_path).cells if c["kind"] == "memory" and c["arm"]["label"] == "Skip")
    assert cell["status"] == "failed" and cell["failure"]["reason"] == "out of memory"
    assert not [key for key in cell if key.endswith("_bytes")], "no number stands in a failed cell"


def test_8_prompts_do_not_depend_on_the_arm(tmp_path: Path) -> None:
    """Defect 8: second turns held each method's own first answer, so arms had different prompts."""

    class Own(FakeExecutor):
        def _share(self, arm: Any, *arguments: Any) -> Any:
            return {**super()._share(arm, *arguments), "prompts_seen": [arm["label"]]}

    sweep.run_suite(suite(), tmp_path, workers=Own())
    gate = next(g for g in gates.load_gates(tmp_path) if g.name == "prompts identical across arms")
    assert gate.stops and gate.value == 6


def test_12_resume_is_reachable_and_keeps_what_is_there(tmp_path: Path) -> None:
    """Defect 12: the folder was made anew before the test whether it existed, so nothing was ever resumed."""
    assert sweep.run_suite(suite(), tmp_path, workers=FakeExecutor()) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    again = FakeExecutor()
    assert sweep.run_suite(suite(), tmp_path, workers=again, resume=True) == 0
    assert [function for function, _ in again.calls] == ["prepare"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == stamps


def test_12_a_change_of_attention_between_arms_is_refused_with_its_name(tmp_path: Path) -> None:
    """Defect 12, second half: choosing a method silently changed the attention backend, and costs were compared all the same."""
    from reports.facts import gather
    from reports.load import load

    class Eager(FakeExecutor):
        def _share(self, arm: Any, *arguments: Any) -> Any:
            share = super()._share(arm, *arguments)
            share["conditions"]["attention"] = "eager" if arm["label"] == "Skip" else "sdpa"
            return share

    sweep.run_suite(suite(batch_sizes=[1]), tmp_path, workers=Eager())
    facts = gather(load([tmp_path])[0])
    assert ("Skip", 1) not in facts.speed and ("Draft", 1) in facts.speed
    assert len(facts.refused) == 1 and "attention" in facts.refused[0] and "eager" in facts.refused[0]


def test_13_results_belong_to_method_and_weights(tmp_path: Path) -> None:
    """Defect 13: a cache whose key held neither method nor model gave one method's answers to another."""
    one = sweep.cell_id("quality", "SkipDecode 2x", "e2e")
    assert one != sweep.cell_id("quality", "skipdecode-2x", "e2e"), (
        "labels that look alike as file names are kept apart"
    )
    sweep.run_suite(suite(), tmp_path, workers=FakeExecutor())
    other = suite(
        methods=["full", {"name": "skipdecode", "label": "Skip", "speedup": 3}, {"name": "layerskip", "label": "Draft"}]
    )
    with pytest.raises(ValueError, match="suite.methods.1.speedup is 2 there and 3 now"):
        sweep.run_suite(other, tmp_path, workers=FakeExecutor(), resume=True)


def test_14_a_failed_repeat_is_no_fast_one(tmp_path: Path) -> None:
    """Defect 14: what first completed and then timed out was mixed with what completed."""

    def late(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "speed" and arguments[3] == 0:
            raise CellFailed("hung past its time limit", executor.TIMED_OUT, [], "Skip")

    sweep.run_suite(
        suite(batch_sizes=[1]), tmp_path, workers=FakeExecutor(lambda f, a: late(f, a) if len(a[1]) == 3 else None)
    )
    cell = next(c for c in load_run(tmp_path).cells if c["kind"] == "speed" and c["arm"]["label"] == "Skip")
    assert cell["status"] == "failed" and {run["process"] for run in cell["runs"]} == {1}


def test_17_which_way_is_better_is_said_and_not_guessed_from_a_name() -> None:
    """Defect 17: lower was better for columns named P99 or Median."""
    from harness.stats import Interval

    up = Interval(1.2, 1.1, 1.3, 30)
    assert compare.ratio_verdict(up, 0.05) == "faster"
    assert compare.ratio_verdict(up, 0.05, up=compare.SLOWER, down=compare.FASTER) == "slower"
    assert compare.difference_verdict(Interval(3.0, 2.0, 4.0, 50), 1.0, "lower") == "worse"
