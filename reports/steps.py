"""Where the time of a decode step goes: the parts a cell recorded, under the names the report uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reports.facts import Speed
from reports.text import real

_NAMES = {
    "attention": "blocks",
    "feed": "blocks",
    "blocks": "blocks",
    "head": "head",
    "exit_tests": "exit tests",
    "kv_fill": "K/V fill",
    "embed": "embedding",
    "sampling": "host and rest",
    "host": "host and rest",
    "rest": "host and rest",
}


def step_parts(timed: Speed, *, baseline: bool) -> dict[str, float]:
    """Return the mean seconds of a decode step by part, which add up to the step; empty where the cell does not say.

    A cell's own instrumented passes (`breakdown`: seconds of every part of every step) come first. Every timed cell also
    repeats the parts of the full model's step (`step_parts_s`: one block, head, embedding, rest); they say where the
    time goes for full alone.
    """
    passes = timed.cell.get("breakdown")
    if isinstance(passes, list) and passes:
        return _instrumented([p for p in passes if isinstance(p, Mapping)])
    parts, depth = timed.cell.get("step_parts_s"), timed.raw("depth")
    if not baseline or not isinstance(parts, Mapping) or depth is None:
        return {}
    block = real(parts.get("block"))
    known = {"blocks": None if block is None else depth * block}
    known |= {_NAMES[key]: real(parts.get(key)) for key in ("head", "embed", "rest")}
    return {name: seconds for name, seconds in known.items() if seconds is not None}


def _instrumented(passes: list[Mapping[str, Any]]) -> dict[str, float]:
    lists: list[list[Any]] = [one["step_s"] for one in passes if isinstance(one.get("step_s"), list)]
    steps = sum(map(len, lists))
    found: dict[str, float] = {}
    for one in passes:
        parts = one.get("parts_s")
        for part, seconds in parts.items() if isinstance(parts, Mapping) else ():
            values = [v for v in map(real, seconds if isinstance(seconds, list) else ()) if v is not None]
            if part in _NAMES and values and steps:
                found[_NAMES[part]] = found.get(_NAMES[part], 0.0) + math.fsum(values) / steps
    return found
