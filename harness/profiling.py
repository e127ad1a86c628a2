"""What a training-free method may ask of data before it runs (`Method.profile`): the contract's half of `depthbench profile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from harness.plan import LayerPlan

if TYPE_CHECKING:
    from harness.method import Gate


@dataclass(frozen=True)
class Statistics:
    """How much each sublayer and block changes the state, over the tokens of all windows; 2 L sublayers, L blocks.

    Attributes:
        cosine: mean cosine of the state before and after each sublayer, its residual included [2 L].
        ratio: norm of the state after over the norm before, of a window's whole tensor, mean over windows [2 L].
        block_cosine: mean cosine of the state before and after each block [L].
    """

    cosine: torch.Tensor
    ratio: torch.Tensor
    block_cosine: torch.Tensor


class Profile(Protocol):
    """Data for profiling, on a model; everything asked of it is counted and kept, so that nothing is computed twice."""

    @property
    def depth(self) -> int:
        """Blocks of the model, L."""
        ...

    def loss(self, plan: LayerPlan) -> float:
        """Mean negative log-likelihood in nats of the windows' tokens (each window's first left out), all under a plan."""
        ...

    def score(self, plan: LayerPlan) -> float:
        """The task's metric of outputs generated with prompt and tokens under a plan; higher is better."""
        ...

    def agreement(self, plan: LayerPlan) -> float:
        """Share of the windows' tokens that the plan's sublayers draft as the full model does, on the full model's K/V."""
        ...

    def statistics(self) -> Statistics:
        """What the full model does to the state over the windows."""
        ...

    def predictions(self, layers: Iterable[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For blocks and some tokens at a time: logits [R, V] read there by the model's head, and tokens [R] of its last block."""
        ...

    def openness(self, gate: Gate) -> Mapping[tuple[int, str], torch.Tensor]:
        """What a gate left as its openness at every block and sublayer, [Q] or [Q, D] over the tokens of all windows."""
        ...

    def sensitivity(self) -> torch.Tensor:
        """Sum over a block's weights of |w dL/dw|, L the mean loss over the windows [L]."""
        ...

    def sublayer_cost(self, sublayer: str) -> float:
        """Bytes of weights that `attention` or `feed` reads, as a share of a whole step of the model, its head included."""
        ...
