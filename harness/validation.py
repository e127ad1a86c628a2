"""What a user wrote, checked: the base of the models that say what is right, and one line that says what is wrong. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import near

MOST = 2**31 - 1
"""Largest count: what torch and the operating system can count to."""
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=4096)]


def _one_line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("holds a line feed or another character that cannot be printed, or nothing else; write a line")
    return text


Line = Annotated[str, Field(strict=True, min_length=1, max_length=200), AfterValidator(_one_line)]
"""What stands in tables."""


class Frozen(BaseModel):
    """What a user wrote, checked; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain(error: ValidationError, whole: type[BaseModel]) -> str:
    """The first problem of a validation of `whole` as `key: what is wrong; what would be right`."""
    problems = error.errors()
    # A misspelt key is unknown and leaves another one missing: the hint is at the unknown one.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    # pydantic names the alternatives of a union in the location; the user knows none of those names.
    where = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    text = _problem(first, _model_at(whole, first["loc"][:-1]))
    return f"{where}: {text}{more}" if where else f"{text}{more}"


def _model_at(whole: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The model that stands at a place in another one: whose keys are named where one is unknown."""
    model = whole
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model an annotation is made of: `M`, `M | None`, `tuple[M, ...]`, `dict[str, M]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner)) is not None), None)


def short(given: Any) -> str:
    """A value as a message shows it: of a megabyte only the beginning."""
    try:
        text = repr(given)
    except ValueError:  # a whole number of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 200 else f"{text[:150]}..."


def _problem(problem: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, given = problem["type"], problem.get("ctx") or {}, problem.get("input")
    shown = short(given)
    if kind == "extra_forbidden":
        return f"unknown key; {near(str(problem['loc'][-1]), model.model_fields)}"
    if kind == "missing":
        return "is missing; give it"
    if kind == "greater_than_equal":
        return f"{shown} is out of range; {context['ge']} or more"
    if kind == "greater_than":
        return f"{shown} is out of range; more than {context['gt']}"
    if kind == "less_than_equal":
        return f"{shown} is out of range; {context['le']} or less"
    if kind == "literal_error":
        options = [option.strip("'") for option in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{shown} is not known; {near(str(given), options)}"
    if kind in ("too_short", "string_too_short"):
        return "is empty; give at least one entry" if kind == "too_short" else "is empty; give a name"
    if kind in ("tuple_type", "list_type"):
        return f"{shown} is of the wrong type; a list, as in [...]"
    if kind in ("int_type", "int_parsing", "int_from_float"):
        return f"{shown} is of the wrong type; a whole number"
    if kind in ("float_type", "float_parsing"):
        return f"{shown} is of the wrong type; a number"
    if kind == "bool_type":
        return f"{shown} is of the wrong type; true or false"
    if kind in ("string_type", "string_sub_type"):
        return f"{shown} is of the wrong type; text"
    if kind == "string_too_long":
        return f"is {len(str(given))} characters long; {context['max_length']} at most"
    if kind == "finite_number":
        return f"{shown} is out of range; a finite number"
    if kind == "value_error":
        return str(context["error"])
    return f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
