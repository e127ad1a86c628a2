"""What every method says of itself, whatever its family (`harness.method`).

A method is a frozen dataclass: its fields are its parameters, `str(method)` rebuilds it, and nothing about it lives in the
engine or the runner.
"""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from harness.errors import BadInput
from harness.outside import Source
from harness.parameters import default, plain
from harness.plan import LayerPlan, Step
from harness.profiling import Profile
from harness.spec import written
from harness.training import TrainingPlan, TrainingStage


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

    def _require_trained(self, extras: Mapping[str, torch.Tensor], names: Sequence[str]) -> None:
        """Refuse a checkpoint that lacks one of the trained tensors `names`."""
        for name in names:
            if name not in extras:
                raise BadInput(
                    f"{self.name}: needs a checkpoint with {name} and what was trained beside it; make one with "
                    f"`depthbench train` and a recipe for {self.name}"
                )

    def _require(self, name: str, fits: bool, right: str) -> None:
        """Refuse parameter `name` with the range that would be right."""
        if not fits:
            raise BadInput(f"{self.name}: {name}={getattr(self, name)} is out of range; {right}")
