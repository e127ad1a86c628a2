"""Where the time of a decode step goes: the parts a cell recorded, under the names the report uses."""

from __future__ import annotations

from collections.abc import Mapping

from reports.facts import Speed
from reports.text import real

_NAMES = {
    "blocks": "blocks",
    "head": "head",
    "exit_tests": "exit tests",
    "exit_test": "exit tests",
    "kv_fill": "K/V fill",
    "fill": "K/V fill",
    "embed": "embedding",
    "embedding": "embedding",
    "host": "host and rest",
    "rest": "host and rest",
    "sampling": "host and rest",
    "sampling_and_host": "host and rest",
}


def step_parts(timed: Speed, *, baseline: bool) -> dict[str, float]:
    """Return seconds of a decode step by part; empty where the cell does not say.

    A cell's own instrumented pass (`breakdown_s`) comes first. Every timed cell also repeats the parts of the full
    model's step (`step_parts_s`: one block, head, embedding, rest), which say where the time goes for full alone.
    """
    own = timed.cell.get("breakdown_s")
    if isinstance(own, Mapping):
        found: dict[str, float] = {}
        for key, value in own.items():
            seconds = real(value)
            if seconds is not None and key in _NAMES:
                found[_NAMES[key]] = found.get(_NAMES[key], 0.0) + seconds
        return found
    parts, depth = timed.cell.get("step_parts_s"), timed.raw("depth")
    if not baseline or not isinstance(parts, Mapping) or depth is None:
        return {}
    block = real(parts.get("block"))
    known = {"blocks": None if block is None else depth * block}
    known |= {_NAMES[key]: real(parts.get(key)) for key in ("head", "embed", "rest")}
    return {name: seconds for name, seconds in known.items() if seconds is not None}
