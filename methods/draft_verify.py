"""Draft & Verify: the model drafts without a fixed set of its sublayers, as long as it is sure enough.

Paper: Zhang, Wang, Li, Shou, Chen, Chen, Mehrotra, "Draft & Verify: Lossless Large Language Model Acceleration via Self-Speculative
Decoding", ACL 2024, arXiv:2309.08168. The rule is that of the authors' code (dilab-zju/self-speculative-decoding at 688db8b).

Rule. A draft ends after `draft_tokens`, or with a token whose probability is below the threshold (that token stays in the
draft). With `adaptive`, every verification moves the threshold th by the share of drafted tokens that agreed: m <- m/2 +
share/2; th' is th + 0.01 where m < 0.9, th where the draft was full, else th - 0.01; th <- 0.9 th + 0.1 th'.

Search (`depthbench profile`). The paper optimises measured tokens per second over vectors of 2 L bits with 1000 steps of
Bayesian optimisation. Here `tries` sets are scored by agreement and weights read: (1 - a^(d+1)) / (1 - a) tokens for d c + 1
steps, a the share of tokens that the set drafts as the full model does, c its share of a step's weights, the head included;
the better half of the tries change a few bits of the best set so far, the others are drawn anew. No sublayer is protected, as
in the paper.

Deviations. The search as said; m begins at 0 (the code's start was not read). Rows of a batch have a threshold each and are
drafted as far as the longest of them. Chains only. The code carries the threshold from prompt to prompt; here every
generation begins at `threshold`, so order does not count.

Cost: drafts that are rejected, a vocabulary projection for each drafted token.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Draft, Start, Verification
from harness.plan import LayerPlan
from harness.profiling import Profile
from harness.state import largest_probability
from harness.sublayers import read, without, written


@dataclass
class _Thresholds:
    """Of every row [B]: the threshold, and how well drafts have agreed."""

    threshold: torch.Tensor
    agreed: torch.Tensor


@dataclass(frozen=True)
class DraftVerify(Draft):
    """Drafts without some sublayers.

    Parameters:
        skip: sublayers that do not draft (`harness.sublayers`), e.g. `a3_f5_b7`; empty: none was found yet.
        draft_tokens: tokens drafted per step at most, d.
        threshold: probability below which a draft ends, 0 to 1; 0 always drafts d.
        adaptive: the threshold moves with what is accepted.
        tries: sets that a profile scores.
        seed: of their draw.
    """

    name: ClassVar[str] = "draft_verify"
    title: ClassVar[str] = "Draft & Verify"
    paper: ClassVar[str] = "Zhang et al. 2024, arXiv:2309.08168"

    skip: str = ""
    draft_tokens: int = 8
    threshold: float = 0.6
    adaptive: bool = True
    tries: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")
        self._require("tries", self.tries >= 1, "1 or more")
        read(self.skip)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> DraftVerify:
        if not self.skip:
            raise BadInput("draft_verify: no set of sublayers; run `depthbench profile draft_verify` or give skip")
        _planned(self.skip, depth)
        return self

    @override
    def profile(self, profile: Profile) -> DraftVerify:
        depth, draw = profile.depth, random.Random(self.seed)
        cost = [profile.sublayer_cost(kind) for _ in range(depth) for kind in ("attention", "feed")]
        best, most = frozenset[int](), 0.0
        for attempt in range(self.tries):
            if attempt < self.tries // 2 or not best:
                share = draw.uniform(0.2, 0.7)
                tried = frozenset(i for i in range(2 * depth) if draw.random() < share)
            else:
                tried = best ^ frozenset(draw.sample(range(2 * depth), draw.randint(1, 3)))
            if not tried:
                continue
            a = min(profile.agreement(without(tried, depth)), 0.9999)
            drafted = (1 - a ** (self.draft_tokens + 1)) / (1 - a)
            worth = drafted / (self.draft_tokens * (1 - sum(cost[i] for i in tried)) + 1)
            if worth > most:
                best, most = tried, worth
        return replace(self, skip=written(best))

    @override
    def begin(self, start: Start) -> _Thresholds:
        rows = start.lengths.shape[0]
        device = start.prompts.device
        return _Thresholds(torch.full((rows,), self.threshold, device=device), torch.zeros(rows, device=device))

    @override
    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        return _planned(self.skip, depth)

    @override
    def goes_on(self, logits: torch.Tensor, memory: Any) -> torch.Tensor | None:
        if not self.threshold and not self.adaptive:
            return None
        threshold: torch.Tensor = memory.threshold
        return largest_probability(logits) >= threshold

    @override
    def verified(self, seen: Verification, memory: Any) -> None:
        if not self.adaptive:
            return
        share = seen.agreed / seen.drafted.clamp_min(1)
        memory.agreed = torch.where(seen.drafted > 0, (memory.agreed + share) / 2, memory.agreed)
        down = torch.where(seen.drafted >= self.draft_tokens, 0.0, -0.01)
        wanted = memory.threshold + torch.where(memory.agreed < 0.9, 0.01, down)
        memory.threshold = 0.9 * memory.threshold + 0.1 * wanted


@lru_cache(maxsize=64)
def _planned(skip: str, depth: int) -> LayerPlan:
    return without(read(skip), depth)
