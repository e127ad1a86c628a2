"""Stored statistics are read by the name they are stored under."""

from __future__ import annotations

import numpy as np

from harness.records.readings import reading


def test_agreement_is_read_as_a_percentage() -> None:
    how = reading("agreement")
    assert how is not None
    assert how.better == "higher"
    assert how.combine(np.array([3.0, 4.0])) == 75.0
