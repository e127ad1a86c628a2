"""KnapSpec: which sublayers draft is a knapsack: as little weight as possible for as little change of the newest token's states.

Paper: "KnapSpec", ICML 2026, arXiv:2602.20217. The rule is that of the authors' code (kaist-flexml-lab/knapspec at 8eef1a2).

Rule. As CLaSp's dynamic programme, over all 2 L sublayers and for all skipped weights up to half of the total at once: a
feed-forward sublayer weighs 1, attention `attention_weight` (the code profiles round(t_attention / t_feed) once and clips it
to 5); states whose cosine with the full model's falls below `floor` are dropped; the first and the last block always draft.
Every weight gives one set; a is the share of the last `window` tokens that the set drafts right, in one parallel pass each.
The set with the most tokens per time drafts until the next time: (1 - a^(d+1)) / (1 - a) / (d t_draft + t_full), d =
`draft_tokens`. Every `every` rounds, the first time after the first verification; before it every other block between the
first and the last is skipped (the code's start was not read).

Deviations. t_draft and t_full are the sublayers' weights, K/V lengths and head left out. Where sublayers stand side by side,
a state of the programme is both what a feed-forward sublayer reads and what it is added to. A batch has one set: cosines and
shares are means over its rows.

Cost: about 2 L x weights sublayer runs of one token and a pass over `window` tokens per weight, every time; drafts that are
rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.method import Draft, Start, Verification
from harness.plan import LayerPlan
from harness.sublayers import blocks, without


@dataclass
class _Set:
    """What drafts now, and the verifications so far."""

    plan: LayerPlan
    rounds: int = 0


@dataclass(frozen=True)
class _Path:
    """A state of the programme [B, D], and what was skipped on the way to it."""

    state: torch.Tensor
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True)
class KnapSpec(Draft):
    """Drafts without a set of sublayers found by dynamic programming.

    Parameters:
        draft_tokens: tokens drafted per step at most, d.
        threshold: probability below which a draft ends, 0 to 1.
        every: verifications from one set to the next.
        attention_weight: what attention weighs in feed-forward sublayers, 1 to 5.
        window: known tokens a set is judged on.
        floor: least cosine of a state, -1 to 1.
    """

    name: ClassVar[str] = "knapspec"
    title: ClassVar[str] = "KnapSpec"
    paper: ClassVar[str] = "KnapSpec 2026, arXiv:2602.20217"

    draft_tokens: int = 10
    threshold: float = 0.7
    every: int = 64
    attention_weight: int = 1
    window: int = 16
    floor: float = 0.5

    def __post_init__(self) -> None:
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("threshold", 0 <= self.threshold <= 1, "0 to 1")
        self._require("every", self.every >= 1, "1 or more")
        self._require("attention_weight", 1 <= self.attention_weight <= 5, "1 to 5")
        self._require("window", self.window >= 1, "1 or more")
        self._require("floor", -1 <= self.floor <= 1, "-1 to 1")

    @override
    def begin(self, start: Start) -> _Set:
        return _Set(without(blocks(range(1, start.depth - 1, 2)), start.depth))

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
        total = depth * (1 + self.attention_weight)
        best = 0.0
        for weight, path in self._paths(seen, depth).items():
            if not weight:
                continue
            plan = without(path.skipped, depth)
            agreed = seen.try_plan(plan, min(self.window, seen.known))
            a = min(float(agreed.double().mean()), 0.9999)
            tokens = (1 - a ** (self.draft_tokens + 1)) / (1 - a)
            worth = tokens / (self.draft_tokens * (total - weight) + total)
            if worth > best:
                best, memory.plan = worth, plan

    def _paths(self, seen: Verification, depth: int) -> dict[int, _Path]:
        """For every skipped weight the way up that keeps the state best."""
        rows = torch.arange(seen.agreed.shape[0], device=seen.agreed.device)
        true = [state[rows, seen.agreed] for state in seen.states]
        most = depth * (1 + self.attention_weight) // 2
        paths = {0: _Path(true[0])}
        for sublayer in range(2 * depth):
            layer, kind = sublayer // 2, ("attention", "feed")[sublayer % 2]
            weights = sorted(paths)
            ran = seen.branch(layer, kind, torch.stack([paths[w].state for w in weights], dim=1))
            reached: dict[int, list[_Path]] = {}
            for place, weight in enumerate(weights):
                reached.setdefault(weight, []).append(_Path(ran[:, place], paths[weight].skipped))
                more = weight + (self.attention_weight if kind == "attention" else 1)
                if 0 < layer < depth - 1 and more <= most:
                    kept = _Path(paths[weight].state, (*paths[weight].skipped, sublayer))
                    reached.setdefault(more, []).append(kept)
            paths = self._best(reached, true[sublayer + 1])
        return paths

    def _best(self, reached: Mapping[int, list[_Path]], true: torch.Tensor) -> dict[int, _Path]:
        """Of the ways with each weight the one closest to the full model's state [B, D], where it is close enough."""
        every = [(weight, path) for weight, paths in reached.items() for path in paths]
        states = torch.stack([path.state for _, path in every]).float()
        cosines = torch.nn.functional.cosine_similarity(states, true.float().unsqueeze(0), dim=-1).mean(1).tolist()
        found: dict[int, tuple[float, _Path]] = {}
        for (weight, path), cosine in zip(every, cosines, strict=True):
            close = cosine >= self.floor or not path.skipped
            if close and (weight not in found or cosine > found[weight][0]):
                found[weight] = cosine, path
        return {weight: path for weight, (_, path) in found.items()}
