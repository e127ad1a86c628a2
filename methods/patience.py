"""Patience: a row leaves when several blocks in a row predict the same token.

Paper: Zhou, Xu, Ge, McAuley, Xu, Wei, "BERT Loses Patience: Fast and Robust Inference with Early Exit" (PABEE), NeurIPS 2020,
arXiv:2006.04152; for decoders as the counter of equal predictions that GateSkip's authors compare with
(github.com/Thiggel/GateSkip).

Rule. From block `first` on every block's state is read by the model's own final norm and head. A row leaves after the block
at which `patience` comparisons in a row found the same token as the block before. Missing K/V: each block above projects its
own from the exit state.

Deviations. PABEE is for classifiers with a head per block, trained together; here the model's own head reads every block,
untrained. In a batch every row counts for itself.

Cost: a vocabulary projection after every tested block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from typing_extensions import override

from harness.method import Exit
from harness.state import GateState

_TOKEN, _EQUAL = "token", "equal in a row"


@dataclass(frozen=True)
class Patience(Exit):
    """Exit after equal predictions.

    Parameters:
        patience: equal predictions in a row that suffice, 1 or more; as many as there are blocks never leaves.
        first: block whose prediction is the first one, counted from 1.
    """

    name: ClassVar[str] = "patience"
    title: ClassVar[str] = "Patience"
    paper: ClassVar[str] = "Zhou et al. 2020, arXiv:2006.04152"
    needs_training: ClassVar[bool] = True

    patience: int = 3
    first: int = 1

    def __post_init__(self) -> None:
        self._require("patience", self.patience >= 1, "1 or more")
        self._require("first", self.first >= 1, "1 or more")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> Patience:
        self._require("first", self.first <= depth, f"at most the model's {depth} blocks")
        return self

    @override
    def no_skip(self, depth: int) -> Patience:
        return replace(self, patience=depth)

    @override
    def candidates(self, depth: int) -> list[Patience]:
        """From all blocks down to one."""
        return [replace(self, patience=count) for count in range(depth - 1, 0, -1)]

    @override
    def tests(self, layer: int, depth: int) -> bool:
        """Nowhere when no row could leave before the last block."""
        return self.first - 1 <= layer < depth - 1 and self.first + self.patience < depth

    @override
    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        token = state.logits(hidden).argmax(-1)
        equal = torch.zeros_like(token)
        if _TOKEN in state.scratch:
            equal = torch.where(token == state.scratch[_TOKEN], state.scratch[_EQUAL] + 1, 0)
        state.scratch = {_TOKEN: token, _EQUAL: equal}
        return equal >= self.patience
