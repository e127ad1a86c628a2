"""Who is timed when: every other arm once in a repeat, the full model as often as the square root of their number, ABBA."""

from __future__ import annotations

import itertools

import pytest

from harness.measure.turns import of_base, turns


@pytest.mark.parametrize("others", [0, 1, 3, 4, 14, 22, 49])
def test_the_full_model_stands_evenly_among_the_others(others: int) -> None:
    there, back = (turns("full", [str(i) for i in range(others)], repeat) for repeat in (0, 1))
    assert back == there[::-1] and there[0] == "full"
    assert [arm for arm in there if arm != "full"] == [str(i) for i in range(others)]
    assert there.count("full") == of_base(others) == max(1, int(others**0.5))
    between = [len(list(run)) for full, run in itertools.groupby(there, "full".__eq__) if not full]
    assert not between or max(between) - min(between) <= 1
