"""A stored JSON object, checked against its type. Torch-free."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

_T = TypeVar("_T")


def checked(record: _T, kind: Any) -> _T:
    """The record as it is; ValueError that names the field where a value is none of its type's."""
    try:
        _adapter(kind).validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        raise ValueError(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}" if where else first["msg"]) from None
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
