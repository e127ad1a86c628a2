"""Sets of sublayers as text, short enough to be a method's parameter: what a profile finds is written so.

`b3` is block 3, `a3` its attention, `f3` its feed-forward sublayer; `a3x10123` is skipped with the state multiplied by 1.0123 (ten
thousandths). Several are joined by `_`, in any order. Sublayers are numbered from the bottom up: 2 l is the attention of block l,
2 l + 1 its feed-forward sublayer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from harness.errors import BadInput
from harness.plan import LayerPlan

_ONE = re.compile(r"([abf])(\d+)(?:x(\d+))?")
_UNIT = 10_000


def read(text: str) -> dict[int, float]:
    """The sublayers a text names, each with the factor of the state that passes it.

    Raises:
        BadInput: it has another form, or names one twice.
    """
    found: dict[int, float] = {}
    for part in text.split("_") if text else ():
        match = _ONE.fullmatch(part)
        if match is None:
            raise BadInput(
                f"{part!r} is no sublayer; write b3 (a block), a3 or f3 (its attention or feed), joined by _"
            )
        kind, layer, factor = match[1], int(match[2]), 1.0 if match[3] is None else int(match[3]) / _UNIT
        for place in {"a": (0,), "f": (1,), "b": (0, 1)}[kind]:
            if 2 * layer + place in found:
                raise BadInput(f"{part!r} names a sublayer that was named before; name each once")
            found[2 * layer + place] = factor
    return found


def written(skipped: Mapping[int, float] | Iterable[int]) -> str:
    """The text that `read` gives these sublayers back from; factors are rounded to ten thousandths."""
    factors = dict(skipped) if isinstance(skipped, Mapping) else dict.fromkeys(skipped, 1.0)
    parts = []
    for sublayer in sorted(factors):
        layer, feed = divmod(sublayer, 2)
        whole = factors.get(2 * layer) == factors.get(2 * layer + 1) == 1
        if whole and feed:
            continue
        factor = round(factors[sublayer] * _UNIT)
        parts.append(f"{'b' if whole else 'f' if feed else 'a'}{layer}" + (f"x{factor}" if factor != _UNIT else ""))
    return "_".join(parts)


def without(skipped: Mapping[int, float] | Iterable[int], depth: int, *, fill: bool = False) -> LayerPlan:
    """All sublayers of `depth` blocks but these; `fill`: blocks whose attention is skipped store keys and values all the same.

    Raises:
        BadInput: the model has no such block.
    """
    factors = dict(skipped) if isinstance(skipped, Mapping) else dict.fromkeys(skipped, 1.0)
    if factors and max(factors) >= 2 * depth:
        raise BadInput(f"skip: there is no block {max(factors) // 2} in a model of {depth} blocks (0..{depth - 1})")
    attention = tuple(2 * layer not in factors for layer in range(depth))
    feed = tuple(2 * layer + 1 not in factors for layer in range(depth))
    scale = tuple(factors.get(i, 1.0) for i in range(2 * depth)) if any(f != 1 for f in factors.values()) else ()
    return LayerPlan(attention, feed, tuple(not a for a in attention) if fill and not all(attention) else (), scale)


def blocks(layers: Iterable[int]) -> list[int]:
    """Both sublayers of blocks."""
    return [sublayer for layer in layers for sublayer in (2 * layer, 2 * layer + 1)]
