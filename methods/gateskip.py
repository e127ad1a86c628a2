"""GateSkip: every attention and feed-forward output passes a trained gate; where the gate is nearly shut the sublayer is skipped.

Paper: Laitenberger, Kopiczko, Snoek, Asano, "What Layers When: Learning to Skip Compute in LLMs with Residual Gates", 2025,
arXiv:2510.13876. The rule is that of the authors' code (github.com/Thiggel/GateSkip at 17a0bd5).

Rule. A sublayer's gate g = sigmoid(W norm(x) + b), D numbers, reads what the sublayer reads, and multiplies what it adds to the
state: x + g * f(x). A token's importance there is the mean of g; tokens whose importance is at most the sublayer's threshold skip
it and keep their state. Attention that is skipped still stores its keys and values.

Thresholds. The code takes the `skip` quantile of the importances in each call, so a row's text depends on the rows beside it and a
call with one token never skips. Here the quantiles are taken once, over the text of a profile (`depthbench profile
'gateskip(skip=0.25)'`), under skipping as it is found from the bottom up, and kept as parameters: `skip` is met on average over
such text, not in every call.

Training (`gates`). W begins as N(0, 0.01), b at 5 (nearly open). Loss: cross-entropy + `weight` * mean of g^2 over positions,
sublayers and D, + `entropy` * the binary entropy of g. Training skips by the batch's own quantile, which rises linearly from 0 to
`skipped`. Options of a recipe: `weight`, `entropy`, `skipped`, `backbone` (train the model along with its gates).

Deviations. The thresholds (above). The code's "copy K, V from the block below" never happens (an assignment inside a bare except),
so keys and values are the block's own here too. Its default path computes what it then masks; here a sublayer that no row runs is
not computed. Its gate reads the input without passing a gradient on to it; so does this one.

Cost: a D x D map per sublayer and position, in FLOPs a quarter of an attention sublayer each: the dearest decision of all here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Gate
from harness.profiling import Profile
from harness.state import GateState
from harness.training import Sizes, TrainingPass, TrainingPlan, TrainingStage, configured

_UNIT = 1_000_000
_LEAST = 1e-6
_SUBLAYERS = ("attention", "feed")


@dataclass(frozen=True)
class GateSkip(Gate):
    """Residual gates with a threshold each.

    Parameters:
        skip: share of tokens that a profile's thresholds skip at every sublayer, 0 to 1; 0 skips nothing.
        thresholds: what the profile found: `t`, then importances in millionths for the 2 L sublayers from the bottom up, joined
            by `_`.
    """

    name: ClassVar[str] = "gateskip"
    title: ClassVar[str] = "GateSkip"
    paper: ClassVar[str] = "Laitenberger et al. 2025, arXiv:2510.13876"
    needs_training: ClassVar[bool] = True
    weighs: ClassVar[bool] = True

    skip: float = 0.0
    thresholds: str = ""

    def __post_init__(self) -> None:
        self._require("skip", 0 <= self.skip <= 1, "0 to 1 (0 skips nothing)")
        known = not self.thresholds or re.fullmatch(r"t\d+(_\d+)*", self.thresholds) is not None
        self._require("thresholds", known, "t and whole numbers joined by _, as a profile writes them")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> GateSkip:
        self._require_trained(extras, [f"{_gate(layer, s)}.weight" for layer in range(depth) for s in _SUBLAYERS])
        if self.skip and not self.thresholds:
            raise BadInput(
                f"gateskip: no thresholds were found for skip={self.skip:g}; run `depthbench profile "
                f"'gateskip(skip={self.skip:g})'` or give thresholds"
            )
        fits = not self.thresholds or self.thresholds.count("_") + 1 == 2 * depth
        self._require("thresholds", fits, f"one for each of the model's {2 * depth} sublayers")
        return self

    @override
    def profile(self, profile: Profile) -> GateSkip:
        self._require("skip", self.skip > 0, "above 0: without skipping there is no threshold to find")
        found = profile.openness(_ByQuantile(share=self.skip))
        levels = [
            found[layer, sublayer].float().mean(-1).quantile(self.skip, interpolation="lower").item()
            for layer in range(profile.depth)
            for sublayer in _SUBLAYERS
        ]
        return replace(self, thresholds="t" + "_".join(str(round(level * _UNIT)) for level in levels))

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """Everything passes a gate."""
        return True

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return True

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        importance = self._opened(layer, sublayer, x, state)
        if not self.skip:
            return torch.ones_like(importance, dtype=torch.bool)
        return importance > int(self.thresholds[1:].split("_")[2 * layer + (sublayer == "feed")]) / _UNIT

    def _opened(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        """The gate is left as the question's openness; returns its mean [R]."""
        read = state.normed(layer, sublayer, x.detach())
        state.openness = torch.sigmoid(state.linear(_gate(layer, sublayer), read))
        return state.openness.detach().float().mean(-1)

    @override
    def training_plan(self) -> TrainingPlan:
        return self._plan({})

    def _plan(self, options: Mapping[str, Any]) -> TrainingPlan:
        chosen = configured(_Options, self.name, options)
        stage = TrainingStage("gates", partial(_loss, chosen), extras=_extras, inside=True, frozen=not chosen.backbone)
        return TrainingPlan(
            (stage,),
            lambda rng, moment: _ByQuantile(share=chosen.skipped * moment.step / max(moment.steps, 1)),
            self._plan,
        )


@dataclass(frozen=True)
class _ByQuantile(GateSkip):
    """GateSkip by the quantile of the positions that are asked together: how it is trained, and how thresholds are found."""

    share: float = 0.0

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        importance = self._opened(layer, sublayer, x, state)
        if not self.share:
            return torch.ones_like(importance, dtype=torch.bool)
        ordered = importance.sort().values
        return importance > ordered[min(int(self.share * len(ordered)), len(ordered) - 1)]


@dataclass(frozen=True)
class _Options:
    """The recipe's options, see the module's docstring."""

    weight: float = 0.01
    entropy: float = 0.01
    skipped: float = 0.2
    backbone: bool = False


def _gate(layer: int, sublayer: str) -> str:
    return f"gateskip.{layer}.{sublayer}"


def _extras(sizes: Sizes) -> dict[str, torch.Tensor]:
    found = {}
    for layer in range(sizes.depth):
        for sublayer in _SUBLAYERS:
            found[f"{_gate(layer, sublayer)}.weight"] = torch.randn(sizes.width, sizes.width) * 0.01
            found[f"{_gate(layer, sublayer)}.bias"] = torch.full((sizes.width,), 5.0)
    return found


def _loss(options: _Options, forced: TrainingPass) -> torch.Tensor:
    gates = [asked.openness.float() for asked in forced.gates if asked.openness is not None]
    size = torch.stack([g.square().mean() for g in gates]).mean()
    # A gate that is rounded to 1 has no entropy, but an infinite slope: in bfloat16 that is all above 0.998.
    inner = [g.clamp(_LEAST, 1 - _LEAST) for g in gates]
    entropy = torch.stack([-(g * g.log() + (1 - g) * (1 - g).log()).mean() for g in inner]).mean()
    return forced.final_loss() + options.weight * size + options.entropy * entropy
