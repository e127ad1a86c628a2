"""The order in which the arms of a repeat are timed. Torch-free.

What all arms are held against is timed more often than they are. Its error is in every ratio of the repeat, and a machine's pace
wanders while many arms are timed; a control that k treatments are compared with gets sqrt(k) times their replicates (Dunnett
1955, "A multiple comparison procedure for comparing several treatments with a control", Journal of the American Statistical
Association 50). Its times of one repeat count together (`harness.records.clock`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def of_base(others: int) -> int:
    """How often the full model is timed in a repeat beside so many other arms, 1 or more."""
    return max(1, math.isqrt(others))


def turns(base: T, others: Sequence[T], repeat: int) -> list[T]:
    """Who is timed in a repeat: base first and then evenly between the others; every second repeat backwards."""
    times, made = of_base(len(others)), list[T]()
    for turn in range(times):
        made += [base, *others[turn * len(others) // times : (turn + 1) * len(others) // times]]
    return made if repeat % 2 == 0 else made[::-1]
