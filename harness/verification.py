"""What a draft may learn from: the half of its contract (`harness.method.Draft`) that the engine fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from harness.plan import LayerPlan


class Verification(Protocol):
    """What a draft may learn from a verification: T columns of B rows, the newest token and what was drafted after it.

    What is computed through it is charged to the method: it is part of the step, and counted apart from drafting.
    """

    tokens: torch.Tensor
    """[B, T] ids of the columns."""
    logits: torch.Tensor
    """[B, T, V] of the full model."""
    chosen: torch.Tensor
    """[B, T]: the full model's token after each column."""
    drafted: torch.Tensor
    """Tokens drafted for each row [B], on the CPU."""
    states: Sequence[torch.Tensor]
    """[B, T, D] before the first sublayer and after each of the 2 L sublayers, where `keeps_states` asked for them."""

    @property
    def agreed(self) -> torch.Tensor:
        """How many drafts the full model agreed with [B]; the column of this number is the one the newest token came from."""
        ...

    @property
    def known(self) -> int:
        """Tokens that every row has generated at least: how far back `try_plan` can go."""
        ...

    def try_plan(self, plan: LayerPlan, columns: int) -> torch.Tensor:
        """Whether the sublayers of `plan` would have drafted each of the last `columns` tokens of a row, bool [B, columns].

        One pass over known tokens: K/V before them is the full model's, their own is the plan's and thrown away.
        """
        ...

    def branch(self, layer: int, sublayer: str, x: torch.Tensor, entry: torch.Tensor | None = None) -> torch.Tensor:
        """A sublayer of block `layer` over K states x [B, K, D], each standing alone in the column of the last draft that agreed.

        `entry` is the block's input, which a feed-forward sublayer beside its attention reads; None: x.
        """
        ...

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of states [..., D] through the model's final norm and head."""
        ...
