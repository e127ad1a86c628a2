"""Training recipes: validated settings, one YAML file each in this folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness import settings
from harness.errors import BadInput, near
from harness.validation import MOST, Count, Frozen, Line, Seed, Text, explain

if TYPE_CHECKING:
    from harness.training import TrainingPlan

FOLDER = Path(__file__).parent


class DataSource(Frozen):
    """Part of the training data.

    Attributes:
        task: registered task.
        split: of it.
        limit: so many prompts; None: all.
        skip: the first so many are left out, before `limit` counts; they may be kept for a test.
        references: at most so many references of a prompt; None: all.
        max_prompt_tokens: prompts are shortened to so many tokens where the task allows it, as a suite's key of this name does;
            None: the task's own limit.
    """

    task: Text
    split: Literal["train", "validation", "test"] = "train"
    limit: Count | None = None
    skip: int = Field(0, ge=0, le=MOST, strict=True)
    references: Count | None = None
    max_prompt_tokens: Count | None = None


class StageSettings(Frozen):
    """One stage of the method's training plan: optimiser steps, peak learning rate, linear warm-up steps; cosine decay."""

    steps: Count
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    warmup_steps: int = Field(0, ge=0, le=MOST, strict=True)


class LoraSettings(Frozen):
    """Low-rank adapters on the blocks' linear maps instead of training all weights (extra `lora`); merged at the end.

    Attributes:
        rank: of the adapters.
        alpha: their sum is scaled by alpha / rank.
        targets: names of modules, as peft takes them; None: every linear map except the output projection.
    """

    rank: Count = 16
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False)
    targets: tuple[Text, ...] | None = Field(None, min_length=1)


class ValidationSettings(Frozen):
    """When the loss is taken on validation data; the state with the lowest one is kept.

    Attributes:
        data: where its pairs come from.
        every: optimiser steps between two looks; states are saved as often.
    """

    data: tuple[DataSource, ...] = Field(min_length=1)
    every: Count


