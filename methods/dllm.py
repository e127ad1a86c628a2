"""D-LLM: a router per block decides whether a token runs it; a token that does not is invisible to later ones in that block.

Paper: Jiang, Wang, Xie, Zhao, Zhang, Qian, Lui, "D-LLM: A Token Adaptive Computing Resource Allocation Strategy for Large Language
Models", NeurIPS 2024. The rule is that of the authors' code (github.com/Jyk-122/D-LLM at 8c70dd7).

Rule. From block `first` on, z = W2 silu(rms(W1 x + b1)) + b2 reads the block's input, two numbers; the block runs where
softmax(z)[1] >= `threshold`. The first `kept` tokens of a sequence always run. A token that skips a block keeps its state, and its
column is hidden from later queries of that block: its keys and values are never looked at.

Training (`router`). Gumbel noise on z, temperature 1, straight through. Loss: cross-entropy + `weight` * mean over tokens of
|share of all blocks that it runs - `target`|. The model is trained along with its routers (adapters of rank 8 on q, k and v in the
paper: a recipe's `lora`). Options of a recipe: `target`, `weight`, `frozen` (train the routers alone).

Deviations. The router's hidden width is an eighth of D, as 512 of 4096 is in the paper. The code multiplies attention's weights by
the decision and normalises again, which is what hiding a column is, and lets gradients pass there; here they pass where the block's
output is taken or not. The tokens always kept count in the loss, as a constant. The code computes the whole prompt and masks.

Cost: maps of D x D / 8 per routed block and position.
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

_OPEN, _RUNS = "openness", "runs"


@dataclass(frozen=True)
class DLLM(Gate):
    """Routers over blocks, skipped tokens hidden.

    Parameters:
        first: first routed block, 0 or more.
        kept: tokens at the beginning of a sequence that run everything.
        threshold: least probability of running, 0 to 1; 0 runs everything.
    """

    name: ClassVar[str] = "dllm"
    title: ClassVar[str] = "D-LLM"
    paper: ClassVar[str] = "Jiang et al. 2024, NeurIPS 2024 (D-LLM)"
    needs_training: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = (
        "hidden: later positions of the row do not look at a position in a block that it skipped"
    )

    first: int = 2
    kept: int = 2
    threshold: float = 0.5

    def __post_init__(self) -> None:
        self._require("first", self.first >= 0, "0 or more")
        self._require("kept", self.kept >= 1, "1 or more: a block needs a position to look at")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1 (0 runs everything)")

    @property
    @override
    def kv(self) -> str:
        return "hidden"

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> DLLM:
        self._require("first", self.first < depth, f"below the model's {depth} blocks")
        self._require_trained(extras, [f"{_router(layer)}.out.weight" for layer in range(self.first, depth)])
        return self

    @override
    def no_skip(self, depth: int) -> DLLM:
        return replace(self, threshold=0.0)

    @override
    def candidates(self, depth: int) -> list[DLLM]:
        """Thresholds from 0.05 up to 0.95; trained is 0.5."""
        return [replace(self, threshold=step / 20) for step in range(1, 20)]

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.threshold > 0 and layer >= self.first

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.gated(layer, sublayer, depth)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if sublayer == "feed":
            state.openness = state.scratch[_OPEN]
            return state.scratch[_RUNS]
        name = _router(layer)
        z = state.linear(f"{name}.out", F.silu(state.rms_norm(f"{name}.norm", state.linear(f"{name}.in", x))))
        if state.training:
            z = gumbel(z)
        chance = z.float().softmax(-1)[:, 1]
        always = state.positions < self.kept
        state.openness = torch.where(always, torch.ones_like(chance), chance)
        runs = state.openness >= self.threshold
        state.scratch = {_OPEN: state.openness, _RUNS: runs}
        return runs

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        chosen = configured(_Options, self.name, options)
        stage = TrainingStage(
            "router", partial(self._loss, chosen), extras=self._extras, inside=True, frozen=chosen.frozen
        )
        return TrainingPlan((stage,), lambda rng, moment: self, self._plan)

    def _extras(self, sizes: Sizes) -> dict[str, torch.Tensor]:
        hidden, found = max(1, sizes.width // 8), {}
        for layer in range(self.first, sizes.depth):
            name = _router(layer)
            found[f"{name}.in.weight"] = uniform((hidden, sizes.width), sizes.width**-0.5)
            found[f"{name}.in.bias"] = uniform((hidden,), sizes.width**-0.5)
            found[f"{name}.norm.weight"] = torch.ones(hidden)
            found[f"{name}.out.weight"] = uniform((2, hidden), hidden**-0.5)
            found[f"{name}.out.bias"] = torch.tensor([0.1, 2.0])
        return found

    def _loss(self, options: _Options, forced: TrainingPass) -> torch.Tensor:
        ran = torch.stack([asked.taken for asked in forced.gates if asked.sublayer == "attention"])
        share = (ran.sum(0) + self.first) / forced.decoder.depth
        return forced.final_loss() + options.weight * (share - options.target).abs().mean()


@dataclass(frozen=True)
class _Options:
    """The recipe's options, see the module's docstring."""

    target: float = 0.5
    weight: float = 5.0
    frozen: bool = False


def _router(layer: int) -> str:
    return f"dllm.{layer}"
