"""DEL: exit and length of the draft are chosen anew in every round from how often each exit has been right.

Paper: Entezari Zarch, Gao, Jiang, Annavaram, "DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative Decoding",
COLM 2025, arXiv:2504.05598. The authors' code could not be read beyond its README; the rule is that of a competitor's
re-implementation (kaist-flexml-lab/knapspec at 8eef1a2).

Rule. For every exit E (the first E blocks, then the model's own final norm and head) a_E is an exponential average (`decay`)
of its agreement with the full model on the verified columns up to the first miss. A round drafts d tokens with E blocks, the
pair with the largest sum_{k=0..d} a_E^k / (d E + L), d at most `draft_tokens`. Inside a round a draft ends with a token whose
probability is below the mean of two averages: those of E's probabilities where it was right, and where it was wrong.

Deviations. The averages begin without the last 32 tokens of the prompt, on the first verification: until then the middle exit
drafts `draft_tokens` / 2 tokens. The step is counted in blocks as in the rule, heads left out; they are charged. A batch has
one exit, its averages are over all rows.

Cost: (L - 1) vocabulary projections per verified column, every `every` rounds; drafts that are rejected; one projection per
drafted token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.method import Draft, Start, Verification
from harness.plan import LayerPlan
from harness.state import largest_probability


@dataclass
class _Averages:
    """Of every exit 1 .. L-1, each [L - 1]: agreement, probability where right and where wrong; and what the next round does."""

    agreement: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor
    exit_layer: int
    length: int
    known: bool = False
    rounds: int = 0
    drafted: int = 0


@dataclass(frozen=True)
class DEL(Draft):
    """Drafts with the first blocks, as many as pay best.

    Parameters:
        draft_tokens: tokens drafted per step at most.
        decay: weight of the past in the averages, 0 to below 1.
        every: rounds from one look at all exits to the next.
    """

    name: ClassVar[str] = "del_exit"
    title: ClassVar[str] = "DEL"
    paper: ClassVar[str] = "Entezari Zarch et al. 2025, arXiv:2504.05598"
    needs_training: ClassVar[bool] = True

    draft_tokens: int = 17
    decay: float = 0.95
    every: int = 1

    def __post_init__(self) -> None:
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")
        self._require("decay", 0 <= self.decay < 1, "0 to below 1")
        self._require("every", self.every >= 1, "1 or more")

    @override
    def begin(self, start: Start) -> _Averages:
        zeros = torch.zeros(start.depth - 1)
        return _Averages(zeros, zeros.clone(), zeros.clone(), max(1, start.depth // 2), max(1, self.draft_tokens // 2))

    @override
    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        memory.drafted = 0
        return LayerPlan.of(range(memory.exit_layer), depth)

    @override
    def goes_on(self, logits: torch.Tensor, memory: Any) -> torch.Tensor | None:
        memory.drafted += 1
        if memory.drafted >= memory.length:
            return torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
        if not memory.known:
            return None
        place = memory.exit_layer - 1
        return largest_probability(logits) >= float(memory.right[place] + memory.wrong[place]) / 2

    @override
    def keeps_states(self, memory: Any) -> bool:
        return bool(memory.rounds % self.every == 0)

    @override
    def verified(self, seen: Verification, memory: Any) -> None:
        memory.rounds += 1
        if not seen.states:
            return
        depth = (len(seen.states) - 1) // 2
        columns = torch.arange(seen.tokens.shape[1], device=seen.tokens.device)
        counted = columns <= seen.agreed.unsqueeze(1)
        wanted = seen.chosen[counted]
        weight = self.decay if memory.known else 0.0
        for exit_layer in range(1, depth):
            logits = seen.heads(seen.states[2 * exit_layer][counted])
            sure = largest_probability(logits)
            same = logits.argmax(-1) == wanted
            place = exit_layer - 1
            memory.agreement[place] = weight * memory.agreement[place] + (1 - weight) * float(same.float().mean())
            for average, where in ((memory.right, same), (memory.wrong, ~same)):
                if bool(where.any()):
                    average[place] = weight * average[place] + (1 - weight) * float(sure[where].mean())
        memory.known = True
        memory.exit_layer, memory.length = best_round(memory.agreement.tolist(), depth, self.draft_tokens)


def best_round(agreement: list[float], depth: int, most: int) -> tuple[int, int]:
    """The exit and the length of the draft with the most tokens per block run."""
    found = (1, 1)
    best = 0.0
    for exit_layer, a in enumerate(agreement, start=1):
        tokens = 1.0
        for length in range(1, most + 1):
            tokens += a**length
            if tokens / (length * exit_layer + depth) > best:
                best, found = tokens / (length * exit_layer + depth), (exit_layer, length)
    return found
