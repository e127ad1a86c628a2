"""FlexiDepth: a router per block sends a token through the block or past it, by way of a small adapter in place of its feed.

Paper: Luo, Wang, Yan, "Adaptive Layer-skipping in Pre-trained LLMs", COLM 2025, arXiv:2503.23798. The authors' repository
(github.com/luoxuan-cs/Flexidepth at bb21017) has the training script; shapes and arithmetic of the model are those that an
independent serving implementation of the released checkpoint keeps to.

Rule. In the upper half of the blocks w = sigmoid(v . tanh(rms(E norm(x)))), E to D / 16, reads the block's input through its first
norm. Where w > `threshold` the block runs, its feed-forward output multiplied by w: y = x + attention(x), y + w * feed(y).
Elsewhere attention is left out and the adapter stands for the feed: x + (1 - w) * A2 (silu(A1 norm(x)) * A3 norm(x)), a sixteenth
of the feed-forward sublayer's size, through the block's second norm. A token that skips still stores its keys and values.

Training (`router`). The model is frozen, routers and adapters are trained. Loss: cross-entropy + `penalty` * mean over tokens of
(sum over routed blocks of w)^2: a layer-skipping loss whose exact form could not be read in the sources. Options of a recipe:
`penalty` (the script's 1e-4, then 1e-5 with 16 routed blocks).

Deviations. The code's router has a map back to width D before v, without a non-linearity between: one map here. A2 begins at 0: a
token that skips begins with passing its state on. The code's SparseMixer corrects the router's gradient for the branch not taken;
here it is that of w where it multiplies.

Cost: maps of D x D / 16 per routed block and position, and an adapter for every token that skips; they are charged.
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

_W, _RUNS = "weight", "runs"


@dataclass(frozen=True)
class FlexiDepth(Gate):
    """Routers with adapters.

    Parameters:
        first: first routed block; None: the upper half is.
        threshold: w above which a token runs the block, 0 to 1.
        prompt: the prompt's positions skip too.
    """

    name: ClassVar[str] = "flexidepth"
    title: ClassVar[str] = "FlexiDepth"
    paper: ClassVar[str] = "Luo et al. 2025, arXiv:2503.23798"
    needs_training: ClassVar[bool] = True
    weighs: ClassVar[bool] = True

    first: int | None = None
    threshold: float = 0.5
    prompt: bool = True

    def __post_init__(self) -> None:
        self._require("first", self.first is None or self.first >= 0, "0 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")

    def routed(self, depth: int) -> range:
        """The blocks that have a router."""
        return range(depth // 2 if self.first is None else self.first, depth)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> FlexiDepth:
        self._require("first", len(self.routed(depth)) > 0, f"below the model's {depth} blocks")
        self._require_trained(extras, [f"{_block(layer)}.head.weight" for layer in self.routed(depth)])
        return self

    @override
    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        return {**self.params, "first": self.routed(depth).start}

    @override
    def candidates(self, depth: int) -> list[FlexiDepth]:
        """Thresholds from 0.05 up to 0.95; trained is 0.5."""
        return [replace(self, threshold=step / 20) for step in range(1, 20)]

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return layer in self.routed(depth)

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """The weight multiplies there too."""
        return self.gated(layer, sublayer, depth)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if sublayer == "feed":
            state.openness = state.scratch[_W]
            return state.scratch[_RUNS]
        name = _block(layer)
        read = state.rms_norm(f"{name}.norm", state.linear(f"{name}.in", state.normed(layer, "attention", x)))
        w = torch.sigmoid(state.linear(f"{name}.head", torch.tanh(read)).squeeze(-1))
        at_prompt = isinstance(state.step, int) and not state.step
        runs = torch.ones_like(w, dtype=torch.bool) if at_prompt and not self.prompt else w > self.threshold
        state.scratch = {_W: w, _RUNS: runs}
        return runs

    @override
    def bypass(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if sublayer == "attention":
            return x
        name, w = _block(layer), state.scratch[_W][~state.scratch[_RUNS]]
        read = state.normed(layer, "feed", x)
        inner = F.silu(state.linear(f"{name}.gate", read)) * state.linear(f"{name}.down", read)
        return x + (1 - w).unsqueeze(-1) * state.linear(f"{name}.up", inner)

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        chosen = configured(_Options, self.name, options)
        stage = TrainingStage("router", partial(_loss, chosen), extras=self._extras, inside=True)
        return TrainingPlan((stage,), lambda rng, moment: self, self._plan)

    def _extras(self, sizes: Sizes) -> dict[str, torch.Tensor]:
        width, found = sizes.width, {}
        narrow, inner = max(1, width // 16), max(1, sizes.feed_weights // (16 * 3 * width))
        for layer in self.routed(sizes.depth):
            name = _block(layer)
            found[f"{name}.in.weight"] = uniform((narrow, width), width**-0.5)
            found[f"{name}.norm.weight"] = torch.ones(narrow)
            found[f"{name}.head.weight"] = uniform((1, narrow), narrow**-0.5)
            found[f"{name}.gate.weight"] = uniform((inner, width), width**-0.5)
            found[f"{name}.down.weight"] = uniform((inner, width), width**-0.5)
            found[f"{name}.up.weight"] = torch.zeros(width, inner)
        return found


@dataclass(frozen=True)
class _Options:
    """The recipe's options, see the module's docstring."""

    penalty: float = 1e-4


def _block(layer: int) -> str:
    return f"flexidepth.{layer}"


def _loss(options: _Options, forced: TrainingPass) -> torch.Tensor:
    weights = [asked.openness for asked in forced.gates if asked.sublayer == "feed" and asked.openness is not None]
    return forced.final_loss() + options.penalty * torch.stack(weights).float().sum(0).square().mean()
