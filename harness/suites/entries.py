"""The entries of a suite, each validated by itself: a method with its parameters, a task with its settings. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.outside import absolute, short
from harness.spec import parse_spec, written
from harness.suites import artefact
from harness.validation import Count, Frozen, Line, Text

LM_EVAL = "lm_eval:"
"""What a task's name begins with where lm-eval defines the task."""


class MethodEntry(Frozen):
    """One arm: a method with its parameters, and the weights it runs on.

    Attributes:
        name: registered name, or where the class is (`file.py:Class`, its path made whole; `package.module:Class`); whether it
            exists and takes these parameters is for `methods.create` to say.
        label: how tables name the arm, unique in the suite; None: the method's spec.
        checkpoint: weights, anything `load_model` takes; None: the suite's model.
        parameters: passed to the method.
        tuned: where the parameters came from, of an entry given as `{tuned: file.json}` or `{tuned: file.json, at: 0.5}`; see
            `harness.suites.artefact`.
    """

    name: Text
    label: Line | None = None
    checkpoint: Text | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    tuned: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        """Accept a spec string, a spec as the name of a mapping, and parameters as keys of their own."""
        if isinstance(given, MethodEntry):
            return given
        if isinstance(given, str):
            given = {"name": given}
        if isinstance(given, dict) and isinstance(given.get("tuned"), str):
            given = _from_artefact(given)
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise ValueError("give a method's name, or a mapping with name, label, checkpoint and parameters")
        name, parameters = parse_spec(given["name"])
        beside = {key: value for key, value in given.items() if key not in cls.model_fields}
        inner = given.get("parameters") or {}
        if not isinstance(inner, dict):
            raise ValueError("parameters: is of the wrong type; a mapping of parameters to values")
        for more in (inner, beside):
            if twice := sorted(set(parameters) & set(more)):
                raise ValueError(f"{twice[0]} is given twice")
            parameters.update(more)
        kept = {key: given.get(key) for key in ("label", "checkpoint", "tuned")}
        return kept | {"name": absolute(name), "parameters": parameters}

    @property
    def spec(self) -> str:
        """The method as one string, e.g. `skipdecode(speedup=2)`."""
        inside = ", ".join(f"{key}={written(value)}" for key, value in self.parameters.items())
        return f"{self.name}({inside})" if inside else self.name

    @property
    def title(self) -> str:
        """The label, or what stands for it."""
        return self.label or short(self.spec)

    def plain(self) -> dict[str, Any]:
        """The entry as a suite file would have it."""
        source = {} if self.tuned is None else {"tuned": self.tuned}
        return {"name": self.name, "label": self.title, "checkpoint": self.checkpoint, **source, **self.parameters}


def _from_artefact(given: dict[str, Any]) -> dict[str, Any]:
    """The entry that a file of `depthbench tune` stands for; beside the file only a budget (`at`) and a label may be given."""
    if extra := sorted(set(given) - {"tuned", "label", "at"}):
        raise ValueError(f"{extra[0]} stands beside tuned, which gives it already; give only at and a label with tuned")
    at = given.get("at")
    if at is not None and (isinstance(at, bool) or not isinstance(at, (int, float))):
        raise ValueError(f"at: {at!r} is no share; give the budget, such as 0.5")
    return {**artefact.entry(given["tuned"], at), "label": given.get("label")}


_LM_EVAL_KEYS = ("num_fewshot", "apply_chat_template", "system_instruction", "include_path", "gen_kwargs")


class TaskEntry(Frozen):
    """One task to score.

    Attributes:
        name: registered task.
        split: train, validation or test.
        limit: only the first so many examples; None: all.
        metrics: these of the task's metrics, the first one the main one; None: all that need no extra.
        max_prompt_tokens: prompts are shortened to so many tokens where the task allows it; None: the task's own limit.
        expected_tokens: output length schedules plan for on this task; None: the suite's, else the median reference.
        num_fewshot: of an lm-eval task, as are the following: examples in the prompt; None: what the task says.
        apply_chat_template: whether the tokenizer's chat template is applied, or which.
        system_instruction: put before the prompt.
        include_path: folder with more lm-eval tasks.
        gen_kwargs: `key=value,...`, changes a task's generation settings.
    """

    name: Text
    split: Literal["train", "validation", "test"] = "test"
    limit: Count | None = None
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    max_prompt_tokens: Count | None = None
    expected_tokens: Count | None = None
    num_fewshot: Annotated[int, Field(strict=True, ge=0)] | None = None
    apply_chat_template: bool | Text = False
    system_instruction: Text | None = None
    include_path: Text | None = None
    gen_kwargs: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _fits_lm_eval(self) -> Self:
        for key in ("split", "metrics", "max_prompt_tokens") if self.is_lm_eval else _LM_EVAL_KEYS:
            if getattr(self, key) != type(self).model_fields[key].default:
                whose = (
                    "lm-eval decides it by the task" if self.is_lm_eval else f"only tasks named {LM_EVAL}... take it"
                )
                raise ValueError(f"{key}: does not fit task {self.name!r}; {whose}")
        if self.is_lm_eval and not self.lm_eval_name:
            raise ValueError(f"name: {self.name!r} names no task; write e.g. {LM_EVAL}lambada_openai")
        return self

    def plain(self) -> dict[str, Any]:
        """The entry as a suite file would have it; what only lm-eval's tasks take stands with those alone."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if self.is_lm_eval or key not in _LM_EVAL_KEYS}

    @property
    def is_lm_eval(self) -> bool:
        """Whether lm-eval defines the task."""
        return self.name.startswith(LM_EVAL)

    @property
    def lm_eval_name(self) -> str:
        """The task's name for lm-eval."""
        return self.name.removeprefix(LM_EVAL)
