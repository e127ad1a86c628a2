"""D3: the further a token stands from the start, the fewer middle blocks it runs.

Paper: Fan et al., "Position-Aware Depth Decay Decoding (D3): Boosting Large Language Model Inference Efficiency", 2025,
arXiv:2503.08524.

Idea. Token i of the output runs n_i = floor(L alpha^i) blocks (the abstract's formula; the paper calls it a power law, it is
exponential). The first blocks and the last always run; those in the middle are dropped, and a start is held at full depth.

Assumptions, because neither paper text nor code could be read beyond the abstract and reviews: decay counts from the start,
which is a share of the expected output, k0 = ceil(start N); n_k = max(core, floor(L alpha^max(0, k - k0))); `low` first and
`high` last blocks are the core; of the others a contiguous run around their middle is dropped, the lower one first where the
middle is between two. Label results "D3-like".

Deviations. The authors copy K/V for dropped blocks. The sets only shrink here, so nothing would read the copies and none is made.

Cost: none beyond the blocks run. alpha and start are tuned per task in the paper (`tune` does that).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.method import Schedule
from harness.plan import LayerPlan, Step


@dataclass(frozen=True)
class D3(Schedule):
    """Depth that decays with position.

    Parameters:
        alpha: decay per token, above 0 to 1; 1 skips nothing.
        start: share of the expected tokens that run all blocks, 0 to 1.
        low: first blocks that always run.
        high: last blocks that always run.
    """

    name: ClassVar[str] = "d3"
    title: ClassVar[str] = "D3-like"
    paper: ClassVar[str] = "Fan et al. 2025, arXiv:2503.08524"

    alpha: float = 0.98
    start: float = 0.2
    low: int = 2
    high: int = 1

    def __post_init__(self) -> None:
        self._require("alpha", 0 < self.alpha <= 1, "above 0 to 1 (1 skips nothing)")
        self._require("start", 0 <= self.start <= 1, "0 to 1")
        self._require("low", self.low >= 0, "0 or more")
        self._require("high", self.high >= 0, "0 or more")
        self._require("low", self.low + self.high >= 1, "1 or more where high is 0: a block must run")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> D3:
        self._require("low", self.low + self.high <= depth, f"at most the model's {depth} blocks together with high")
        return self

    @override
    def no_skip(self, depth: int) -> D3:
        return replace(self, alpha=1.0)

    @override
    def candidates(self, depth: int) -> list[D3]:
        """The paper's range of starts, late to early, with decays from gentle to strong."""
        grid = [(start, alpha) for alpha in (0.995, 0.99, 0.98, 0.96) for start in (0.8, 0.6, 0.4, 0.2)]
        return [replace(self, start=start, alpha=alpha) for start, alpha in grid]

    @override
    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        return {**self.params, "full_steps": math.ceil(self.start * expected_tokens)}

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        after = max(0, step.index - math.ceil(self.start * step.expected_tokens))
        budget = max(self.low + self.high, math.floor(depth * self.alpha**after))
        dropped = depth - budget
        first = self.low + (depth - self.low - self.high - dropped) // 2
        return LayerPlan.of((i for i in range(depth) if not first <= i < first + dropped), depth)
