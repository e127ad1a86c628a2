"""SkipGPT: two routers per block, one for attention and one for the feed-forward sublayer, choose for every token.

Paper: Zhao, Ye, Fan, Tong, Fei, Su, Shen, "SkipGPT: Dynamic Layer Pruning Reinvented with Token Awareness and Module Decoupling",
ICML 2025, arXiv:2506.04179. The rule is that of the authors' code (github.com/EIT-NLP/SkipGPT at fb2a203).

Rule. Both routers of a block read its input x: z = W2 relu(W1 x + b1) + b2, two numbers, hidden width D / 4. A sublayer runs where
z[0] >= z[1] (`margin` shifts that: z[0] - z[1] >= margin). Attention that is skipped still stores its keys and values.

Training, first stage (`router`). The model is frozen. Gumbel noise on z; the larger runs, its gradient that of the softmax of the
noisy z over a temperature that falls linearly from 5 to 1 (straight through). Loss: cross-entropy +
`weight` * |(1 - `sparsity`) - mean share that runs|, attention and feed-forward sublayers averaged. Second stage (`weights`): the
model is trained under the routers as they are (adapters, where a recipe has `lora`). Options of a recipe: `sparsity`, `weight`.

Deviations. The code's evaluation keeps the Gumbel noise, so its routes are random, and computes everything; here the larger of
the two runs and a sublayer that no row runs is not computed. Its training is 10,000 steps of 8 x 4096 tokens. In the second stage
the routers are frozen and without noise. The prompt's positions choose like all others (`prompt`), as in the paper.

Cost: two maps of width D / 4 per block and position, in FLOPs a sixteenth of an attention sublayer each (of a model with as many
key as query heads).
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
from harness.training import Sizes, TrainingPass, TrainingPlan, TrainingStage, configured, gumbel, uniform


@dataclass(frozen=True)
class SkipGPT(Gate):
    """Routers over every sublayer.

    Parameters:
        margin: how much larger the number for running must be; -1000 or less runs everything.
        prompt: the prompt's positions skip too.
    """

    name: ClassVar[str] = "skipgpt"
    title: ClassVar[str] = "SkipGPT"
    paper: ClassVar[str] = "Zhao et al. 2025, arXiv:2506.04179"
    needs_training: ClassVar[bool] = True

    margin: float = 0.0
    prompt: bool = True

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> SkipGPT:
        self._require_trained(extras, [f"{_router(layer, s)}.out.weight" for layer in range(depth) for s in _SUBLAYERS])
        return self

    @override
    def no_skip(self, depth: int) -> SkipGPT:
        return replace(self, margin=_ALL)

    @override
    def candidates(self, depth: int) -> list[SkipGPT]:
        """Margins from -6 up to 6; trained is 0."""
        return [replace(self, margin=step / 2) for step in range(-12, 13)]

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.margin > _ALL

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.prompt and self.gated(layer, sublayer, depth)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        z = _logits(layer, sublayer, x, state)
        return z[:, 0] - z[:, 1] >= self.margin

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        chosen = configured(_Options, self.name, options)
        router = TrainingStage(
            "router",
            partial(_loss, chosen),
            extras=_extras,
            inside=True,
            draw=lambda rng, moment: _Drawn(
                self.margin, self.prompt, temperature=_HOT + (_COLD - _HOT) * moment.step / max(moment.steps, 1)
            ),
        )
        weights = TrainingStage("weights", lambda forced: forced.final_loss(), draw=lambda rng, moment: self)
        return TrainingPlan((router, weights), configure=self._plan)


_SUBLAYERS = ("attention", "feed")
_ALL = -1000.0
_HOT, _COLD = 5.0, 1.0


@dataclass(frozen=True)
class _Drawn(SkipGPT):
    """SkipGPT as its routers are trained: while a pass is differentiated, noise decides too."""

    temperature: float = 1.0

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        z = _logits(layer, sublayer, x, state)
        if state.training:
            z = gumbel(z)
        state.openness = (z.float() / self.temperature).softmax(-1)[:, 0]
        return z[:, 0] - z[:, 1] >= self.margin


@dataclass(frozen=True)
class _Options:
    """The recipe's options, see the module's docstring."""

    sparsity: float = 0.25
    weight: float = 20.0


def _router(layer: int, sublayer: str) -> str:
    return f"skipgpt.{layer}.{sublayer}"


def _logits(layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
    """The two numbers [R, 2] of a sublayer's router, which reads the block's input."""
    entry = x if sublayer == "attention" else state.previous
    assert entry is not None
    name = _router(layer, sublayer)
    return state.linear(f"{name}.out", F.relu(state.linear(f"{name}.in", entry)))


def _extras(sizes: Sizes) -> dict[str, torch.Tensor]:
    """He initialisation, biases 0, as in the authors' code."""
    hidden, found = max(1, sizes.width // 4), {}
    for layer in range(sizes.depth):
        for sublayer in _SUBLAYERS:
            name = _router(layer, sublayer)
            found[f"{name}.in.weight"] = uniform((hidden, sizes.width), (6 / sizes.width) ** 0.5)
            found[f"{name}.in.bias"] = torch.zeros(hidden)
            found[f"{name}.out.weight"] = uniform((2, hidden), (3 / hidden) ** 0.5)
            found[f"{name}.out.bias"] = torch.zeros(2)
    return found


def _loss(options: _Options, forced: TrainingPass) -> torch.Tensor:
    means = [
        torch.stack([asked.taken.mean() for asked in forced.gates if asked.sublayer == sublayer]).mean()
        for sublayer in _SUBLAYERS
    ]
    return forced.final_loss() + options.weight * ((1 - options.sparsity) - torch.stack(means).mean()).abs()
