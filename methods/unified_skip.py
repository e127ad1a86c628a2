"""Unified Layer Skipping: the same evenly spaced blocks for every generated token.

Paper: Liu, Meng, Zhou, "Accelerating Inference in Large Language Models with a Unified Layer Skipping
Strategy", 2024, arXiv:2404.06954. The rule is that of the authors' code (github.com/Adaxry/Unified_Layer_Skipping).

Idea. For a target speed-up s of a model of L blocks, n = floor(L / s) blocks run: the first, the last, and between them, going
up from block 1, those whose index is a multiple of floor(L / (n - 1)), until n are kept. The prompt runs at full depth. The set
depends on the target alone, so a batch shares it.

Deviations. The authors fill a skipped block's cache with the K/V of the block below; nothing ever reads it, since the set does
not change, and here it is not written. Their rule divides by zero where n = 1: such targets are refused.

Training. The published numbers are of models fine-tuned with the skipped set; the plan here runs every position of the
continuation with it.

Cost: none beyond the blocks run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from typing_extensions import override

from harness.method import Method, Schedule
from harness.plan import LayerPlan, Step
from harness.training import Moment, TrainingPlan, TrainingStage


@dataclass(frozen=True)
class UnifiedSkip(Schedule):
    """First, last and evenly spaced blocks.

    Parameters:
        speedup: target layer ratio, 1 (no skipping) or more; at least two blocks must remain.
    """

    name: ClassVar[str] = "unified_skip"
    title: ClassVar[str] = "Unified Layer Skipping"
    paper: ClassVar[str] = "Liu et al. 2024, arXiv:2404.06954"
    needs_training: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = "none written and none needed: the set of blocks never changes"

    speedup: float = 2.0

    def __post_init__(self) -> None:
        self._require("speedup", self.speedup >= 1, "1 (no skipping) or more")

    @override
    def resolve(self, depth: int, extras: Any) -> UnifiedSkip:
        self._require(
            "speedup", int(depth / self.speedup) >= 2, f"at most {depth / 2:g}: two of {depth} blocks must run"
        )
        return self

    @override
    def no_skip(self, depth: int) -> UnifiedSkip:
        return replace(self, speedup=1.0)

    @override
    def candidates(self, depth: int) -> list[UnifiedSkip]:
        """Every number of blocks from all but one down to two."""
        return [replace(self, speedup=depth / count) for count in range(depth - 1, 1, -1)]

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return _spaced(self.speedup, depth)

    @override
    def training_plan(self) -> TrainingPlan:
        return TrainingPlan((TrainingStage("weights", lambda forced: forced.final_loss()),), self._draw)

    def _draw(self, rng: random.Random, moment: Moment) -> Method:
        return self


@lru_cache(maxsize=64)
def _spaced(speedup: float, depth: int) -> LayerPlan:
    count = int(depth / speedup)
    interval = int(depth / (count - 1))
    between = [i for i in range(1, depth - 1) if i % interval == 0]
    return LayerPlan.of((0, *between[: count - 2], depth - 1), depth)
