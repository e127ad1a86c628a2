"""Router-Tuning: small routers on a frozen model say which attention or feed-forward sublayers, or whole blocks, a token needs.

Paper: He, Ge, Sun, Tian, Wang, Yu, "Router-Tuning: A Simple and Effective Approach for Dynamic Depth", EMNLP 2025,
arXiv:2410.13184 (MindSkip). The rule is that of the authors' code
(github.com/CASE-Lab-UMD/Router-Tuning-Mixture-of-Depths at 772c160).

Rule. In the upper half of the blocks a router r = sigmoid(w . norm(x)) reads the block's input through the block's own first norm,
whichever sublayer it is about; the sublayer runs where r >= `threshold`. `granularity` token: every position for itself. sequence:
w reads the mean over the prompt's positions, and the decision, taken once, holds for the whole sequence.

Training. The model is frozen. Loss: cross-entropy + `scale` * sum over routed blocks of relu(mean share that runs - `target`);
the decision is differentiated straight through (gradient of r in place of the step's). Options of a recipe: `target`, `scale`.

FiRST (Jain et al. 2024, arXiv:2410.12513) fixes the blocks of a sequence from its prompt, which itself runs whole; its router and
loss could not be read. `router_tuning(unit=block,granularity=sequence,prompt=False)` stands for it.

Deviations. With a cache the code sees one token in a decode call, so its sequence routing becomes a decision per token that was
never trained; here the decision is the prompt's. In training its mean is over the whole sequence, here over the prompt, which is
what inference knows. The code computes what it then multiplies by 0; here a sublayer that no row runs is not computed. Its default
has no pressure to skip (scale 0); the recipe here gives a target.

Cost: a product of width D per routed block and position, none after the prompt where the sequence decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import override

from harness.method import Gate, Start
from harness.state import GateState
from harness.training import Sizes, TrainingPass, TrainingPlan, TrainingStage, configured, uniform

_OPEN, _RUNS = "openness", "runs"


@dataclass(frozen=True)
class RouterTuning(Gate):
    """Routers over sublayers or blocks.

    Parameters:
        unit: what a router is about: `attention`, `mlp` or `block`.
        granularity: `token` or `sequence` (decided once, from the prompt).
        first: first routed block; None: the upper half is.
        threshold: least r that runs, 0 to 1; 0 runs everything.
        prompt: the prompt's positions skip too.
    """

    name: ClassVar[str] = "router_tuning"
    title: ClassVar[str] = "Router-Tuning"
    paper: ClassVar[str] = "He et al. 2024, arXiv:2410.13184"
    needs_training: ClassVar[bool] = True

    unit: Literal["attention", "mlp", "block"] = "attention"
    granularity: Literal["token", "sequence"] = "token"
    first: int | None = None
    threshold: float = 0.5
    prompt: bool = True

    def __post_init__(self) -> None:
        self._require("first", self.first is None or self.first >= 0, "0 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1 (0 runs everything)")

    def routed(self, depth: int) -> range:
        """The blocks that have a router."""
        return range(depth // 2 if self.first is None else self.first, depth)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> RouterTuning:
        self._require("first", len(self.routed(depth)) > 0, f"below the model's {depth} blocks")
        self._require_trained(extras, [f"{_router(layer)}.weight" for layer in self.routed(depth)])
        return self

    @override
    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        return {**self.params, "first": self.routed(depth).start}

    @override
    def no_skip(self, depth: int) -> RouterTuning:
        return replace(self, threshold=0.0)

    @override
    def candidates(self, depth: int) -> list[RouterTuning]:
        """Thresholds from 0.05 up to 0.95; trained is 0.5."""
        return [replace(self, threshold=step / 20) for step in range(1, 20)]

    @override
    def begin(self, start: Start) -> dict[int, torch.Tensor]:
        """What the prompt decided for each row, by block."""
        return {}

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        about = {"attention": ("attention",), "mlp": ("feed",), "block": ("attention", "feed")}[self.unit]
        return self.threshold > 0 and layer in self.routed(depth) and sublayer in about

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """A sequence is decided there, also where the prompt itself skips nothing."""
        return (self.prompt or self.granularity == "sequence") and self.gated(layer, sublayer, depth)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if self.unit == "block" and sublayer == "feed":
            state.openness = state.scratch.get(_OPEN)
            return state.scratch[_RUNS]
        entry = x if sublayer == "attention" else state.previous
        assert entry is not None
        prompt = isinstance(state.step, int) and not state.step
        if self.granularity == "sequence" and not prompt:
            decided: dict[int, torch.Tensor] = state.memory
            openness = decided[layer][state.rows]
        else:
            read = state.normed(layer, "attention", entry)
            if self.granularity == "sequence":
                read = state.mean(read)
            openness = torch.sigmoid(state.linear(_router(layer), read).squeeze(-1).float())
            if self.granularity == "sequence":
                state.memory[layer] = _of_rows(openness, state.rows)
        if prompt and not self.prompt:
            runs = torch.ones_like(openness, dtype=torch.bool)
            state.scratch = {_RUNS: runs}
            return runs
        state.openness, runs = openness, openness >= self.threshold
        state.scratch = {_OPEN: openness, _RUNS: runs}
        return runs

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        chosen = configured(_Options, self.name, options)
        stage = TrainingStage("router", partial(self._loss, chosen), extras=self._extras, inside=True)
        return TrainingPlan((stage,), lambda rng, moment: self, self._plan)

    def _extras(self, sizes: Sizes) -> dict[str, torch.Tensor]:
        """Routers as torch's own linear maps begin."""
        bound = sizes.width**-0.5
        return {f"{_router(layer)}.weight": uniform((1, sizes.width), bound) for layer in self.routed(sizes.depth)}

    def _loss(self, options: _Options, forced: TrainingPass) -> torch.Tensor:
        # The two sublayers of a block share one decision.
        about = "feed" if self.unit == "mlp" else "attention"
        shares = [asked.taken.mean() for asked in forced.gates if asked.sublayer == about]
        return forced.final_loss() + options.scale * (torch.stack(shares) - options.target).relu().sum()


@dataclass(frozen=True)
class _Options:
    """The recipe's options, see the module's docstring."""

    target: float = 0.5
    scale: float = 1.0


def _router(layer: int) -> str:
    return f"router_tuning.{layer}"


def _of_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """One value for each row, of positions [R] that hold the same within a row."""
    count = torch.bincount(rows)
    return values.new_zeros(len(count)).index_add(0, rows, values) / count.clamp_min(1)
