"""Random skip: a random but fixed set of blocks at every decode step. The control every method must beat.

A method that chooses blocks, by rule or by learning, has to do better than chance at the same budget.

Paper: none (control). The prompt runs at full depth; the set is drawn once from the seed and never changes, so no K/V is
missing. Cost: none beyond the blocks run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from typing_extensions import override

from harness.method import Schedule
from harness.plan import LayerPlan, Step


@dataclass(frozen=True)
class RandomSkip(Schedule):
    """A random but fixed set of blocks.

    Parameters:
        budget: blocks that run.
        seed: of the draw.
    """

    name: ClassVar[str] = "random_skip"
    title: ClassVar[str] = "Random skip"
    paper: ClassVar[str] = "control"

    budget: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        self._require("budget", self.budget >= 1, "1 or more")

    @override
    def resolve(self, depth: int, extras: Any) -> RandomSkip:
        self._require("budget", self.budget <= depth, f"at most the model's {depth} blocks")
        return self

    @override
    def no_skip(self, depth: int) -> RandomSkip:
        return replace(self, budget=depth)

    @override
    def candidates(self, depth: int) -> list[RandomSkip]:
        """Every budget below the full depth, drawn with the same seed."""
        return [replace(self, budget=budget) for budget in range(depth - 1, 0, -1)]

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return _draw(self.seed, self.budget, depth)


@lru_cache(maxsize=64)
def _draw(seed: int, budget: int, depth: int) -> LayerPlan:
    return LayerPlan.of(random.Random(seed).sample(range(depth), budget), depth)
