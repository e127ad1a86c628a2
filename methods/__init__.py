"""The registered methods: one file each. This table is the only list of them; a file is imported when it is asked for."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

from harness.errors import BadInput, near
from harness.method import Method
from harness.spec import parse_spec
from harness.validation import short

METHODS: dict[str, str] = {
    "full": "methods.full:Full",
    "skipdecode": "methods.skipdecode:SkipDecode",
    "calm": "methods.calm:CALM",
    "fixed_exit": "methods.fixed_exit:FixedExit",
    "random_skip": "methods.random_skip:RandomSkip",
    "unified_skip": "methods.unified_skip:UnifiedSkip",
    "layerskip": "methods.layerskip:LayerSkip",
    "prompt_lookup": "methods.prompt_lookup:PromptLookup",
    "static_prune": "methods.static_prune:StaticPrune",
    "adaskip": "methods.adaskip:AdaSkip",
    "d3": "methods.d3:D3",
    "ffn_skip": "methods.ffn_skip:FFNSkip",
    "ee_exit": "methods.ee_exit:EEExit",
    "patience": "methods.patience:Patience",
    "adainfer": "methods.adainfer:AdaInfer",
    "draft_verify": "methods.draft_verify:DraftVerify",
    "swift": "methods.swift:Swift",
    "clasp": "methods.clasp:CLaSp",
    "knapspec": "methods.knapspec:KnapSpec",
    "del_exit": "methods.del_exit:DEL",
    "seed": "methods.seed:Seed",
}


def names() -> list[str]:
    """Every registered name."""
    return list(METHODS)


def get(name: str) -> type[Method]:
    """The class registered as `name`; unknown names raise BadInput with near ones."""
    if name not in METHODS:
        raise BadInput(f"method: no method named {name!r}; {near(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def parameters(name: str) -> tuple[str, ...]:
    """The parameters of the method registered as `name`."""
    return tuple(field.name for field in dataclasses.fields(get(name)))


def create(spec: str, **parameters: Any) -> Method:
    """A method from its name and parameters, or from one string such as `skipdecode(speedup=2)`.

    Raises:
        BadInput: unknown method or parameter, a value of the wrong type or out of range.
    """
    try:
        name, given = parse_spec(spec)
    except ValueError as error:
        raise BadInput(f"method: {error}") from None
    both = sorted(set(given) & set(parameters))
    if both:
        raise BadInput(f"{name}: {both[0]} is given twice, in the string and beside it")
    given.update(parameters)
    cls = get(name)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            takes = f"it takes {', '.join(fields) or 'no parameters'}"
            raise BadInput(f"{name}: no parameter named {key!r}; {near(key, fields, takes)}")
        given[key] = _typed(name, key, str(fields[key].type), value)
    return cls(**given)


def _typed(name: str, key: str, declared: str, value: Any) -> Any:
    """The value as the field declares it (`int`, `float`, `str`, `... | None`), or BadInput."""
    kinds = {kind.strip() for kind in declared.split("|")}
    if isinstance(value, (int, float)) and not abs(value) < sys.float_info.max:
        raise BadInput(f"{name}: {key}={short(value)} is out of range; give a finite number")
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool) and "bool" not in kinds:
        pass
    elif "int" in kinds and isinstance(value, (int, float)) and value == int(value) and "float" not in kinds:
        return int(value)
    elif "float" in kinds and isinstance(value, (int, float)):
        return float(value)
    elif ("str" in kinds and isinstance(value, str)) or ("bool" in kinds and isinstance(value, bool)):
        return value
    right = " or ".join(sorted(kinds - {"None"}))
    raise BadInput(f"{name}: {key}={short(value)} is of the wrong type; give {right}")
