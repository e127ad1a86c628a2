"""What a user wrote, checked: the base of the models that say what is right, and one line that says what is wrong. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

Count = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, Field(strict=True, min_length=1)]


class Frozen(BaseModel):
    """What a user wrote, checked; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def near(name: str, known: Iterable[str]) -> str:
    """What a name that is not known may have meant, or all that are known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def explain(error: ValidationError, whole: type[BaseModel], inner: Mapping[str, type[BaseModel]]) -> str:
    """The first problem of a validation as `key: what is wrong; what would be right`.

    Args:
        error: of the validation.
        whole: the model that was validated, whose keys are named where one is unknown.
        inner: the models below its keys, by key.
    """
    problems = error.errors()
    first = problems[0]
    # pydantic names the alternatives of a union in the location; the user knows none of those names.
    where = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    text = _problem(first, inner.get(str(first["loc"][0]), whole) if first["loc"] else whole)
    return f"{where}: {text}{more}" if where else f"{text}{more}"


def _problem(problem: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context, given = problem["type"], problem.get("ctx") or {}, problem.get("input")
    if kind == "extra_forbidden":
        return f"unknown key; {near(str(problem['loc'][-1]), model.model_fields)}"
    if kind == "missing":
        return "is missing; give it"
    if kind == "greater_than_equal":
        return f"{given!r} is out of range; {context['ge']} or more"
    if kind == "greater_than":
        return f"{given!r} is out of range; more than {context['gt']}"
    if kind == "less_than_equal":
        return f"{given!r} is out of range; {context['le']} or less"
    if kind == "literal_error":
        options = [option.strip("'") for option in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{given!r} is not known; {near(str(given), options)}"
    if kind in ("too_short", "string_too_short"):
        return "is empty; give at least one entry" if kind == "too_short" else "is empty; give a name"
    if kind in ("tuple_type", "list_type"):
        return f"{given!r} is of the wrong type; a list, as in [...]"
    if kind in ("int_type", "int_parsing", "int_from_float"):
        return f"{given!r} is of the wrong type; a whole number"
    if kind in ("float_type", "float_parsing"):
        return f"{given!r} is of the wrong type; a number"
    if kind == "bool_type":
        return f"{given!r} is of the wrong type; true or false"
    if kind in ("string_type", "string_sub_type"):
        return f"{given!r} is of the wrong type; text"
    if kind == "value_error":
        return str(context["error"])
    return f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
