"""SkipDecode: fewer blocks the further a token is from the prompt, the same number for the whole batch.

Paper: Del Corro, Del Giorno, Agarwal, Yu, Awadallah, Mukherjee, "SkipDecode: Autoregressive Skip Decoding with Batching and
Caching for Efficient LLM Inference", 2023, arXiv:2307.02628.

Idea. The prompt runs at full depth. Decode step k has a budget of B blocks that falls linearly from `max_layers` at the first
step to `min_layers` at step H, the horizon, and stays there:

    t = clip((k - 1) / (H - 1), 0, 1),    B = round((1 - t) * max_layers + t * min_layers).

The first `warmup` blocks and the top B - warmup blocks run; those between are bypassed on the residual stream. B never rises,
so a block that runs at a position ran at all earlier ones: no K/V is ever missing, nothing is recomputed or copied.

What the sources leave open, and what is done here. No official code is known; the rule is the one three independent
descriptions share. Halves round up. The horizon is the expected number of generated tokens, fixed before the run (default:
the task's median), with H - 1 in the denominator so that the last expected token gets `min_layers`. For depths 24 and 32 a
`speedup` of 2 to 5 stands for the reported settings (depth 24 at 3x and 4x by their pattern); otherwise the mean of both
limits is depth / speedup and `min_layers` is two thirds of it.

Training. The published numbers are of models fine-tuned for the schedule. The plan here: every batch draws a target among
1x to 5x (or keeps the one given) and every position runs the blocks it will run when decoding.

Cost: a plan of a few integers per step; no test, no extra weights.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import override

from harness.method import Method, Schedule
from harness.plan import LayerPlan, Step
from harness.training import Moment, TrainingPlan, TrainingStage

# (depth, target speed-up) -> (min, max), the settings reported for OPT-1.3B and OPT-6.7B.
_REPORTED: dict[tuple[int, float], tuple[int, int]] = {
    (24, 2.0): (8, 16),
    (24, 3.0): (6, 10),
    (24, 4.0): (5, 7),
    (24, 5.0): (4, 6),
    (32, 2.0): (11, 22),
    (32, 3.0): (8, 14),
    (32, 4.0): (6, 10),
    (32, 5.0): (5, 8),
}
_TRAINED_TARGETS = (1.0, 2.0, 3.0, 4.0, 5.0)
_TUNED_TARGETS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)


@dataclass(frozen=True)
class SkipDecode(Schedule):
    """Linear decay of the budget with the decode step.

    Parameters:
        speedup: target layer ratio, at least 1; 2 when neither it nor the limits are given.
        min_layers: blocks run from step `horizon` on.
        max_layers: blocks run at the first decode step.
        warmup: blocks at the bottom that always run.
        horizon: step at which the budget reaches `min_layers`; None: the run's expected number of tokens.
    """

    name: ClassVar[str] = "skipdecode"
    title: ClassVar[str] = "SkipDecode"
    paper: ClassVar[str] = "Del Corro et al. 2023, arXiv:2307.02628"
    needs_training: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = "none written and none needed: the set of blocks only shrinks"

    speedup: float | None = None
    min_layers: int | None = None
    max_layers: int | None = None
    warmup: int = 1
    horizon: int | None = None

    def __post_init__(self) -> None:
        explicit = self.min_layers is not None or self.max_layers is not None
        self._require("speedup", not (explicit and self.speedup is not None), "give it or min_layers and max_layers")
        self._require("min_layers", (self.min_layers is None) == (self.max_layers is None), "give max_layers with it")
        self._require("speedup", self.speedup is None or self.speedup >= 1, "1 (no skipping) or more")
        self._require("warmup", self.warmup >= 0, "0 or more")
        self._require("horizon", self.horizon is None or self.horizon >= 1, "1 or more")
        if self.min_layers is not None and self.max_layers is not None:
            self._require("min_layers", self.min_layers >= 1, "1 or more")
            right = f"at most max_layers={self.max_layers}"
            self._require("min_layers", self.min_layers <= self.max_layers, right)
            self._require("warmup", self.warmup <= self.min_layers, f"at most min_layers={self.min_layers}")

    def limits(self, depth: int) -> tuple[int, int]:
        """(min, max) blocks for a model of `depth` blocks."""
        if self.min_layers is not None and self.max_layers is not None:
            return self.min_layers, self.max_layers
        target = 2.0 if self.speedup is None else self.speedup
        if (depth, target) in _REPORTED:
            return _REPORTED[depth, target]
        mean = depth / target
        low = depth if target == 1 else max(1, self.warmup, _round(2 * mean / 3))
        return low, min(depth, max(low, _round(2 * mean) - low))

    @override
    def resolve(self, depth: int, extras: Any) -> SkipDecode:
        low, high = self.limits(depth)
        self._require("max_layers", high <= depth, f"at most the model's {depth} blocks")
        self._require("speedup", self.speedup is None or self.speedup <= depth, f"at most the model's {depth} blocks")
        self._require("warmup", self.warmup <= low, f"at most the smallest budget, {low}")
        return self

    @override
    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        low, high = self.limits(depth)
        horizon = self.horizon or expected_tokens
        return {**self.params, "min_layers": low, "max_layers": high, "horizon": horizon}

    @override
    def no_skip(self, depth: int) -> SkipDecode:
        return replace(self, speedup=None, min_layers=depth, max_layers=depth)

    @override
    def candidates(self, depth: int) -> list[SkipDecode]:
        """For each mean budget the decay of the paper's settings, none at all, and a steeper one."""
        found: dict[tuple[int, int], None] = {}
        for target in _TUNED_TARGETS:
            mean = depth / target
            low, high = SkipDecode(speedup=target).limits(depth)
            flat, least = _round(mean), max(1, _round(mean / 2))
            for pair in ((low, high), (flat, flat), (least, min(depth, _round(2 * mean) - least))):
                if max(1, self.warmup) <= pair[0] <= pair[1] <= depth:
                    found[pair] = None
        ordered = sorted(found, key=lambda pair: (-sum(pair), -pair[0]))
        return [replace(self, speedup=None, min_layers=low, max_layers=high) for low, high in ordered]

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        low, high = self.limits(depth)
        horizon = self.horizon or step.expected_tokens
        t = min(max((step.index - 1) / max(horizon - 1, 1), 0.0), 1.0)
        top = _round((1 - t) * high + t * low) - self.warmup
        return LayerPlan.of((*range(self.warmup), *range(depth - top, depth)), depth)

    @override
    def training_plan(self) -> TrainingPlan:
        return TrainingPlan((TrainingStage("weights", lambda forced: forced.final_loss()),), self._draw)

    def _draw(self, rng: random.Random, moment: Moment) -> Method:
        fixed = self.speedup is not None or self.min_layers is not None
        return self if fixed else replace(self, speedup=rng.choice(_TRAINED_TARGETS))


def _round(value: float) -> int:
    """Nearest integer, halves up (Python's own rounding takes halves to even, which would make budgets uneven)."""
    return math.floor(value + 0.5)
