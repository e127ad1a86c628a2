"""What the full model's step takes when only some of its blocks run: measured, not divided.

Half of the blocks need not take half of the time. What they read may fit a cache that all blocks together do not fit, the rest
of the step finds its own data there again, and a step has costs that no block causes. So the full model generates with its first
n blocks alone, on the same prompts, in the same process and through the same engine, for several n; the predicted speed-up of a
method that runs as many is read off this curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from harness.method import Schedule
from harness.plan import LayerPlan, Step

PARTS_OF_DEPTH = (0.125, 0.25, 0.5)


@dataclass(frozen=True)
class FirstBlocks(Schedule):
    """The first blocks alone, at every step.

    Attributes:
        count: how many.
    """

    count: int = 1

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return LayerPlan.of(range(self.count), depth)


def counts(depth: int) -> list[int]:
    """Numbers of blocks worth measuring, rising, fewer than all."""
    return sorted({n for part in PARTS_OF_DEPTH if 0 < (n := max(1, round(part * depth))) < depth})


def step_seconds(points: Sequence[tuple[int, float]], blocks: float) -> float:
    """Seconds of a step that runs a number of blocks: straight lines between the points measured, and on beyond them.

    Args:
        points: (blocks, seconds), blocks rising, at least two.
        blocks: 0 or more.
    """
    at = next((i for i, (count, _) in enumerate(points) if blocks <= count), len(points) - 1)
    (a, low), (b, high) = points[max(at - 1, 0)], points[max(at, 1)]
    return max(low + (blocks - a) * (high - low) / (b - a), 0.0)
