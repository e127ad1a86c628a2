"""How a method wants weights trained: the half of the contract (`harness.method`) that decoding never asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from harness.parameters import typed

if TYPE_CHECKING:
    from harness.method import Method


@dataclass(frozen=True)
class Moment:
    """Where a training stands: optimiser step `step` (0-based) of `steps`."""

    step: int
    steps: int


class Sizes(Protocol):
    """What the shapes of extra tensors may depend on."""

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        ...

    @property
    def width(self) -> int:
        """Hidden size, D."""
        ...

    @property
    def feed_weights(self) -> int:
        """Elements of the feed-forward matrices of one block."""
        ...


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


@dataclass(frozen=True)
class Asked:
    """A gate's answer about a sublayer, in a training pass: Q positions, those of prompts first where they were asked.

    Attributes:
        layer: the sublayer's block, 0-based.
        sublayer: `attention` or `feed`.
        runs: bool [Q].
        openness: what the gate left beside it, [Q] or [Q, D], differentiable; None: nothing.
        aside: what the gate left for the loss alone.
    """

    layer: int
    sublayer: str
    runs: torch.Tensor
    openness: torch.Tensor | None
    aside: torch.Tensor | None = None

    @property
    def taken(self) -> torch.Tensor:
        """1 where the sublayer ran and 0 where not [Q], with the gradient of an openness [Q]: straight through."""
        runs = self.runs.float()
        return runs if self.openness is None else runs + (self.openness - self.openness.detach())


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

    @property
    def gates(self) -> Sequence[Asked]:
        """What a gate was asked in this pass, in order; empty under other methods. Padding was not asked about."""
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
        extras: extra tensors this stage creates and trains, by name: the shape of one that begins with zeros, or the tensor it
            begins with. The model is frozen when there are any, unless `frozen` says otherwise.
        begin: the same tensors with the values they begin with, made of the model, in place of `extras`.
        keep_blocks: the loss needs the state after every block, not only the last.
        dropout: given the moment and the depth L, for each block the probability that a prompt and its continuations leave it
            out [L]; None: all blocks run.
        inside: the extras take part in the pass (a gate's networks), which gradients therefore go through; False: the loss alone
            uses them, on the states of a pass without gradients.
        frozen: with extras, whether the model's own weights stay as they are (adapters from the recipe's `lora` too).
        draw: of this stage, in place of the plan's.
    """

    name: str
    loss: Callable[[TrainingPass], torch.Tensor]
    extras: Callable[[Sizes], Mapping[str, tuple[int, ...] | torch.Tensor]] | None = None
    begin: Callable[[Model], Mapping[str, torch.Tensor]] | None = None
    keep_blocks: bool = False
    dropout: Callable[[Moment, int], Sequence[float]] | None = None
    inside: bool = False
    frozen: bool = True
    draw: Callable[[random.Random, Moment], Method] | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """How a method wants weights trained: its stages, and the method each batch is run under.

    Attributes:
        stages: in order.
        draw: given the batch's own random generator and the moment, the method under which its positions run (None: full depth).
        configure: the plan for the `options` of a recipe, refused with BadInput where they do not fit; None: it takes none.
    """

    stages: tuple[TrainingStage, ...]
    draw: Callable[[random.Random, Moment], Method] | None = None
    configure: Callable[[Mapping[str, Any]], TrainingPlan] | None = None


T = TypeVar("T")


def configured(kind: type[T], called: str, options: Mapping[str, Any]) -> T:
    """A method's training options, a dataclass, from a recipe's; BadInput where one is not known or of another type."""
    return kind(**typed(kind, f"{called}: options", options))


def gumbel(logits: torch.Tensor) -> torch.Tensor:
    """Logits with Gumbel noise, so that the largest is a draw from their softmax; without gradients (validation) as they are."""
    if not torch.is_grad_enabled():
        return logits
    return logits - torch.empty_like(logits).exponential_().log()


def uniform(shape: tuple[int, ...], bound: float) -> torch.Tensor:
    """What a trained tensor begins with: uniform in [-bound, bound]."""
    return torch.empty(shape).uniform_(-bound, bound)
