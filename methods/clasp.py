"""CLaSp: after a verification a dynamic programme finds the blocks whose absence leaves the newest token's states as they are.

Paper: Chen et al., "CLaSp: In-Context Layer Skip for Self-Speculative Decoding", ACL 2025, arXiv:2505.24196. Neither the
paper's rule nor its code was read beyond the abstract; the rule is that of a competitor's re-implementation
(kaist-flexml-lab/knapspec at 8eef1a2).

Rule. g[i][j] is the state of the last verified token after i blocks of which j are skipped: block i over g[i-1][j], or
g[i-1][j-1] as it is, whichever has the larger cosine with the full model's state after i blocks. From g[L][skips] the choices
are read back; those blocks do not draft until the next time. Drafts end after `draft_tokens` or with a token whose
probability is below `threshold`.

Deviations. The abstract optimises after every verification, the re-implementation every 64 rounds: `every` says which. Until
the first time evenly spaced blocks are skipped (not known). A batch has one set: cosines are means over its rows.

Cost: about L x skips block runs of one token each time, in L passes; drafts that are rejected; a vocabulary projection per
drafted token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.method import Draft, Start, Verification
from harness.plan import LayerPlan


@dataclass
class _Set:
    """What drafts now, and the verifications since a set was found."""

    plan: LayerPlan
    rounds: int = 0


@dataclass(frozen=True)
class CLaSp(Draft):
    """Drafts without the blocks that the newest token does not miss.

    Parameters:
        skips: blocks that do not draft, M.
        draft_tokens: tokens drafted per step at most.
        threshold: probability below which a draft ends, 0 to 1.
        every: verifications from one set to the next.
    """

    name: ClassVar[str] = "clasp"
    title: ClassVar[str] = "CLaSp"
    paper: ClassVar[str] = "Chen et al. 2025, arXiv:2505.24196"

    skips: int = 8
    draft_tokens: int = 10
    threshold: float = 0.7
    every: int = 1

    def __post_init__(self) -> None:
        self._require("skips", self.skips >= 1, "1 or more")
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")
        self._require("every", self.every >= 1, "1 or more")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> CLaSp:
        self._require("skips", self.skips < depth, f"below the model's {depth} blocks")
        return self

    @override
    def begin(self, start: Start) -> _Set:
        spaced = {round((i + 0.5) * start.depth / self.skips - 0.5) for i in range(self.skips)}
        return _Set(LayerPlan.of(set(range(start.depth)) - spaced, start.depth))

    @override
    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        plan: LayerPlan = memory.plan
        return plan

    @override
    def keeps_states(self, memory: Any) -> bool:
        return bool(memory.rounds % self.every == 0)

    @override
    def verified(self, seen: Verification, memory: Any) -> None:
        memory.rounds += 1
        if not seen.states:
            return
        depth = (len(seen.states) - 1) // 2
        rows = torch.arange(seen.agreed.shape[0], device=seen.agreed.device)
        true = [state[rows, seen.agreed] for state in seen.states[::2]]
        states = true[0].unsqueeze(1)  # [B, K, D], K = skips so far at most, one more for none
        skipped: list[list[bool]] = []
        for layer in range(depth):
            ran = seen.branch(layer, "feed", seen.branch(layer, "attention", states), states)
            states, choices = _better(ran, states, true[layer + 1], self.skips)
            skipped.append(choices)
        memory.plan = LayerPlan.of(_read_back(skipped, self.skips), depth)


def _better(ran: torch.Tensor, kept: torch.Tensor, true: torch.Tensor, most: int) -> tuple[torch.Tensor, list[bool]]:
    """For each number of skips j the better of running on j [B, K, D] and keeping j - 1, and whether that is keeping."""
    cosine = torch.nn.functional.cosine_similarity
    by_running, by_keeping = (cosine(t.float(), true.float().unsqueeze(1), dim=-1).mean(0) for t in (ran, kept))
    states, choices = [], []
    for j in range(min(ran.shape[1], most) + 1):
        runs = float(by_running[j]) if j < ran.shape[1] else float("-inf")
        keeps = float(by_keeping[j - 1]) if j else float("-inf")
        choices.append(keeps > runs)
        states.append(kept[:, j - 1] if keeps > runs else ran[:, j])
    return torch.stack(states, dim=1), choices


def _read_back(skipped: list[list[bool]], skips: int) -> list[int]:
    """The blocks that run, from the choices of every block."""
    found = []
    for layer in reversed(range(len(skipped))):
        if skipped[layer][skips]:
            skips -= 1
        else:
            found.append(layer)
    return found
