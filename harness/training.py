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


class Model(Protocol):
    """What a loss may know of the model being trained."""

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        ...

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Final norm and output projection: [..., D] to logits [..., V]."""
        ...


@dataclass(frozen=True)
class Asked:
    """A gate's answer about a sublayer, in a training pass: Q positions, those of prompts first where they were asked.

    Attributes:
        layer: the sublayer's block, 0-based.
        sublayer: `attention` or `feed`.
        runs: bool [Q].
        openness: what the gate left beside it, [Q] or [Q, D], differentiable; None: nothing.
    """

    layer: int
    sublayer: str
    runs: torch.Tensor
    openness: torch.Tensor | None


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

    def loss_at(self, layer: int | None = None) -> torch.Tensor:
        """Mean cross-entropy of the real labels, predicted by the model's own head from the state after block `layer`."""
        ...

    def final_loss(self) -> torch.Tensor:
        """Mean cross-entropy after the last block."""
        ...


@dataclass(frozen=True)
class TrainingStage:
    """One stage of training: what is learnt and from which loss.

    Attributes:
        name: stage name, as it appears in a recipe's `steps`.
        loss: scalar loss of one teacher-forced pass.
        extras: extra tensors this stage creates and trains, by name: the shape of one that begins with zeros, or the tensor it
            begins with. The model is frozen when there are any, unless `frozen` says otherwise.
        keep_blocks: the loss needs the state after every block, not only the last.
        dropout: given the moment and the depth L, for each block the probability that a prompt and its continuations leave it
            out [L]; None: all blocks run.
        inside: the extras take part in the pass (a gate's networks), which gradients therefore go through; False: the loss alone
            uses them, on the states of a pass without gradients.
        frozen: with extras, whether the model's own weights stay as they are (adapters from the recipe's `lora` too).
    """

    name: str
    loss: Callable[[TrainingPass], torch.Tensor]
    extras: Callable[[Sizes], Mapping[str, tuple[int, ...] | torch.Tensor]] | None = None
    keep_blocks: bool = False
    dropout: Callable[[Moment, int], Sequence[float]] | None = None
    inside: bool = False
    frozen: bool = True


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
