"""LayerSkip's self-speculative decoding: the first E blocks draft, the others verify.

Paper: Elhoushi, Shrivastava, Liskovich, Hosmer, Wasti, Lai, Mahmoud, Acun, Agarwal, Roman, Aly, Chen, Wu, "LayerSkip: Enabling
Early Exit Inference and Self-Speculative Decoding", ACL 2024, arXiv:2404.16710, Section 4.3.

Idea. A step drafts d tokens one by one with the first E blocks and the model's own final norm and head, then runs blocks E..L-1
over all of them at once. The tokens up to the first disagreement, and the full model's token there, are the output: exactly the
full model's. Draft and verification share one K/V cache, and the verification continues from the draft's states after block E
(the paper's exit query cache), so the first E blocks run once per token.

Deviations. Batches: every row accepts as many tokens as agree, so rows progress raggedly; a step's draft is as long for all. The
draft does not run past what is left to generate. The paper's code is for one row.

Training. The paper's recipe (layer dropout and an early-exit loss on all layers) makes early drafts good; weights trained for
early exits in another way serve too, any weights give the right output.

Cost: the drafted tokens that are rejected, and a vocabulary projection for each drafted token beside those of the verification.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from harness.method import Draft
from harness.plan import LayerPlan


@dataclass(frozen=True)
class LayerSkip(Draft):
    """Self-speculative decoding.

    Parameters:
        exit_layer: blocks that draft, E; None: a third of the model's.
        draft_tokens: tokens drafted per step, d.
    """

    name: ClassVar[str] = "layerskip"
    title: ClassVar[str] = "LayerSkip"
    paper: ClassVar[str] = "Elhoushi et al. 2024, arXiv:2404.16710"
    needs_training: ClassVar[bool] = True

    exit_layer: int | None = None
    draft_tokens: int = 6

    def __post_init__(self) -> None:
        self._require("exit_layer", self.exit_layer is None or self.exit_layer >= 1, "1 or more")
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")

    def blocks(self, depth: int) -> int:
        """Blocks that draft in a model of `depth` blocks."""
        return max(1, depth // 3) if self.exit_layer is None else self.exit_layer

    def resolve(self, depth: int, extras: Any) -> LayerSkip:
        """See `Method.resolve`."""
        self._require(
            "exit_layer", self.blocks(depth) < depth, f"at most {depth - 1}: the last of {depth} blocks must verify"
        )
        return self

    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        """See `Method.settings`."""
        return {**self.params, "exit_layer": self.blocks(depth)}

    def candidates(self, depth: int) -> list[LayerSkip]:
        """See `Method.candidates`: drafts from an eighth to half of the blocks, 2 to 8 tokens long."""
        exits = sorted({max(1, round(depth / share)) for share in (2, 3, 4, 6, 8)} & set(range(1, depth)), reverse=True)
        return [replace(self, exit_layer=e, draft_tokens=d) for e in exits for d in (2, 4, 6, 8)]

    def draft_plan(self, depth: int) -> LayerPlan:
        """See `Draft.draft_plan`."""
        return LayerPlan.of(range(self.blocks(depth)), depth)
