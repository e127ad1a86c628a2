"""The contract every depth-adaptive decoding method implements.

A method is a frozen dataclass: its fields are its parameters, `str(method)` rebuilds it, and nothing about it lives in the
engine or the runner. It says which sublayers run; the engine runs them, counts them and times nothing itself.

Three families, in rising order of freedom:

1. `Schedule`: the plan of a step is known before the step, the same for every row.
2. `Gate`: rows choose sublayers while the blocks go by. `Exit` is the gate that never reopens: rows stop one by one, and the
   exited state is propagated to the K/V of the blocks above.
3. `Draft`: drafts tokens, under a plan or from elsewhere; the engine verifies them with the full model, so the output is the
   full model's.

What a method learns while it decodes lives in `begin`'s memory, never in the method; what it learns from data before, in its
parameters, found by `profile`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.outside import Source
from harness.parameters import default, plain
from harness.plan import LayerPlan, Step
from harness.profiling import Profile
from harness.spec import written
from harness.state import GateState
from harness.training import TrainingPlan, TrainingStage
from harness.verification import Verification as Verification


@dataclass(frozen=True)
class Start:
    """A generation that begins.

    Attributes:
        depth: blocks of the model, L.
        prompts: ids [B, P], left-padded.
        lengths: tokens of each prompt [B].
        expected_tokens: as in `Step`.
        extras: trained tensors beside the model's own weights, by name.
    """

    depth: int
    prompts: torch.Tensor
    lengths: torch.Tensor
    expected_tokens: int
    extras: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Method(ABC):
    """What the engine, the runner and the reports need to know of a method.

    Class attributes a method declares:
        name: the registered name, equal to its file's name.
        paper: citation and link.
        family: `schedule`, `gate`, `exit` or `draft`.
        exact: the greedy tokens equal the full model's.
        needs_training: the published method expects weights trained for it.
        skipped_kv: what happens to the K/V of blocks a position did not run.
        decisions: functions by which a family decides while a step runs; their time is that of exit tests.
        cannot_score: why `score` cannot compute given tokens as this method would when decoding; empty where it can.
        source: where a class that is not the project's own came from; filled in where it is loaded.

    A class outside the project may leave `name`, `title` and `paper` out.
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
    source: ClassVar[Source | None] = None

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={written(value)}" for name, value in self.given.items())
        return f"{self.called}({inside})" if inside else self.called

    @property
    def called(self) -> str:
        """What `methods.create` takes for the class: its registered name, or where it is."""
        source: Source | None = vars(type(self)).get("source")
        return self.name if source is None else source.place

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name, as suites and records write them."""
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @property
    def given(self) -> dict[str, Any]:
        """Those of them that are not the defaults: what a suite's entry has to say."""
        fields = dataclasses.fields(self)
        return {f.name: self.params[f.name] for f in fields if getattr(self, f.name) != default(f)}

    @property
    def missing_kv(self) -> str:
        """`skipped_kv` under these parameters, as records have it."""
        return self.skipped_kv

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

    def prompt_plan(self, depth: int) -> LayerPlan:
        """The sublayers that run over the prompt.

        A block that neither attends nor fills there gets no room for the prompt in the cache, and cannot attend later.
        """
        return LayerPlan.full(depth)

    def begin(self, start: Start) -> Any:
        """The memory of a generation, given back by every function that is asked while it runs; None: none is needed."""
        return None

    def profile(self, profile: Profile) -> Method:
        """The method with the parameters that it learns from data before it runs (`depthbench profile`).

        Raises:
            BadInput: it learns nothing from data, or its parameters do not fit the model.
        """
        raise BadInput(f"{self.name}: learns nothing from data, so there is nothing to profile")

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

    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """See `tests`."""
        return sublayer == "attention" and layer > 0 and self.tests(layer - 1, depth)

    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        """See `should_exit`."""
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
        return None

    def keeps_states(self, memory: Any) -> bool:
        """Whether `verified` wants the states after every sublayer of this step's verification."""
        return False

    def verified(self, seen: Verification, memory: Any) -> None:
        """Learn from a verification; asked after every step that does not end the generation."""
