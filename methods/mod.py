"""Mixture-of-Depths: every other block runs on a fixed share of the tokens, chosen by a router; a predictor decides when decoding.

Paper: Raposo, Ritter, Richards, Lillicrap, Humphreys, Santoro, "Mixture-of-Depths: Dynamically allocating compute in
transformer-based language models", 2024, arXiv:2404.02258. No code of the authors; sizes and schedule are those of a
re-implementation (github.com/Thiggel/GateSkip at 2eb79ac).

Rule. In blocks 1, 3, 5, ... a router r = sigmoid(w . x + b) reads the block's input. Training: of each sequence the `capacity`
share of tokens with the largest r runs the block, what it adds multiplied by r; the others keep their state and are hidden from the
block's later queries. Which tokens are the largest depends on later tokens, so decoding asks a predictor instead, p = sigmoid(P2
silu(P1 x)), P1 to D / 2, trained to say whether the token was among them: a token runs where p > `threshold`.

Training (`weights`). The model, routers and predictors are trained together. Loss: cross-entropy + `weight` * binary cross-entropy
of the predictors, which pass no gradient on to the model. The share falls linearly from 1 to `capacity` over the first `falls` of
the training. Options of a recipe: `capacity`, `weight`, `falls`.

Deviations. The paper trains from scratch. r multiplies what each of the two sublayers adds, where the paper multiplies the block's
sum; the re-implementation drops r when decoding, which is another function than was trained: here it multiplies there too. The top
share is taken among a prompt's tokens, and among those of the continuations of one prompt in a batch.

Cost: a map of D x D / 2 per routed block and position, in FLOPs an eighth of an attention sublayer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from typing_extensions import override

from harness.method import Gate
from harness.state import GateState
from harness.training import Sizes, TrainingPass, TrainingPlan, TrainingStage, configured, uniform

_OPEN, _RUNS = "openness", "runs"


@dataclass(frozen=True)
class MoD(Gate):
    """Every other block on some tokens.

    Parameters:
        threshold: least probability of the predictor that runs a block, 0 to 1.
        every: distance of routed blocks, 2 or more; the first is block `every` - 1.
    """

    name: ClassVar[str] = "mod"
    title: ClassVar[str] = "Mixture-of-Depths"
    paper: ClassVar[str] = "Raposo et al. 2024, arXiv:2404.02258"
    needs_training: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = (
        "hidden: later positions of the row do not look at a position in a block that it skipped"
    )
    weighs: ClassVar[bool] = True

    threshold: float = 0.5
    every: int = 2

    def __post_init__(self) -> None:
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")
        self._require("every", self.every >= 2, "2 or more")

    @property
    @override
    def kv(self) -> str:
        return "hidden"

    def routed(self, depth: int) -> range:
        """The blocks that have a router."""
        return range(self.every - 1, depth, self.every)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> MoD:
        self._require("every", len(self.routed(depth)) > 0, f"at most the model's {depth} blocks")
        self._require_trained(extras, [f"{_block(layer)}.router.weight" for layer in self.routed(depth)])
        return self

    @override
    def candidates(self, depth: int) -> list[MoD]:
        """Thresholds from 0.05 up to 0.95; trained is 0.5."""
        return [replace(self, threshold=step / 20) for step in range(1, 20)]

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return layer in self.routed(depth)

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.gated(layer, sublayer, depth)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if sublayer == "feed":
            state.openness = state.scratch[_OPEN]
            return state.scratch[_RUNS]
        name = _block(layer)
        state.openness = torch.sigmoid(state.linear(f"{name}.router", x).squeeze(-1))
        inner = F.silu(state.linear(f"{name}.predictor.in", x.detach()))
        found = state.linear(f"{name}.predictor.out", inner).squeeze(-1).float()
        runs = self._chosen(state.openness.detach(), found, state)
        state.scratch = {_OPEN: state.openness, _RUNS: runs}
        return runs

    def _chosen(self, openness: torch.Tensor, found: torch.Tensor, state: GateState) -> torch.Tensor:
        """The positions [R] that run, of the router's r and the predictor's logits."""
        return torch.sigmoid(found) > self.threshold

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        chosen = configured(_Options, self.name, options)
        stage = TrainingStage("weights", partial(_loss, chosen), extras=self._extras, inside=True, frozen=False)
        return TrainingPlan(
            (stage,),
            lambda rng, moment: _TopShare(
                self.threshold, self.every, share=chosen.share(moment.step / max(moment.steps, 1))
            ),
            self._plan,
        )

    def _extras(self, sizes: Sizes) -> dict[str, torch.Tensor]:
        width, found = sizes.width, {}
        inner = max(1, width // 2)
        for layer in self.routed(sizes.depth):
            name = _block(layer)
            found[f"{name}.router.weight"] = torch.randn(1, width) * 0.01
            found[f"{name}.router.bias"] = torch.ones(1)
            found[f"{name}.predictor.in.weight"] = uniform((inner, width), width**-0.5)
            found[f"{name}.predictor.in.bias"] = uniform((inner,), width**-0.5)
            found[f"{name}.predictor.out.weight"] = uniform((1, inner), inner**-0.5)
            found[f"{name}.predictor.out.bias"] = uniform((1,), inner**-0.5)
        return found


@dataclass(frozen=True)
class _TopShare(MoD):
    """Mixture-of-Depths as it is trained: while a pass is differentiated, the largest share of each row runs."""

    share: float = 1.0

    def _chosen(self, openness: torch.Tensor, found: torch.Tensor, state: GateState) -> torch.Tensor:
        if not (state.training and torch.is_grad_enabled()):
            return super()._chosen(openness, found, state)
        state.aside = found
        return largest(openness, state.rows, self.share)


@dataclass(frozen=True)
class _Options:
    """The recipe's options, see the module's docstring."""

    capacity: float = 0.125
    weight: float = 1.0
    falls: float = 0.3

    def share(self, done: float) -> float:
        """The share of tokens that run a routed block when so much of the training is done."""
        return 1 - (1 - self.capacity) * min(1.0, done / self.falls) if self.falls > 0 else self.capacity


def _block(layer: int) -> str:
    return f"mod.{layer}"


def largest(values: torch.Tensor, rows: torch.Tensor, share: float) -> torch.Tensor:
    """Bool [R]: the value is among the largest `share` of its row, one at least."""
    order = values.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    count = torch.bincount(rows)
    begins = count.cumsum(0) - count
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - begins[rows[order]]
    return place < (count * share).long().clamp_min(1)[rows]


def _loss(options: _Options, forced: TrainingPass) -> torch.Tensor:
    predictors = [
        F.binary_cross_entropy_with_logits(asked.aside, asked.runs.float())
        for asked in forced.gates
        if asked.aside is not None
    ]
    loss = forced.final_loss()
    return loss + options.weight * torch.stack(predictors).mean() if predictors else loss
