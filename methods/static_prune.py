"""Static pruning: the same blocks are left out at every position, prompt included, and have no cache. Four published orders.

Papers and the rules as their authors' code has them:

* `sleb`: Song, Oh, Kim, Kim, Kim, Kim, "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of
  Transformer Blocks", ICML 2024, arXiv:2402.09025 (jiwonsong-dev/SLEB). `count` times: of all blocks but the first and the
  last that are left, the one without which the loss on the calibration text is lowest goes (the lowest index of equals).
* `shortgpt`: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024,
  arXiv:2403.03853 (icip-cas/ShortGPT). The `count` blocks of the lowest influence go at once: 1 - mean over tokens of the
  cosine of their input and output.
* `shortened`, `taylor`: Kim, Kim, Kim, Castells, Choi, Shin, Song, "Shortened LLaMA: A Simple Depth Pruning for Large
  Language Models", 2024, arXiv:2402.02834 (Nota-NetsPresso/shortened-llm). The `count` blocks without which the perplexity is
  lowest, or whose sum over weights of |w dL/dw| is, go at once; with `plus`, its heuristic, the first four and the last two
  stay.
* `tale`: "TALE", 2025, arXiv:2510.22767 (omyokun/tale). Of all blocks that are left the one goes without which the task's metric is
  best, as long as it does not fall more than `epsilon` below the whole model's, and `count` at most.

`where=prompt` is ShortGPT's second variant, of its code: the chosen blocks are bypassed in the prompt alone, where they
project keys and values of the state that passes, and decoding runs all blocks. `where=decode` keeps the prompt whole (a
control).

Deviations. ShortGPT reads the last block's output after the final norm, which makes its influence incomparable; here before
it. TALE offers the best set and the last one that keeps the whole model's accuracy; here the last one within `epsilon`,
relative to the whole model as in the code (its web page compares with the model before), and only on a split that is not the
test split. None is retrained. SLEB's own latencies are of blocks 1..n deleted and batch 64; here those found are.

Cost: none beyond the blocks run. The profile's is in its artefact: `sleb` takes about count (L - count/2) passes over the
text, `shortened` L, `taylor` one with gradients, `shortgpt` one, `tale` generates the whole split about count (L - count/2)
times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Schedule
from harness.plan import LayerPlan, Step
from harness.profiling import Profile
from harness.sublayers import blocks, read, without, written

ORDERS = ("sleb", "shortgpt", "shortened", "taylor", "tale")


@dataclass(frozen=True)
class StaticPrune(Schedule):
    """Blocks found by a profile, left out everywhere.

    Parameters:
        order: `sleb`, `shortgpt`, `shortened`, `taylor` or `tale`.
        count: blocks that a profile leaves out (`tale`: at most).
        skip: what it chose (`harness.sublayers`), e.g. `b3_b5`; empty before.
        where: `all`, `prompt` or `decode`.
        epsilon: loss of the metric that `tale` accepts, in the metric's own units.
        plus: `shortened` and `taylor` keep the first four blocks and the last two.
    """

    name: ClassVar[str] = "static_prune"
    title: ClassVar[str] = "Static pruning"
    paper: ClassVar[str] = (
        "Song et al. 2024, arXiv:2402.09025; Men et al. 2024, arXiv:2403.03853; Kim et al. 2024, arXiv:2402.02834"
    )
    skipped_kv: ClassVar[str] = (
        "none written and none needed: the blocks are not there (where=prompt: their own, projected)"
    )

    order: str = "sleb"
    count: int = 1
    skip: str = ""
    where: str = "all"
    epsilon: float = 0.08
    plus: bool = True

    def __post_init__(self) -> None:
        self._require("order", self.order in ORDERS, f"one of {', '.join(ORDERS)}")
        self._require("count", self.count >= 0, "0 or more")
        self._require("where", self.where in ("all", "prompt", "decode"), "one of all, prompt, decode")
        self._require("epsilon", self.epsilon >= 0, "0 or more")
        read(self.skip)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> StaticPrune:
        if self.count and not self.skip:
            command = f"depthbench profile 'static_prune(order={self.order}, count={self.count})'"
            raise BadInput(f"static_prune: nothing was profiled; run `{command}` or give skip")
        self._plan(depth)
        return self

    @override
    def no_skip(self, depth: int) -> StaticPrune:
        return replace(self, count=0, skip="")

    @override
    def profile(self, profile: Profile) -> StaticPrune:
        depth = profile.depth
        free = [layer for layer in range(depth) if self._free(layer, depth)]
        self._require(
            "count", self.count <= len(free), f"at most the {len(free)} blocks that {self.order} may leave out"
        )
        found = {"sleb": self._sleb, "tale": self._tale}.get(self.order, self._one_shot)(profile, free)
        return replace(self, skip=written(blocks(found)), count=len(found))

    def _free(self, layer: int, depth: int) -> bool:
        """Whether the order may leave out a block."""
        if self.order == "sleb":
            return 0 < layer < depth - 1
        return self.order not in ("shortened", "taylor") or not self.plus or 4 <= layer < depth - 2

    def _one_shot(self, profile: Profile, free: list[int]) -> list[int]:
        depth = profile.depth
        if self.order == "shortened":
            scores = {layer: profile.loss(without(blocks([layer]), depth)) for layer in free}
        elif self.order == "taylor":
            scores = dict(enumerate(profile.sensitivity().tolist()))
        else:
            scores = {i: 1 - cosine for i, cosine in enumerate(profile.statistics().block_cosine.tolist())}
        return sorted(sorted(free, key=lambda layer: (scores[layer], layer))[: self.count])

    def _sleb(self, profile: Profile, free: list[int]) -> list[int]:
        return _greedy(self.count, free, lambda gone: profile.loss(without(blocks(gone), profile.depth)))

    def _tale(self, profile: Profile, free: list[int]) -> list[int]:
        least = profile.score(LayerPlan.full(profile.depth)) - self.epsilon
        return _greedy(self.count, free, lambda gone: -profile.score(without(blocks(gone), profile.depth)), most=-least)

    def _plan(self, depth: int) -> LayerPlan:
        return _planned(self.skip, depth, self.where == "prompt")

    @override
    def prompt_plan(self, depth: int) -> LayerPlan:
        return LayerPlan.full(depth) if self.where == "decode" else self._plan(depth)

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return LayerPlan.full(depth) if self.where == "prompt" else self._plan(depth)


def _greedy(count: int, free: list[int], cost: Callable[[list[int]], float], most: float = float("inf")) -> list[int]:
    """Blocks that go one by one, each the one without which the cost is lowest, while it is at most `most`."""
    gone: list[int] = []
    while len(gone) < count:
        best, layer = min((cost(sorted([*gone, layer])), layer) for layer in free if layer not in gone)
        if best > most:
            break
        gone.append(layer)
    return sorted(gone)


@lru_cache(maxsize=64)
def _planned(skip: str, depth: int, fill: bool) -> LayerPlan:
    """One plan for all steps, so that what is derived from it is derived once."""
    return without(read(skip), depth, fill=fill)
