"""The contract every depth-adaptive decoding method implements.

A method is a frozen dataclass: its fields are its parameters, `str(method)` rebuilds it, and nothing about it lives in the
engine or the runner. It says which sublayers run; the engine runs them, counts them and times nothing itself.

Three families, in rising order of freedom:

1. `Schedule`: the plan of a step is known before the step, the same for every row.
2. `Exit`: rows stop one by one while the blocks go by; the exited state is propagated to the K/V of the blocks above.
3. `Draft`: drafts tokens under a plan; the engine verifies them with the full model, so the output is the full model's.
"""

from __future__ import annotations

import dataclasses
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.plan import LayerPlan, Step


@dataclass(frozen=True)
class Method(ABC):
    """What the engine, the runner and the reports need to know of a method.

    Class attributes a method declares:
        name: the registered name, equal to its file's name.
        paper: citation and link.
        family: `schedule`, `exit` or `draft`.
        exact: the greedy tokens equal the full model's.
        needs_training: the published method expects weights trained for it.
        skipped_kv: what happens to the K/V of blocks a position did not run.
        decisions: functions by which a family decides while a step runs; their time is that of exit tests.
        cannot_score: why `score` cannot compute given tokens as this method would when decoding; empty where it can.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[str]
    exact: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False
    skipped_kv: ClassVar[str]
    decisions: ClassVar[tuple[str, ...]] = ()
    cannot_score: ClassVar[str] = ""

    def __str__(self) -> str:
        given = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        inside = ", ".join(f"{name}={value}" for name, value, default in given if value != default)
        return f"{self.name}({inside})" if inside else self.name

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def no_skip(self, depth: int) -> Method | None:
        """The same method at the setting that must equal the full model of `depth` blocks; None if it has none."""
        return self if self.exact else None

    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> Self:
        """Check the parameters against a model; returns the method to run.

        Args:
            depth: number of blocks, L.
            extras: trained tensors that came with the checkpoint beside the model's own weights.

        Raises:
            BadInput: a parameter does not fit this model, or a tensor the method needs is not among the extras.
        """
        return self

    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        """The parameters as they take effect on a model of `depth` blocks, defaults filled in; what reports show."""
        return self.params

    def plan(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        """The sublayers a decode step may run. A schedule is asked once for each step, before the prompt runs."""
        return LayerPlan.full(depth)

    def candidates(self, depth: int) -> Sequence[Method]:
        """What `tune` and `calibrate` try on a model of `depth` blocks: settings from the most cautious down, () if none.

        The order is fixed before any data are seen; parameters that are not varied keep this method's values.
        """
        return ()

    def training_plan(self) -> TrainingPlan:
        """How weights are trained for this method. The default trains the full model on the task."""
        return TrainingPlan(stages=(TrainingStage("weights", lambda forced: forced.final_loss()),))

    def _require(self, name: str, fits: bool, right: str) -> None:
        """Refuse parameter `name` with the range that would be right."""
        if not fits:
            raise BadInput(f"{self.name}: {name}={getattr(self, name)} is out of range; {right}")


@dataclass(frozen=True)
class Schedule(Method):
    """A plan that is known before the step and the same for the whole batch."""

    family: ClassVar[str] = "schedule"
    skipped_kv: ClassVar[str] = "none written: a block attends over the positions that ran it"

    @abstractmethod
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        """The sublayers of decode step `step.index`; `prompt_length` in tokens (padded width), `depth` = L."""

    @override
    def plan(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return self.layers(step, prompt_length, depth)


@dataclass(frozen=True)
class Exit(Method):
    """Rows stop at a block of their own choosing; they never start again at the same position."""

    family: ClassVar[str] = "exit"
    decisions: ClassVar[tuple[str, ...]] = ("should_exit",)
    skipped_kv: ClassVar[str] = "each skipped block projects its own K/V from the propagated exit state"

    def tests(self, layer: int, depth: int) -> bool:
        """Whether an exit test follows block `layer` (0-based). The last block needs none."""
        return layer < depth - 1

    @abstractmethod
    def should_exit(self, layer: int, hidden: torch.Tensor, state: ExitState) -> torch.Tensor:
        """Which rows stop after block `layer`.

        Args:
            layer: the block that just ran, 0-based.
            hidden: its output [R, D]; rows that exited earlier still hold their exit state and their answer is ignored.
            state: what a test may look at; work done through it is charged to the method.

        Returns:
            bool [R].
        """


class ExitState:
    """What an exit test may look at at one step, and the meter of what looking costs.

    Attributes:
        step: decode step index k, an int, or a tensor [R] when many positions are scored at once.
        expected_tokens: as in `Step`.
        previous: hidden state [R, D] before the block that just ran.
        extras: trained tensors beside the model's own weights, by name.
    """

    def __init__(
        self,
        head: Callable[[torch.Tensor], torch.Tensor],
        extras: Mapping[str, torch.Tensor],
        step: int | torch.Tensor,
        expected_tokens: int,
    ) -> None:
        self.step = step
        self.expected_tokens = expected_tokens
        self.extras = extras
        self.previous: torch.Tensor | None = None
        self.test_heads = self.test_reads = 0
        self.test_flops = 0
        self.last_logits: torch.Tensor | None = None
        self._head = head

    def advance(self, previous: torch.Tensor) -> None:
        """Enter the next block: remember its input and forget the logits of the block before."""
        self.previous = previous
        self.last_logits = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of the hidden states [R, D] through the model's own final norm and head; charged per row."""
        self.test_heads += hidden.shape[0]
        self.test_reads += 1
        self.last_logits = self._head(hidden)
        return self.last_logits

    def cosine(self, hidden: torch.Tensor) -> torch.Tensor:
        """Cosine [R] of the hidden states with the input of the block that just ran; charged 6 D FLOPs per row."""
        if self.previous is None:
            raise BadInput("exit state: no block ran before this test, so there is nothing to compare with")
        self.test_flops += 6 * hidden.numel()
        return torch.nn.functional.cosine_similarity(hidden.float(), self.previous.float(), dim=-1)

    def probe(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """Sigmoid of the linear probe `name` (`name.weight` [1, D], `name.bias` [1]) at each row [R]; charged 2 D a row."""
        self.test_flops += 2 * hidden.numel()
        weight, bias = self.extras[f"{name}.weight"], self.extras[f"{name}.bias"]
        return torch.sigmoid(torch.nn.functional.linear(hidden, weight, bias).squeeze(-1).float())


@dataclass(frozen=True)
class Draft(Method):
    """Tokens are drafted cheaply, then verified by the full model in one pass; what it yields is the full model's output.

    One step drafts up to `draft_tokens` tokens for every row and yields those that agree with the full model, plus one of the
    full model's own. Rows accept different numbers, so they progress raggedly. The leading blocks that the draft's plan runs
    whole are not run again by the verification.
    """

    family: ClassVar[str] = "draft"
    decisions: ClassVar[tuple[str, ...]] = ("goes_on",)
    exact: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = "verification writes the K/V that drafting left out"

    @property
    @abstractmethod
    def draft_tokens(self) -> int:
        """Tokens drafted per step at most, 1 or more."""

    @abstractmethod
    def draft_plan(self, depth: int) -> LayerPlan:
        """The sublayers that run for a drafted token; the model's own final norm and head follow."""

    def goes_on(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Given the logits [B, V] of the token just drafted, which rows draft another one, bool [B]; None: all do."""
        return None


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

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Final norm and output projection: [..., D] to logits [..., V]."""
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
        extras: shapes of extra tensors this stage creates and trains, by name; the model is frozen when there are any.
        keep_blocks: the loss needs the state after every block, not only the last.
        dropout: given the moment and the depth L, for each block the probability that a prompt and its continuations leave it
            out [L]; None: all blocks run.
    """

    name: str
    loss: Callable[[TrainingPass], torch.Tensor]
    extras: Callable[[int], Mapping[str, tuple[int, ...]]] | None = None
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
