"""CALM: every token leaves the model at the first block that is confident enough.

Paper: Schuster, Fisch, Gupta, Dehghani, Bahri, Tran, Tay, Metzler, "Confident Adaptive Language Modeling", NeurIPS 2022,
arXiv:2207.07061.

Idea. After block i of token t the confidence c is compared with a threshold; the first block with c >= threshold predicts the
token through the model's own final norm and head. Confidence measures (Section 3.5):

* `softmax`: difference of the two largest probabilities of the exit's own prediction;
* `state`: cosine of the state with that after the block before, from block 2 on;
* `classifier`: sigmoid of one linear probe, shared by all blocks.

The threshold decays with the token's place t (`decay`), N being the output length and tau the `temperature`:

* `paper`: clip(0.9 lambda + 0.1 exp(-tau t / N)), Equation 5;
* `t5x`: 0.9 lambda + 0.1 lambda exp(-tau t / N), what the authors' code computes;
* `none`: lambda.

State propagation (Section 3.3): the exit state is copied up and every skipped block projects its own K and V from it.

Deviations. Decoder-only, where the paper has T5's decoder. N is the run's expected number of tokens. Threshold 1 or more never
exits, also where Equation 5 would fall below 1 or a low-precision confidence reaches it. In a batch a step ends with its last
row (the authors' code does the same by taking the batch's smallest confidence), but rows that left earlier keep their own
state and token, so a row's text does not depend on its neighbours. The paper's timings are of batch 1.

Training (Sections 3.4, 3.5): the mean cross-entropy of all exits, weighted i / sum_j j (or, with `exits_per_step` among a recipe's
options, an estimate of it from so many exits drawn anew for every step with these weights, for vocabularies whose head costs as
much as many blocks); then, everything else frozen, the probe
with binary cross-entropy against "this exit's prediction equals the last block's", mean over the first L-1 blocks.

Cost: `softmax` computes the vocabulary projection after every block; `state` and `classifier` cost a few products of width D.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch.nn import functional as F
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Exit
from harness.state import GateState
from harness.training import Sizes, TrainingPass, TrainingPlan, TrainingStage, configured

_PROBE = "calm_probe"


@dataclass(frozen=True)
class CALM(Exit):
    """Per-token exit by confidence.

    Parameters:
        confidence: `softmax`, `state` or `classifier`.
        threshold: lambda, -1 to 1 for `state` (a cosine) and 0 to 1 otherwise; 1 never exits.
        temperature: tau of the decay, 0 or more.
        decay: `paper`, `t5x` or `none`.
        first_exit: blocks that always run, 1 or more (`state` compares two blocks and needs 2).
    """

    name: ClassVar[str] = "calm"
    title: ClassVar[str] = "CALM"
    paper: ClassVar[str] = "Schuster et al. 2022, arXiv:2207.07061"
    needs_training: ClassVar[bool] = True

    confidence: str = "softmax"
    threshold: float = 0.9
    temperature: float = 4.0
    decay: str = "paper"
    first_exit: int = 1

    def __post_init__(self) -> None:
        known = ("softmax", "state", "classifier")
        self._require("confidence", self.confidence in known, f"one of {', '.join(known)}")
        low = -1.0 if self.confidence == "state" else 0.0
        self._require("threshold", low <= self.threshold <= 1.0, f"from {low:g} to 1 (1 never exits)")
        self._require("temperature", self.temperature >= 0, "0 or more")
        self._require("decay", self.decay in ("paper", "t5x", "none"), "one of paper, t5x, none")
        self._require("first_exit", self.first_exit >= 1, "1 or more")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> Self:
        self._require("first_exit", self.first_exit <= depth, f"at most the model's {depth} blocks")
        if self.confidence == "classifier" and f"{_PROBE}.weight" not in extras:
            raise BadInput(
                "calm: confidence=classifier needs a checkpoint with a trained probe "
                f"({_PROBE}.weight); train one with `depthbench train`, or use softmax or state"
            )
        return self

    @override
    def no_skip(self, depth: int) -> CALM:
        return replace(self, threshold=1.0)

    @override
    def candidates(self, depth: int) -> list[CALM]:
        """The paper's grid of thresholds, 0.95 down to 0 by 0.05 (1 is the full model)."""
        return [replace(self, threshold=step / 20) for step in range(19, -1, -1)]

    @override
    def tests(self, layer: int, depth: int) -> bool:
        first = max(self.first_exit, 2) if self.confidence == "state" else self.first_exit
        return self.threshold < 1.0 and first <= layer + 1 < depth

    @override
    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        if self.confidence == "softmax":
            logits = state.logits(hidden).float()
            top = logits.topk(2, dim=-1).values
            total = logits.logsumexp(dim=-1)
            confidence = (top[:, 0] - total).exp() - (top[:, 1] - total).exp()
        elif self.confidence == "state":
            confidence = state.cosine(hidden)
        else:
            confidence = state.probe(_PROBE, hidden)
        return confidence >= self._threshold(state)

    def _threshold(self, state: GateState) -> float | torch.Tensor:
        """The threshold at the state's step or steps (Equation 5 or its variant)."""
        if self.decay == "none":
            return self.threshold
        weight = 1.0 if self.decay == "paper" else self.threshold
        rate = -self.temperature / state.expected_tokens
        if isinstance(state.step, int):
            return min(1.0, 0.9 * self.threshold + 0.1 * weight * math.exp(rate * state.step))
        return (0.9 * self.threshold + 0.1 * weight * torch.exp(rate * state.step)).clamp_max(1.0)

    @override
    def training_plan(self) -> TrainingPlan:
        return _plan({})


