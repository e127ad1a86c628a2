"""Where the gates of a run stand, and what everything is measured against: all that judging stored results needs of a suite."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.validation import Frozen

BASELINE = "full"
"""The method the others are measured against."""


class Limits(Frozen):
    """Where the gates of a run stand (`harness.records.gates`); they judge what was measured and change nothing of it.

    Attributes:
        dispersion: interquartile range over median of an arm's decode times, at most; above it a cell is unusable.
        noisy_share: of the timed cells, how many may be unusable before the gate on them fails the run. A few among many are
            to be expected on a machine that is shared; each costs its own cell the verdict, and the gate names it.
        throttled_share: of the samples of a GPU's clocks, how many may show a reason that slows it down.
        foreign_cpu_share: of the processor's time, how much others may use while a CPU is measured. Above it the gate says
            so; it does not fail the run, for the intervals show what the noise did.
        slow_block: of the full model's blocks, how many times the median one's time the slowest may take. A block that is slow
            for a reason of its own flatters whoever skips it.
        differing_rows: share of timed rows whose tokens may differ from the scored ones. Ties (two best logits closer than
            the dtype tells apart) are never counted.
    """

    dispersion: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    noisy_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    throttled_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    foreign_cpu_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    slow_block: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    differing_rows: Annotated[float, Field(ge=0, le=1)] = 0.0
