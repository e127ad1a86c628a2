"""SWIFT: the set of sublayers that drafts is searched while text is generated.

Paper: Xia, Li, Zhang, Du, Li, "SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration", ICLR 2025,
arXiv:2410.06916. The rule is that of the authors' code (hemingkx/SWIFT at 88caed7).

Rule. The first set is both sublayers of every odd block; the first and the last block always draft; `share` of the other
sublayers are skipped. After a verification, once more than `window` tokens are known, one random set of that size is scored:
the share of `window` known tokens that it drafts right, all in one parallel pass on the full model's K/V before them. It
replaces the set if it scores above all before it. The search ends at a score of `enough`, after `tries` sets or after
`patience` of them without gain. Drafts end after `draft_tokens`, or with a token whose probability is below `threshold`.

The search is part of the step and its passes are counted: time and FLOPs of a run have them inside, shown apart as tests. To
measure drafting alone, give the set found as `skip` with `search=False`.

Deviations. The authors' search goes on from request to request, so that their timings depend on the order of requests; here
every generation begins anew, and order does not count. They score the first tokens of the request, here the last. Every 25th
set they propose by Bayesian optimisation; here all are random. Chains only, where they add siblings (their own ablation:
1.56x against 1.54x). A batch has one set, scored over all rows.

Cost: drafts that are rejected, a vocabulary projection per drafted token, and the search's passes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.method import Draft, Start, Verification
from harness.plan import LayerPlan
from harness.sublayers import blocks, read, without


@dataclass
class _Search:
    """How far the search of a generation has come."""

    plan: LayerPlan
    draw: random.Random
    best: float = 0.0
    tried: int = 0
    since: int = 0
    ended: bool = False
    free: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Swift(Draft):
    """Drafts without a set of sublayers that is searched on the way.

    Parameters:
        skip: the set that the search begins with (`harness.sublayers`); empty: every odd block.
        search: whether it is searched at all.
        draft_tokens: tokens drafted per step at most.
        threshold: probability below which a draft ends, 0 to 1.
        share: of the sublayers between the first and the last block, how many a searched set skips, above 0 and below 1.
        window: known tokens a set is scored on.
        tries: sets that are tried at most.
        patience: sets without gain that end the search.
        enough: score that ends it, 0 to 1.
        seed: of the draw.
    """

    name: ClassVar[str] = "swift"
    title: ClassVar[str] = "SWIFT"
    paper: ClassVar[str] = "Xia et al. 2025, arXiv:2410.06916"

    skip: str = ""
    search: bool = True
    draft_tokens: int = 25
    threshold: float = 0.8
    share: float = 0.45
    window: int = 32
    tries: int = 1000
    patience: int = 300
    enough: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")
        self._require("share", 0 < self.share < 1, "above 0 and below 1")
        self._require("window", self.window >= 1, "1 or more")
        self._require("tries", self.tries >= 0, "0 or more")
        self._require("patience", self.patience >= 1, "1 or more")
        self._require("enough", 0 <= self.enough <= 1, "0 to 1")
        read(self.skip)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> Swift:
        without(read(self.skip), depth)
        return self

    @override
    def begin(self, start: Start) -> _Search:
        depth = start.depth
        first = read(self.skip) or dict.fromkeys(blocks(range(1, depth - 1, 2)), 1.0)
        search = _Search(without(first, depth), random.Random(self.seed), free=blocks(range(1, depth - 1)))
        search.ended = not self.search or not self._skipped(search)
        return search

    def _skipped(self, search: _Search) -> int:
        return int(len(search.free) * self.share)

    @override
    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        plan: LayerPlan = memory.plan
        return plan

    @override
    def verified(self, seen: Verification, memory: Any) -> None:
        if memory.ended or seen.known <= self.window + 1:
            return
        if memory.tried >= self.tries or memory.since >= self.patience:
            memory.ended = True
            return
        plan = without(memory.draw.sample(memory.free, self._skipped(memory)), memory.plan.depth)
        score = float(seen.try_plan(plan, self.window).double().mean())
        memory.tried, memory.since = memory.tried + 1, memory.since + 1
        if score > memory.best:
            memory.plan, memory.best, memory.since = plan, score, 0
        memory.ended = memory.best > self.enough
