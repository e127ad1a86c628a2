"""Settings a user wrote: a file of YAML or JSON, and `--set key=value` on top of it. A key given twice is refused. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import BadInput, near

Json = dict[str, Any]

_TOO_DEEP = "is nested too deeply to be read; a suite or a recipe needs four levels at most"


def read(path: Path, what: str) -> Json:
    """The mapping a file holds; JSON where its name ends so, else YAML.

    Args:
        path: the file.
        what: what the mapping has, said where there is none: `a suite needs at least ...`.

    Raises:
        BadInput: one line that names the file, and the line where there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else parse(text)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8 text; give a YAML file") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"{path}: {_TOO_DEEP}") from None
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: {'is empty' if values is None else 'is not a mapping'}; {what}")
    return values


def parse(text: str) -> Any:
    """The value YAML text stands for; ValueError with one line that says where and what is wrong."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, as taking the last one hides typing mistakes; and one that is no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> Json:
    """A JSON object, as the loader above has it."""
    found: Json = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _problem(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"not valid YAML: {' '.join(str(error).split())}"
    problem = error.problem or error.context or "not valid YAML"
    line = error.problem_mark.line + 1
    return f"line {line}: {problem}" if problem.startswith("the key") else f"line {line}: not valid YAML: {problem}"


def override(
    values: Json, text: str, keys: Collection[str], example: str, expand: Callable[[str], Json] | None = None
) -> None:
    """Set one key of a file's values, as `--set` gives it.

    Args:
        values: changed in place; mappings on the way are made where they are missing.
        text: `key=value`; the key may be dotted and count entries (`tasks.0.limit`), the value is YAML.
        keys: those of the whole.
        example: shown where the text cannot be read.
        expand: the mapping that an entry given as text stands for; ValueError where it is none.
    """
    key, equals, given = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadInput(f"--set {text!r}: cannot be read; write key=value, as in {example}")
    if parts[0] not in keys:
        raise BadInput(f"--set {text!r}: unknown key {parts[0]!r}; {near(parts[0], keys)}")
    try:
        value = parse(given)
    except ValueError as error:
        raise BadInput(f"--set {text!r}: {str(error).removeprefix('line 1: ')}") from None
    place: Any = values
    for depth, part in enumerate(parts, 1):
        where = f"--set {text!r}: {'.'.join(parts[:depth])}"
        index: Any = part
        if isinstance(place, list):
            if not (part.isdecimal() and int(part) < len(place)):
                raise BadInput(f"{where}: no such entry; they count from 0 to {len(place) - 1}")
            index = int(part)
        if depth == len(parts):
            place[index] = value
            return
        inner = place[index] if isinstance(place, list) else place.get(index)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and isinstance(place, list) and expand is not None:
            try:
                inner = expand(inner)
            except ValueError as error:
                raise BadInput(f"{where}: {error}") from None
        if not isinstance(inner, (dict, list)):
            raise BadInput(f"{where}: is {inner!r}, which has no keys of its own")
        place[index] = inner
        place = inner
