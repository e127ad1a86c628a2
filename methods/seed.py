"""SEED: the last blocks draft from the raw embedding of the newest token.

Paper: "SEED", 2026 (preprint; github.com/lhk2004/SEED could not be read).

Rule. A drafted token runs the last `blocks` blocks alone, on its raw embedding; they look at the full model's deep keys and
values of all verified tokens and at their own of the tokens drafted before it. Chains suffice by the paper's own account; its
main table adds a confidence stop (`threshold`; its rule was not read, here the drafted token's probability) and trees.

Training. L = (CE + CE_draft) / 2 over all weights: the model's own loss, and that of drafts. For CE_draft continuations are cut
into windows of ten tokens (`window` of a recipe's options); inside one, raw embeddings look at each other and at the full
model's deep keys and values of everything before it. Without this a draft is seldom right.

Deviations. Windows begin right after the prompt, and gradients flow into the deep keys and values too: the paper's text, as far
as it was read, says neither. Rows of a batch progress raggedly.

Cost: drafts that are rejected, a vocabulary projection for each drafted token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Draft
from harness.plan import LayerPlan
from harness.training import TrainingPass, TrainingPlan, TrainingStage, configured


@dataclass(frozen=True)
class Seed(Draft):
    """Drafts with the last blocks on the raw embedding.

    Parameters:
        blocks: last blocks that draft.
        draft_tokens: tokens drafted per step at most.
        threshold: probability below which a draft ends, 0 to 1; 0 always drafts as many.
    """

    name: ClassVar[str] = "seed"
    title: ClassVar[str] = "SEED"
    paper: ClassVar[str] = "SEED, preprint 2026"
    needs_training: ClassVar[bool] = True

    blocks: int = 2
    draft_tokens: int = 10
    threshold: float = 0.0

    def __post_init__(self) -> None:
        self._require("blocks", self.blocks >= 1, "1 or more")
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> Seed:
        self._require("blocks", self.blocks < depth, f"below the model's {depth} blocks")
        return self

    @override
    def candidates(self, depth: int) -> list[Seed]:
        """One to four blocks, drafts of two to ten tokens."""
        return [Seed(blocks, d, self.threshold) for blocks in range(1, min(5, depth)) for d in (2, 4, 6, 10)]

    @override
    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        return LayerPlan.of(range(depth - self.blocks, depth), depth)

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        window = configured(_Options, self.name, options).window

        def loss(forced: TrainingPass) -> torch.Tensor:
            self.resolve(forced.decoder.depth, {})
            return (forced.final_loss() + forced.draft_loss(self.blocks, window)) / 2

        return TrainingPlan((TrainingStage("weights", loss, keep_blocks=True),), configure=self._plan)


@dataclass(frozen=True)
class _Options:
    """The recipe's options: tokens that a draft is trained to run ahead."""

    window: int = 10

    def __post_init__(self) -> None:
        if self.window < 1:
            raise BadInput(f"seed: options.window={self.window} is out of range; give a number of tokens, 1 or more")
