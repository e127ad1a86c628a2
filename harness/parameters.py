"""A method's parameters as its class declares them: what is given is brought to the declared type, or refused by its name.

Declarations are read as `typing.get_type_hints` reads them, so they may be text (`from __future__ import annotations`) or not:
bool, int, float, str, Literal, enums, tuples of these, and unions with None or each other. Torch-free.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from harness.errors import BadInput, near
from harness.validation import short

_RIGHT = "a parameter is a bool, int, float, str, Literal, enum, a tuple of these, or one of them | None"


class _Unfit(Exception):
    """A value does not fit a type; the message says what would."""


def typed(cls: type, called: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the fields of a dataclass declare them.

    Args:
        cls: a method's class.
        called: how messages name it.
        given: values by field, as a spec or a suite has them.

    Raises:
        BadInput: no such field, one without a default is left out, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    found = {}
    for key, value in given.items():
        if key not in fields:
            takes = f"it takes {', '.join(fields) or 'no parameters'}"
            raise BadInput(f"{called}: no parameter named {key!r}; {near(key, fields, takes)}")
        if not _finite(value):
            raise BadInput(f"{called}: {key}={short(value)} is out of range; give a finite number")
        hint = _hint(cls, called, fields[key])
        try:
            found[key] = _fit(hint, value)
        except _Unfit as error:
            raise BadInput(f"{called}: {key}={short(value)} {error}") from None
        except TypeError:
            raise BadInput(f"{called}: {key} is declared as {_shown(hint)}; {_RIGHT}") from None
    for key, field in fields.items():
        if key not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadInput(f"{called}: {key} has no default; write {called}({key}=...)")
    return found


def default(field: dataclasses.Field[Any]) -> Any:
    """What a field is where it is not given; MISSING where it must be."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def plain(value: Any) -> Any:
    """A parameter as suites and records write it: enums by their names."""
    if isinstance(value, enum.Enum):
        return value.name
    return tuple(plain(each) for each in value) if isinstance(value, tuple) else value


def _hint(cls: type, called: str, field: dataclasses.Field[Any]) -> Any:
    """The type of a field; text is read where its class was written."""
    owner = next(each for each in cls.__mro__ if field.name in vars(each).get("__annotations__", ()))
    module = sys.modules.get(owner.__module__)
    alone = types.SimpleNamespace(__annotations__={field.name: field.type})
    try:
        return typing.get_type_hints(alone, vars(module) if module else {}, dict(vars(owner)))[field.name]
    except Exception as error:  # whatever the text of an annotation raises
        raise BadInput(f"{called}: {field.name}: its type {field.type!r} cannot be read ({error}); {_RIGHT}") from None


def _fit(hint: Any, value: Any) -> Any:
    """The value as `hint` has it; `_Unfit` where it is none, TypeError where parameters cannot be of such a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _any_of(hint, inner, value)
    if origin is Literal:
        same = [one for one in inner if one == value and type(one) is type(value)]
        if not same:
            raise _Unfit(f"is out of range; one of {', '.join(map(str, inner))}")
        return same[0]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        for one in hint:
            if value is one or value == one.name or (value == one.value and type(value) is type(one.value)):
                return one
        raise _Unfit(f"is out of range; one of {', '.join(one.name for one in hint)}")
    if hint is tuple or origin is tuple:
        return _tuple(hint, inner, value)
    if hint in (None, type(None)):
        fits = value is None
    elif hint is bool:
        fits = isinstance(value, bool)
    elif hint is int:
        fits = _number(value) and value == int(value)
    elif hint is float:
        fits = _number(value)
    elif hint is str:
        fits = isinstance(value, str)
    else:
        raise TypeError(hint)
    if not fits:
        raise _Unfit(f"is of the wrong type; give {_shown(hint)}")
    return hint(value) if hint in (int, float) else value


def _any_of(hint: Any, inner: tuple[Any, ...], value: Any) -> Any:
    """The value as the first member it fits; one that it is already comes before one that it can be made."""
    unfit = None
    made = []
    for one in inner:
        try:
            made.append(_fit(one, value))
        except _Unfit as error:
            unfit = error
    same = [each for each in made if type(each) is type(value)]
    if made:
        return (same or made)[0]
    rest = [one for one in inner if one is not type(None)]
    raise (
        unfit
        if unfit is not None and len(rest) == 1 and get_origin(rest[0]) is Literal
        else _Unfit(f"is of the wrong type; give {_shown(hint)}")
    )


def _tuple(hint: Any, inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Unfit(f"is of the wrong type; give {_shown(hint)}, as in (1, 2)")
    if not inner:
        return tuple(value)
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise _Unfit(f"has {len(value)} entries; give {_shown(hint)}")
    return tuple(_fit(one, each) for one, each in zip(inner, value, strict=True))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_finite(each) for each in value)
    return not isinstance(value, (int, float)) or abs(value) < sys.float_info.max


def _shown(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(sorted(_shown(one) for one in inner if one is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple and inner:
        return f"({', '.join('...' if one is Ellipsis else _shown(one) for one in inner)})"
    return getattr(hint, "__name__", str(hint))
