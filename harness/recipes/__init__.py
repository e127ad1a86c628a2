"""Training recipes: validated settings, one YAML file each in this folder."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import BadInput

FOLDER = Path(__file__).parent


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Frozen):
    """Part of the training data.

    Attributes:
        task: registered task.
        split: of it.
        limit: first so many prompts; None: all.
        references: at most so many references of a prompt; None: all.
    """

    task: str
    split: str = "train"
    limit: int | None = Field(None, ge=1)
    references: int | None = Field(None, ge=1)


class StageSettings(_Frozen):
    """One stage of the method's training plan: optimiser steps, peak learning rate, linear warm-up steps; cosine decay."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(0, ge=0)


class Recipe(_Frozen):
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
        prompts_per_step: prompts in a batch.
        references_per_prompt: continuations that share one prompt in a batch.
        seed: of initialisation, order and draws.
        bf16: bfloat16 mixed precision.
    """

    name: str
    description: str = ""
    method: str = "full"
    start: str | None = None
    architecture: dict[str, Any] | None = None
    vocabulary: int = Field(2048, ge=300)
    data: tuple[DataSource, ...] = Field(min_length=1)
    stages: dict[str, StageSettings] = Field(min_length=1)
    expected_tokens: int | None = Field(None, ge=1)
    prompts_per_step: int = Field(24, ge=1)
    references_per_prompt: int = Field(4, ge=1)
    weight_decay: float = Field(0.1, ge=0)
    adam_beta2: float = Field(0.98, gt=0, lt=1)
    seed: int = 0
    bf16: bool = True
    save_every: int = Field(200, ge=1)
    log_every: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _one_start(self) -> Recipe:
        if (self.start is None) == (self.architecture is None):
            raise ValueError("give start or architecture, one of them")
        return self


def names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from a YAML file; BadInput names the file and the key that is wrong."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names())}"
        raise BadInput(f"recipe: no recipe or file {name!r}; {hint}")
    try:
        return Recipe.model_validate({"name": path.stem, **(yaml.safe_load(path.read_text()) or {})})
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise BadInput(f"{path}: {key}: {first['msg']}") from None
