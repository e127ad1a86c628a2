"""Fixed exit: the same blocks at every decode step, from the bottom up or from the top down. A control.

Every input-dependent or position-dependent rule must beat stopping at one fixed block at the same budget. The twin,
`side=top`, skips the lower blocks and keeps the upper ones, which separates "fewer blocks" from "which blocks".

Paper: none; early exit at a fixed layer is the static baseline of Schuster et al. 2022 (arXiv:2207.07061, Section 4) and the
"multi-layer" baseline of Del Corro et al. 2023 (arXiv:2307.02628, Table 5).

The prompt runs at full depth. The set never changes, so no K/V is missing. Cost: none beyond the blocks run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import override

from harness.method import Schedule
from harness.plan import LayerPlan, Step


@dataclass(frozen=True)
class FixedExit(Schedule):
    """The same contiguous blocks at every decode step.

    Parameters:
        budget: blocks that run, E; the model's depth runs everything.
        side: `bottom` runs blocks 0..E-1 (stop at block E); `top` runs the last E (skip from below).
    """

    name: ClassVar[str] = "fixed_exit"
    title: ClassVar[str] = "Fixed exit"
    paper: ClassVar[str] = "control"

    budget: int = 12
    side: str = "bottom"

    def __post_init__(self) -> None:
        self._require("budget", self.budget >= 1, "1 or more")
        self._require("side", self.side in ("bottom", "top"), "bottom or top")

    @override
    def resolve(self, depth: int, extras: Any) -> FixedExit:
        self._require("budget", self.budget <= depth, f"at most the model's {depth} blocks")
        return self

    @override
    def no_skip(self, depth: int) -> FixedExit:
        return replace(self, budget=depth)

    @override
    def candidates(self, depth: int) -> list[FixedExit]:
        """Every budget below the full depth."""
        return [replace(self, budget=budget) for budget in range(depth - 1, 0, -1)]

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        first = 0 if self.side == "bottom" else depth - self.budget
        return LayerPlan.of(range(first, first + self.budget), depth)
