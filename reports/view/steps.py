"""Where the time of a decode step goes: the parts of summary.csv under the names the report uses."""

from __future__ import annotations

from collections.abc import Mapping

from reports.facts.facts import Speed
from reports.text import real

_NAMES = {
    "attention": "attention",
    "feed": "feed-forward",
    "head": "head",
    "exit_tests": "exit tests",
    "kv_fill": "K/V fill",
    "embed": "embedding",
    "sampling": "host and rest",
    "host": "host and rest",
    "rest": "host and rest",
}


def step_parts(timed: Speed, *, baseline: bool) -> dict[str, float]:
    """Return milliseconds per token of a row of the batch, by part of the decode step; empty where nothing says.

    The medians of an arm's own instrumented passes (`<part>_ms` of summary.csv) come first. Every timed cell also repeats
    the parts of the full model's step (`step_parts_s`: one block, head, embedding, rest); they say where the time goes
    for full alone.
    """
    found: dict[str, float] = {}
    for key, name in _NAMES.items():
        if (value := timed.number(f"{key}_ms")) is not None:
            found[name] = found.get(name, 0.0) + value
    parts, depth = timed.cell.get("step_parts_s"), timed.raw("depth")
    if found or not baseline or not isinstance(parts, Mapping) or depth is None:
        return found
    block, *apart = (real(parts.get(key)) for key in ("block", "attention", "feed"))
    sublayers = {"attention": apart[0], "feed-forward": apart[1]} if None not in apart else {"blocks": block}
    known = {name: None if seconds is None else depth * seconds for name, seconds in sublayers.items()}
    known |= {_NAMES[key]: real(parts.get(key)) for key in ("head", "embed", "rest")}
    return {name: 1e3 * seconds for name, seconds in known.items() if seconds is not None}
