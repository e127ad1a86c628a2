"""A method as text: `name(key=value, ...)`, read and written. Torch-free."""

from __future__ import annotations

import ast
import keyword
from typing import Any


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split `name(key=value, ...)` into name and parameters; bare words are strings, as in `confidence=softmax`.

    Raises:
        ValueError: the text has another form.
    """
    # A path may have brackets of its own.
    path, suffix, inside = spec.strip().rpartition(".py:")
    name, bracket, rest = inside.partition("(")
    name = f"{path}{suffix}{name}"
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise ValueError(f"{spec!r} cannot be read; write name(key=value, ...)")
    parameters: dict[str, Any] = {}
    for given in call.keywords:
        if given.arg is None or given.arg in parameters:
            raise ValueError(f"{spec!r} cannot be read; write each parameter once, as key=value")
        try:
            value = given.value
            parameters[given.arg] = value.id if isinstance(value, ast.Name) else ast.literal_eval(value)
        except ValueError:
            raise ValueError(f"{spec!r}: {ast.unparse(given.value)} is not a plain value") from None
    return name.strip(), parameters


def written(value: Any) -> str:
    """A parameter's value as `parse_spec` reads it back: bare words bare, other text quoted."""
    bare = isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)
    return value if bare else repr(value)
