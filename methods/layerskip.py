"""LayerSkip's self-speculative decoding: the first E blocks draft, the others verify.

Paper: Elhoushi, Shrivastava, Liskovich, Hosmer, Wasti, Lai, Mahmoud, Acun, Agarwal, Roman, Aly, Chen, Wu, "LayerSkip: Enabling
Early Exit Inference and Self-Speculative Decoding", ACL 2024, arXiv:2404.16710, Section 4.3.

Idea. A step drafts d tokens one by one with the first E blocks and the model's own final norm and head, then runs blocks E..L-1
over all of them at once. The tokens up to the first disagreement, and the full model's token there, are the output: exactly the
full model's. Draft and verification share one K/V cache, and the verification continues from the draft's states after block E
(the paper's exit query cache), so the first E blocks run once per token.

Deviations. Batches: every row accepts as many tokens as agree, so rows progress raggedly; a step's draft is as long for all. The
draft does not run past what is left to generate. The paper's code is for one row.

Training (Section 4.1). Layer dropout: block l (0-based) is left out for a sample with probability p(l, t) = S(t) D(l) p_max,
D(l) = exp(l ln2 / (L-1)) - 1 (Equation 3), S = 1 for fine-tuning and exp(t ln2 / (T-1)) - 1 from scratch (Equation 4); what is
kept is not scaled up. Early-exit loss: the exits' cross-entropies, weighted by e(l) normalised over the exits that are on
(Equations 5, 6): e(l) = s (0 + 1 + .. + l) below the last block and L-1 + s (0 + .. + L-2) at it, s being `early_exit_scale`, so
that the exit after the very first block weighs nothing. Which exits are on at step t: `rotational`, every R-th, moving on by one
block a step; `gradual`, one more from the top down every T / 2L steps. The last block's is always on, as in the authors' released
code (read literally, the rotation would train it only every R steps). A sample is a prompt with its continuations. The defaults
are the paper's for fine-tuning on one task: p_max 0.2, scale 1, gradual. Weights trained for early exits in another way serve
too; any weights give the right output.

Cost: the drafted tokens that are rejected, and a vocabulary projection for each drafted token beside those of the verification.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Draft
from harness.plan import LayerPlan
from harness.training import Moment, TrainingPass, TrainingPlan, TrainingStage, configured


@dataclass(frozen=True)
class LayerSkip(Draft):
    """Self-speculative decoding.

    Parameters:
        exit_layer: blocks that draft, E; None: a third of the model's.
        draft_tokens: tokens drafted per step, d.
    """

    name: ClassVar[str] = "layerskip"
    title: ClassVar[str] = "LayerSkip"
    paper: ClassVar[str] = "Elhoushi et al. 2024, arXiv:2404.16710"
    needs_training: ClassVar[bool] = True

    exit_layer: int | None = None
    draft_tokens: int = 6

    def __post_init__(self) -> None:
        self._require("exit_layer", self.exit_layer is None or self.exit_layer >= 1, "1 or more")
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")

    def blocks(self, depth: int) -> int:
        """Blocks that draft in a model of `depth` blocks."""
        return max(1, depth // 3) if self.exit_layer is None else self.exit_layer

    @override
    def resolve(self, depth: int, extras: Any) -> LayerSkip:
        self._require(
            "exit_layer", self.blocks(depth) < depth, f"at most {depth - 1}: the last of {depth} blocks must verify"
        )
        return self

    @override
    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        return {**self.params, "exit_layer": self.blocks(depth)}

    @override
    def candidates(self, depth: int) -> list[LayerSkip]:
        """Drafts from an eighth to half of the blocks, 2 to 8 tokens long."""
        exits = sorted({max(1, round(depth / share)) for share in (2, 3, 4, 6, 8)} & set(range(1, depth)), reverse=True)
        return [replace(self, exit_layer=e, draft_tokens=d) for e in exits for d in (2, 4, 6, 8)]

    @override
    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        return LayerPlan.of(range(self.blocks(depth)), depth)

    @override
    def training_plan(self) -> TrainingPlan:
        return _planned({})


def _planned(options: Mapping[str, Any]) -> TrainingPlan:
    return configured(_Training, "layerskip", options).plan()


@dataclass(frozen=True)
class _Training:
    """The recipe's options, see the module's docstring."""

    dropout: float = 0.2
    from_scratch: bool = False
    early_exit_scale: float = 1.0
    curriculum: str = "gradual"
    rotation: int = 8

    def __post_init__(self) -> None:
        for name, fits, right in (
            ("dropout", 0 <= self.dropout < 1, "0 or more and below 1"),
            ("early_exit_scale", 0 <= self.early_exit_scale <= 1, "0 to 1"),
            ("curriculum", self.curriculum in ("rotational", "gradual"), "one of rotational, gradual"),
            ("rotation", self.rotation >= 1, "1 or more"),
        ):
            if not fits:
                raise BadInput(f"layerskip: options.{name}={getattr(self, name)!r} is out of range; {right}")

    def plan(self) -> TrainingPlan:
        """The training plan with these options."""
        stage = TrainingStage("weights", self.loss, keep_blocks=True, dropout=self.rates)
        return TrainingPlan((stage,), configure=_planned)

    def rates(self, moment: Moment, depth: int) -> list[float]:
        """Probability that each block is left out (Equations 2 to 4)."""
        scale = _rising(moment.step, moment.steps) if self.from_scratch else 1.0
        return [self.dropout * scale * _rising(layer, depth) for layer in range(depth)]

    def weights(self, moment: Moment, depth: int) -> list[float]:
        """Weight of every exit's loss (Equation 6 over the curriculum)."""
        scale = self.early_exit_scale
        weight = [scale * layer * (layer + 1) / 2 for layer in range(depth - 1)]
        weight.append(depth - 1 + scale * (depth - 2) * (depth - 1) / 2 if depth > 1 else 1.0)
        if self.curriculum == "rotational":
            on = [(layer - moment.step) % self.rotation == 0 for layer in range(depth)]
        else:
            reached = int(moment.step * 2 * depth / moment.steps)
            on = [layer >= depth - 1 - reached for layer in range(depth)]
        on[-1] = True
        kept = [w if o else 0.0 for w, o in zip(weight, on, strict=True)]
        return [w / sum(kept) for w in kept]

    def loss(self, forced: TrainingPass) -> torch.Tensor:
        """Weighted cross-entropy of the exits that are on (Equation 5)."""
        weights = self.weights(forced.moment, forced.decoder.depth)
        return torch.stack([w * forced.loss_at(layer) for layer, w in enumerate(weights) if w]).sum()


def _rising(place: int, count: int) -> float:
    """From 0 at the first of `count` places to 1 at the last, exponentially."""
    return math.exp(place * math.log(2) / max(count - 1, 1)) - 1