class Recipe(Frozen):
    """What is trained, from what, on what, how long.

    Attributes:
        name: recipe name.
        method: method spec whose training plan is used, e.g. `skipdecode`.
        start: checkpoint to start from (anything `load_model` takes); or
        architecture: a transformers configuration (`model_type` and sizes) for a fresh model, with
        vocabulary: size of the byte-level BPE trained on the data.
        data: where the pairs come from.
        stages: settings for each stage of the plan that shall run.
        expected_tokens: horizon of schedules in training; None: the data's median reference length.
        options: of the method's training plan, e.g. LayerSkip's dropout.
        lora: train adapters alone; None: all weights.
        dtype: of the starting checkpoint's weights in memory; bfloat16 only with `lora`, where they stay as they are.
        optimizer: `adamw` or `adafactor` (a fraction of the memory).
        gradient_checkpointing: compute blocks and heads again on the way back instead of keeping what is inside them.
        max_tokens: pairs longer than this, prompt and continuation together, are left out; None: what the model can hold.
        validation: None: the last state is kept.
        prompts_per_step: prompts of one optimiser step, over all devices and accumulated batches.
        accumulate: batches a step is made of on each device, one after the other.
        references_per_prompt: continuations that share one prompt in a batch.
        seed: of initialisation, order and draws.
        bf16: bfloat16 mixed precision; `auto`: on a GPU, and on a processor that has instructions for it.
        keep: what is left: a `whole` checkpoint in float16, or the `delta` to `start`, half as large, a few MB with `lora`, next to
            nothing where the model stayed frozen (harness/models/delta.py).
    """

    name: Line
    description: str = Field("", max_length=10_000)
    method: Text = "full"
    start: Text | None = None
    architecture: dict[str, Any] | None = None
    vocabulary: int = Field(2048, ge=300, le=MOST, strict=True)
    data: tuple[DataSource, ...] = Field(min_length=1)
    stages: dict[Text, StageSettings] = Field(min_length=1)
    expected_tokens: Count | None = None
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    lora: LoraSettings | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    gradient_checkpointing: bool = False
    max_tokens: int | None = Field(None, ge=2, le=MOST, strict=True)
    validation: ValidationSettings | None = None
    prompts_per_step: Count = 24
    accumulate: Count = 1
    references_per_prompt: Count = 4
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False)
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    seed: Seed = 0
    bf16: bool | Literal["auto"] = True
    save_every: Count = 200
    log_every: Count = 10
    keep: Literal["whole", "delta"] = "whole"

    @model_validator(mode="after")
    def _one_start(self) -> Recipe:
        if (self.start is None) == (self.architecture is None):
            raise ValueError("give start or architecture, one of them")
        if self.dtype != "float32" and self.lora is None:
            raise ValueError("dtype: bfloat16 weights lose small updates; give float32, or train adapters with lora")
        if self.keep == "delta" and self.start is None:
            raise ValueError("keep: a delta is the difference to a checkpoint; give start, or keep: whole")
        if self.lora is not None and self.start is None:
            raise ValueError("lora: adapters need trained weights below them; give start")
        return self

    @model_validator(mode="after")
    def _known_plan(self) -> Recipe:
        try:
            _ = self.plan
        except BadInput as error:
            raise ValueError(str(error)) from None
        return self

    @cached_property
    def plan(self) -> TrainingPlan:
        """The training plan of the method, the options taken up; BadInput where method, options or stages are not known."""
        import methods  # needs torch

        try:
            method = methods.create(self.method)
        except BadInput as error:
            text = str(error)
            raise BadInput(text if text.startswith("method: ") else f"method: {text}") from None
        plan = method.training_plan()
        if self.options:
            if plan.configure is None:
                raise BadInput(f"options: {method.name} takes none; leave them out")
            plan = plan.configure(self.options)
        known = [stage.name for stage in plan.stages]
        for name in sorted(set(self.stages).difference(known)):
            raise BadInput(f"stages.{name} is not a stage of {method.name}; {near(name, known)}")
        return plan

    def batch_per_device(self, devices: int) -> int:
        """Prompts of one batch on one of `devices`; BadInput where the step cannot be divided."""
        parts = devices * self.accumulate
        if self.prompts_per_step % parts:
            raise BadInput(
                f"recipe {self.name}: prompts_per_step {self.prompts_per_step} does not divide by {devices} devices x "
                f"accumulate {self.accumulate}; give a multiple of {parts}"
            )
        return self.prompts_per_step // parts


def names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(
    name: str, overrides: Sequence[str] = (), *, model: str | None = None, task: str | None = None
) -> Recipe:
    """A recipe by name, or from a YAML file.

    Args:
        name: of `names()`, or a file.
        overrides: `key=value` each; the key may be dotted (`stages.weights.steps`), the value is YAML.
        model: start from this checkpoint instead.
        task: train (and validate) on this task alone instead.

    Raises:
        BadInput: names the file and the key that is wrong.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise BadInput(f"recipe: no recipe or file {name!r}; {near(name, names())}")
    values = {"name": path.stem, **settings.read(path, "a recipe needs at least method, start, data and stages")}
    if model is not None:
        values = {**values, "start": model, "architecture": None}
    if task is not None:
        values["data"] = [_of_task(values.get("data"), task)]
        if isinstance(values.get("validation"), dict):
            values["validation"] = {**values["validation"], "data": [_of_task(values["validation"].get("data"), task)]}
    for text in overrides:
        settings.override(values, text, Recipe.model_fields, "stages.weights.steps=100")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        where = path if not overrides else f"{path} with --set"
        raise BadInput(f"{where}: {explain(error, Recipe)}") from None


def _of_task(sources: Any, task: str) -> Any:
    """The first data source with another task; its split and limits stay."""
    first = sources[0] if isinstance(sources, list) and sources and isinstance(sources[0], dict) else {}
    return {**first, "task": task}
