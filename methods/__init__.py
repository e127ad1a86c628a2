"""The registered methods: one file each. This table is the only list of them; a file is imported when it is asked for.

A method of one's own needs no line here: `file.py:Class`, `package.module:Class` and the names that installed packages offer
(entry points of the group `depthbench.methods`) are accepted wherever a name is.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from harness import outside
from harness.errors import BadInput, near, one_line
from harness.method import Method
from harness.parameters import typed
from harness.spec import parse_spec

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
    "adaskip_extra": "methods.adaskip_extra:AdaSkipExtra",
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
    """Every registered name, then those that installed packages offer."""
    return [*METHODS, *(name for name in sorted(outside.offered()) if name not in METHODS)]


def get(name: str) -> type[Method]:
    """The class of a name: a registered one, `file.py:Class`, `package.module:Class`, or one that a package offers.

    Raises:
        BadInput: there is none; the message names near ones, or why it cannot be had.
    """
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    if not outside.is_place(name) and name not in outside.offered():
        own = "; a class of your own is file.py:Class" if name.endswith(".py") else ""
        raise BadInput(f"method: no method named {name!r}; {near(name, names())}{own}")
    return outside.load(name, Method)


def parameters(name: str) -> tuple[str, ...]:
    """The parameters of the method of a name."""
    return tuple(field.name for field in dataclasses.fields(get(name)))


def create(spec: str, **parameters: Any) -> Method:
    """A method from its name and parameters, or from one string such as `skipdecode(speedup=2)` or `mine.py:Mine(after=2)`.

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
    called = outside.short(name)
    values = typed(cls, called, given)
    try:
        return cls(**values)
    except BadInput:
        raise
    except Exception as error:  # what its own checks raise
        raise BadInput(f"{called}: {one_line(error)}") from None
