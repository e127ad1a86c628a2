"""The embedded task: deterministic, disjoint splits, references that say what their meaning representation says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from harness import tasks
from harness.tasks.restaurants import states

TASK = tasks.create("restaurants")


def test_sizes_and_disjoint_splits() -> None:
    splits = {name: {e.prompt for e in TASK.examples(name)} for name in ("train", "validation", "test")}
    assert [len(s) for s in splits.values()] == [3000, 200, 300]
    assert not splits["train"] & splits["test"] and not splits["validation"] & (splits["train"] | splits["test"])


def test_references_are_many_and_varied() -> None:
    for example in TASK.examples("test"):
        assert len(set(example.references)) == len(example.references) >= 5
        assert len({text.split()[0] for text in example.references}) >= 2, example


def test_every_reference_states_every_slot_and_no_other_value() -> None:
    for example in TASK.examples("test"):
        for text in example.references:
            wrong = [slot for slot in example.slots if not states(*slot, text)]
            assert not wrong, (wrong, text)


def test_a_wrong_value_is_noticed() -> None:
    example = next(e for e in TASK.examples("test") if ("kids", "yes") in e.slots)
    assert not any(states("kids", "no", text) for text in example.references)


def test_the_same_in_every_process() -> None:
    code = "from harness import tasks; print(tasks.create('restaurants').examples('test'))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1 and "restaurants-test-0007" in runs.pop()


def test_limit_gives_the_first_examples() -> None:
    assert TASK.examples("test", 5) == TASK.examples("test")[:5]


def test_slots_are_spread_over_the_grammar() -> None:
    counts = Counter(slot for e in TASK.examples("train") for slot, _ in e.slots)
    assert len(counts) == 8 and min(counts.values()) > 1000
