"""One way to say how two records differ."""

from __future__ import annotations

from harness.records.differences import Difference, differences, said


def test_values_are_named_by_their_path_in_the_order_of_keys() -> None:
    ours = {"b": 1, "a": {"y": [1, {"z": 2}], "x": None}, "same": [1]}
    theirs = {"b": 1, "a": {"y": [1, {"z": 3}]}, "same": [1], "late": 0}
    assert differences(ours, theirs) == [Difference("a.y.1.z", 2, 3), Difference("late", None, 0)]
    assert differences(theirs, ours) == [Difference("a.y.1.z", 3, 2), Difference("late", 0, None)]


def test_lists_of_two_lengths_and_other_kinds_are_told_whole() -> None:
    assert differences({"a": [1], "b": {"x": 1}}, {"a": [1, 2], "b": 3}) == [
        Difference("a", [1], [1, 2]),
        Difference("b", {"x": 1}, 3),
    ]


def test_what_may_differ_and_what_only_one_recorded_is_left_out() -> None:
    ours, theirs = {"kernels": "k", "torch": "2.11", "old": 1}, {"kernels": "l", "torch": "2.13", "new": 2}
    found = differences(ours, theirs, ignore={"kernels"}, recorded=True)
    assert said(found) == "torch '2.11' and '2.13'" and said(found, "against", str) == "torch 2.11 against 2.13"
    assert said(differences(ours, ours)) == ""
