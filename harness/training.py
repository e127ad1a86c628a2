"""How a method wants weights trained: the half of the contract (`harness.method`) that decoding never asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from harness.method import Method


@dataclass(frozen=True)
class Moment:
    """Where a training stands: optimiser step `step` (0-based) of `steps`."""

    step: int
    steps: int


class Model(Protocol):
    """What a loss may know of the model being trained."""

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        ...

    @property
    def output_matrix(self) -> torch.Tensor:
        """Weight of the output projection [V, D]."""
        ...

    def head(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """Final norm and output projection, or another matrix in its place: [..., D] to logits [..., V]."""
        ...


class TrainingPass(Protocol):
    """A differentiable teacher-forced pass with its labels: what `TrainingStage.loss` is given (`harness.train`)."""

    @property
    def decoder(self) -> Model:
        """The model being trained."""
        ...

    @property
    def extras(self) -> Mapping[str, torch.Tensor]:
        """Extra tensors being trained, by name."""
        ...

    @property
    def moment(self) -> Moment:
        """Where the training stands."""
        ...

    def states(self, layer: int | None = None) -> torch.Tensor:
        """States [R, D] that predict the R real labels: after block `layer`, or the final ones."""
        ...

    def loss_at(self, layer: int | None = None, output: torch.Tensor | None = None) -> torch.Tensor:
        """Mean cross-entropy of the real labels, predicted from the state after block `layer` by the model's own head.

        `output` is a matrix to stand in the place of the head's.
        """
        ...

    def final_loss(self) -> torch.Tensor:
        """Mean cross-entropy after the last block."""
        ...

    def draft_loss(self, blocks: int, window: int) -> torch.Tensor:
        """Mean cross-entropy of drafts by the last `blocks` blocks on raw embeddings, in windows of `window` tokens.

        A column of a continuation looks at the full model's keys and values of the prompt and of all windows before its own, and at
        its window's own. Needs `keep_blocks`. The first label of a continuation is not drafted.
        """
        ...


@dataclass(frozen=True)
class TrainingStage:
    """One stage of training: what is learnt and from which loss.

    Attributes:
        name: stage name, as it appears in a recipe's `steps`.
        loss: scalar loss of one teacher-forced pass.
        extras: shapes of extra tensors this stage creates and trains, by name; the model is frozen when there are any.
        begin: the same tensors with the values they begin with, made of the model, in place of `extras` and its zeros.
        keep_blocks: the loss needs the state after every block, not only the last.
        dropout: given the moment and the depth L, for each block the probability that a prompt and its continuations leave it
            out [L]; None: all blocks run.
    """

    name: str
    loss: Callable[[TrainingPass], torch.Tensor]
    extras: Callable[[int], Mapping[str, tuple[int, ...]]] | None = None
    begin: Callable[[Model], Mapping[str, torch.Tensor]] | None = None
    keep_blocks: bool = False
    dropout: Callable[[Moment, int], Sequence[float]] | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """How a method wants weights trained: its stages, and the method each batch is run under.

    Attributes:
        stages: in order.
        draw: given the batch's own random generator, the method under which its positions run (None: full depth).
        configure: the plan for the `options` of a recipe, refused with BadInput where they do not fit; None: it takes none.
    """

    stages: tuple[TrainingStage, ...]
    draw: Callable[[random.Random], Method] | None = None
    configure: Callable[[Mapping[str, Any]], TrainingPlan] | None = None
