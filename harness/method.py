"""The contract every depth-adaptive decoding method implements.

A method says which sublayers run; the engine runs them, counts them and times nothing itself. What all methods say of themselves
is `Method` (`harness.base`), and there are three families, in rising order of freedom:

1. `Schedule`: the plan of a step is known before the step, the same for every row.
2. `Gate`: rows choose sublayers while the blocks go by. `Exit` is the gate that never reopens: rows stop one by one, and the
   exited state is propagated to the K/V of the blocks above.
3. `Draft`: drafts tokens, under a plan or from elsewhere; the engine verifies them with the full model, so the output is the
   full model's.

What a method learns while it decodes lives in `begin`'s memory, never in the method; what it learns from data before, in its
parameters, found by `profile`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from harness.base import Method as Method
from harness.base import Start as Start
from harness.errors import BadInput
from harness.plan import LayerPlan, Step
from harness.state import GateState, largest_probability
from harness.verification import Verification as Verification


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
class Gate(Method):
    """Every row chooses its sublayers while the blocks go by.

    Where a decision stands is known beforehand (`gated`), what it is only then (`runs`). A sublayer that no row runs is not
    computed. The prompt runs as `prompt_plan` says, or its positions choose too (`prompt_gated`), each for itself as a decode
    step's row does.

    Small trained networks are extras of the checkpoint, read through the state (`GateState.linear`, ...), which charges them.
    How they are trained: `training_plan`, with a stage whose extras take part in the pass (`TrainingStage.inside`).
    """

    family: ClassVar[str] = "gate"
    decisions: ClassVar[tuple[str, ...]] = ("runs", "bypass")
    skipped_kv: ClassVar[str] = "each skipped attention stores its own K/V of the state that passes it"
    reopens: ClassVar[bool] = True
    """A row that skips a sublayer may run a later one; False: it runs nothing more of the step."""
    weighs: ClassVar[bool] = False
    """Where `runs` left an `openness`, what a sublayer adds to the state is multiplied by it. False: only a training pass uses
    it, and straight through: forward the sublayer runs or not, backward the openness is what multiplied."""

    @property
    def kv(self) -> str:
        """K/V of a position whose attention was skipped.

        `own`: stored all the same, of the state that passes; later positions find them in every block. `hidden`: not looked at
        by later positions of the row in that block. `recompute` (of exits): the position is computed together with later
        ones until all of them reach the top, so whoever looks sees the full model's.
        """
        return "own"

    @property
    @override
    def missing_kv(self) -> str:
        said = {
            "hidden": "hidden: later positions of the row do not look there",
            "recompute": "the token is computed again together with later ones until all of them reach the top",
        }
        return said.get(self.kv, self.skipped_kv)

    @abstractmethod
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """Whether rows choose before `attention` or `feed` of block `layer` (0-based) of `depth`; elsewhere all run."""

    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """Whether the prompt's positions choose there. They are asked at once, without padding (`state.at_prompt`)."""
        return False

    @abstractmethod
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        """Which rows run a sublayer.

        Args:
            layer: its block, 0-based.
            sublayer: `attention` or `feed`.
            x: the state before it [R, D]. Of a gate that does not reopen, rows that closed earlier hold the state they closed with,
                and their answer is ignored (with `recompute` what was computed of them along with others).
            state: what a gate may look at; work done through it is charged to the method.

        Returns:
            bool [R].
        """

    def bypass(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        """The state after a sublayer where it was skipped; default: as it was.

        Args:
            layer: the sublayer's block, 0-based.
            sublayer: `attention` or `feed`.
            x: the state [S, D] of those of the positions just asked that skip it; `state.rows` says whose they are.
            state: work done through it is charged to the method; `scratch` and `openness` are of all that were asked.

        Returns:
            [S, D].
        """
        return x


@dataclass(frozen=True)
class Exit(Gate):
    """Rows stop at a block of their own choosing; they never start again at the same position: the gate that never reopens."""

    family: ClassVar[str] = "exit"
    decisions: ClassVar[tuple[str, ...]] = ("should_exit",)
    skipped_kv: ClassVar[str] = "each skipped block projects its own K/V from the propagated exit state"
    reopens: ClassVar[bool] = False

    @property
    def most_pending(self) -> int:
        """With `recompute`: tokens that wait for a full pass at most; a row with as many runs to the top."""
        return 100

    def tests(self, layer: int, depth: int) -> bool:
        """Whether an exit test follows block `layer` (0-based). The last block needs none."""
        return layer < depth - 1

    @abstractmethod
    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        """Which rows stop after block `layer`.

        Args:
            layer: the block that just ran, 0-based.
            hidden: its output [R, D]; rows that exited earlier still hold their exit state and their answer is ignored.
            state: what a test may look at; work done through it is charged to the method.

        Returns:
            bool [R].
        """

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return sublayer == "attention" and layer > 0 and self.tests(layer - 1, depth)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        return ~self.should_exit(layer - 1, x, state)


@dataclass(frozen=True)
class Draft(Method):
    """Tokens are drafted cheaply, then verified by the full model in one pass; what it yields is the full model's output.

    One step drafts up to `draft_tokens` tokens for every row and yields those that agree with the full model, plus one of the
    full model's own. Rows accept different numbers, so they progress raggedly. The model drafts with some of its own sublayers
    (`draft_plan`; the leading blocks that it runs whole are not run again by the verification), or the tokens come from elsewhere
    (`propose`). A class gives one of the two.

    Every function is given what `begin` returned. A draft only decides how fast a generation is, so rows may share a memory.
    """

    family: ClassVar[str] = "draft"
    decisions: ClassVar[tuple[str, ...]] = ("propose", "goes_on", "verified")
    exact: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = "verification writes the K/V that drafting left out"

    @property
    @abstractmethod
    def draft_tokens(self) -> int:
        """Tokens drafted per step at most, 1 or more."""

    @property
    def threshold(self) -> float:
        """Probability below which a draft ends, 0 to 1; 0: it does not end before `draft_tokens`."""
        return 0.0

    def propose(self, new: Sequence[Sequence[int]], memory: Any) -> Sequence[Sequence[int]] | None:
        """Drafts that the model does not make: for every row up to `draft_tokens` tokens, or none.

        None instead: the model makes them, under `draft_plan`.

        Args:
            new: the tokens that every row got since the last time; the first time the one that the prompt yielded.
            memory: of the generation.
        """
        return None

    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        """The sublayers that run for a drafted token of this step; the model's own final norm and head follow."""
        raise BadInput(f"{self.name}: a draft gives draft_plan() or propose(), this one gives neither")

    def goes_on(self, logits: torch.Tensor, memory: Any) -> torch.Tensor | None:
        """Given the logits [B, V] of the token just drafted, which rows draft another one, bool [B]; None: all do."""
        return largest_probability(logits) >= self.threshold if self.threshold else None

    def keeps_states(self, memory: Any) -> bool:
        """Whether `verified` wants the states after every sublayer of this step's verification."""
        return False

    def verified(self, seen: Verification, memory: Any) -> None:
        """Learn from a verification; asked after every step that does not end the generation."""
