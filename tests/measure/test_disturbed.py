"""Disturbed repeats are seen by a rule that knows no arm, measured again together with their partner, and kept."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.measure import disturbed, speed
from harness.measure.meanwhile import Before
from harness.measure.prepare import prepare
from harness.measure.probes import fewer_blocks
from harness.records.fields import Timed
from tests.test_defects_measuring import tiny

WARM = [{0: [1.0]}, {0: [0.5]}]


def runs(seconds: list[float]) -> list[Timed]:
    return [
        {
            "process": 0,
            "repeat": r,
            "prompt_set": 0,
            "step_s": [s],
            "step_tokens": [1],
            "machine": {"foreign_share": 0.02},
        }
        for r, s in enumerate(seconds)
    ]


def reasons(of: list[Timed]) -> list[str | None]:
    return [run.get("disturbed") for run in of]


def test_the_rule_is_the_same_for_every_arm() -> None:
    """Stalling either arm marks the same repeat, and swapping the arms swaps the marks and nothing else."""
    full, skip = [1.0, 1.01, 54.0, 0.99, 1.02], [0.5, 0.51, 0.5, 0.49, 0.5]
    for first, second in ((full, skip), (skip, full)):
        arms = [runs(first), runs(second)]
        disturbed.mark(arms, WARM if first is full else WARM[::-1])
        stalled, quiet = arms if first is full else arms[::-1]
        assert reasons(stalled) == [None, None, "took 54 times the median of its arm", None, None]
        assert reasons(quiet) == [None] * 5
        assert disturbed.lost(stalled, quiet) == disturbed.lost(quiet, stalled) == [2]


def test_a_prompt_set_timed_once_stands_beside_its_warm_up() -> None:
    (only,) = arms = [runs([2.5])]
    disturbed.mark(arms, [{0: [1.0]}])
    assert only[0]["disturbed"] == "took 2.5 times the median of its arm"
    disturbed.mark(arms, [{0: [1.5]}])
    assert "disturbed" not in only[0]


def test_work_of_others_disturbs_where_it_is_unusual() -> None:
    """A neighbour during one repeat disturbs it; one that is always there disturbs none, it makes the cell wide."""
    once, always = runs([1.0] * 5), runs([1.0] * 5)
    once[3]["machine"] = {"foreign_share": 0.45, "steal_share": 0.05}
    disturbed.mark([once], [{}])
    assert reasons(once) == [
        None, None, None, "other programs had 50 % of the processor, 2 % in the median repeat", None,
    ]  # fmt: skip
    for run in always:
        run["machine"] = {"foreign_share": 0.5, "steal_share": None}
    disturbed.mark([always], [{}])
    assert reasons(always) == [None] * 5


@pytest.mark.parametrize(("lasts", "extra"), [(1, 1), (99, disturbed.ROUNDS)], ids=["once", "always"])
def test_both_arms_of_a_disturbed_pair_are_measured_again(checkpoint: Path, lasts: int, extra: int) -> None:
    """One stall of the draft: it and the full model run again, the third arm does not, and nothing is lost or repeated for ever."""
    suite = tiny(checkpoint, repeats=5, prompt_sets=1)
    arms = [{"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": str(checkpoint)} for e in suite.methods]
    prepared = prepare(suite, arms, None)
    seen: Counter[str] = Counter()
    left_out: list[bool] = []
    inner = speed.latency.measure

    def measure(make: Any, method: Any, device: torch.device) -> Any:
        timing, output = inner(make, method, device)
        name = "fewer" if isinstance(method, fewer_blocks.FirstBlocks) else str(method).partition("(")[0]
        seen[name] += 1
        left_out.append(gc.get_freeze_count() > 0)
        # The warm-up is the first; repeat 2 the fourth, and those after the fifth stand in its place.
        stalled = name == "layerskip" and (seen[name] == 4 or (seen[name] > 6 and lasts > 1))
        return replace(timing, step_s=[0.054 if stalled else 0.001] * len(timing.step_s)), output

    patch = pytest.MonkeyPatch()
    patch.setattr(speed.latency, "measure", measure)
    try:
        found = speed.speed(suite, prepared["arms"], 2, 0, prepared, None)
    finally:
        patch.undo()
    # Loaded objects are left out of the collections between repeats, and no longer than that.
    assert left_out[-1] and not left_out[0] and gc.get_freeze_count() == 0
    full, calm, draft = (share["runs"] for share in found.values())
    assert [len(calm), len(full), len(draft)] == [5, 5 + extra, 5 + extra]
    for again in (full[5:], draft[5:]):
        assert [(run["repeat"], run["again"]) for run in again] == [(5 + i, 2) for i in range(extra)]
    assert "took 54 times" in str(draft[2]["disturbed"]), "the first stays, with its reason"
    assert disturbed.lost(full, draft) == ([] if lasts == 1 else [2]) and not disturbed.lost(full, calm)
    assert all(run["machine"]["seconds"] > 0 for run in (*full, *calm, *draft))


def test_what_the_machine_did_is_told_only_where_it_can_be_known() -> None:
    """The kernel counts in hundredths of a second: over less than a quarter nobody knows whose time it was."""
    found = Before.read().record()
    assert found["foreign_share"] is None and found["steal_share"] is None
    assert found["switches"] is not None and found["switches"] >= 0