@dataclass(frozen=True)
class _Options:
    """The recipe's options: exits whose loss a step takes, drawn with the paper's weights; None: all of them."""

    exits_per_step: int | None = None

    def __post_init__(self) -> None:
        if self.exits_per_step is not None and self.exits_per_step < 1:
            raise BadInput(
                f"calm: options.exits_per_step={self.exits_per_step} is out of range; give a number of exits, 1 or more"
            )


def _plan(options: Mapping[str, Any]) -> TrainingPlan:
    count = configured(_Options, "calm", options).exits_per_step
    return TrainingPlan(
        (
            TrainingStage("weights", _exits_loss if count is None else partial(_drawn_loss, count), keep_blocks=True),
            TrainingStage("probe", _probe_loss, extras=_probe_shapes, keep_blocks=True),
        ),
        configure=_plan,
    )


def _drawn_loss(count: int, forced: TrainingPass) -> torch.Tensor:
    """What `_exits_loss` is on average: the mean over exits drawn with its weights, the same when a step is repeated."""
    depth = forced.decoder.depth
    drawn = random.Random(forced.moment.step).choices(range(depth), range(1, depth + 1), k=count)
    return torch.stack([times / count * forced.loss_at(i) for i, times in sorted(Counter(drawn).items())]).sum()


def _exits_loss(forced: TrainingPass) -> torch.Tensor:
    """Cross-entropy of every exit, weighted i / sum_j j (Section 3.4, Equation 6)."""
    depth = forced.decoder.depth
    total = depth * (depth + 1) / 2
    return torch.stack([(i + 1) / total * forced.loss_at(i) for i in range(depth)]).sum()


def _probe_shapes(sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
    return {f"{_PROBE}.weight": (1, sizes.width), f"{_PROBE}.bias": (1,)}


def _probe_loss(forced: TrainingPass) -> torch.Tensor:
    """Binary cross-entropy of the probe against agreement with the last block, mean over the first L-1 blocks."""
    depth = forced.decoder.depth
    weight, bias = forced.extras[f"{_PROBE}.weight"], forced.extras[f"{_PROBE}.bias"]
    with torch.no_grad():
        states = [forced.states(i) for i in range(depth)]
        last = forced.decoder.head(states[-1]).argmax(-1)
        agrees = [(forced.decoder.head(state).argmax(-1) == last).float() for state in states[:-1]]
    losses = [
        F.binary_cross_entropy_with_logits(F.linear(state.float(), weight, bias).squeeze(-1), target)
        for state, target in zip(states[:-1], agrees, strict=True)
    ]
    return torch.stack(losses).mean()
