"""How much memory the copies of the weights may take that faster layouts need; asked when a layout is chosen.

A copy is known by its name: one for all blocks of a shape, and for `packed` one for each bucket of rows. What was chosen once
is installed in every process of a run, so this decides once for all of them; a process that was given its choices asks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from harness.machine.environment import memory_limit

SHARE = 0.5
"""Of the memory that is free when the first layout is chosen, the weights already loaded: the rest is for caches and results."""

_held: dict[str, int] = {}
_room: int | None = None


def fit(copies: Mapping[str, int]) -> bool:
    """Whether these copies, name to bytes, may be made beside those there are."""
    new = sum(size for name, size in copies.items() if name not in _held)
    return new == 0 or sum(_held.values()) + new <= _limit()


def hold(copies: Mapping[str, int]) -> None:
    """Count these copies from now on."""
    _held.update(copies)


def held() -> dict[str, int]:
    """Return the copies that are counted, name to bytes."""
    return dict(_held)


def restore(copies: Mapping[str, int]) -> None:
    """Count these copies and no others from now on."""
    _held.clear()
    _held.update(copies)


def _limit() -> int:
    """Bytes that all copies together may take."""
    global _room
    if _room is None:
        free, granted = psutil.virtual_memory().available, memory_limit()
        _room = int(SHARE * (free if granted is None else min(free, granted)))
    return _room
