"""How two records differ, by name: conditions of two cells, suites of two runs, machines. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One value that is not the same in both; None stands for one that is not there."""

    name: str
    ours: Any
    theirs: Any


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, ignore: Collection[str] = (), recorded: bool = False
) -> list[Difference]:
    """Return what is not the same in two records, ordered by key.

    Records within them, and lists of one length, are looked into: the name is then the path, as in `arms.1.label`.

    Args:
        ours: JSON values.
        theirs: the same.
        ignore: keys that may differ.
        recorded: only keys that both have.
    """
    keys = {*ours} & {*theirs} if recorded else {*ours} | {*theirs}
    return [found for key in sorted(keys.difference(ignore)) for found in _apart(key, ours.get(key), theirs.get(key))]


def said(found: Sequence[Difference], word: str = "and", show: Callable[[Any], str] = repr) -> str:
    """The differences in one line: `name a and b; ...`; empty where there are none."""
    return "; ".join(f"{one.name} {show(one.ours)} {word} {show(one.theirs)}" for one in found)


def _apart(name: str, ours: Any, theirs: Any) -> list[Difference]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        inner = differences(ours, theirs)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        places = range(len(ours))
        inner = [found for i in places for found in _apart(str(i), ours[i], theirs[i])]
    else:
        return [] if ours == theirs else [Difference(name, ours, theirs)]
    return [Difference(f"{name}.{found.name}", found.ours, found.theirs) for found in inner]
