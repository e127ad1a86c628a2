"""Text as a report may show it: foreign strings made visible, numbers made even, unmeasured things left empty."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

MISSING = "–"
LABEL_LIMIT = 60
VALUE_LIMIT = 400


def clean(value: object, limit: int | None = VALUE_LIMIT) -> str:
    """Return `value` as text in which nothing is invisible: control characters, direction marks, surrogates are shown.

    Line feeds and tabs stay. Text longer than `limit` characters is cut, and says by how much. HTML is not escaped
    here: the templates do that, once.
    """
    text = value if isinstance(value, str) else str(value)
    left_out = 0
    if limit is not None and len(text) > limit:
        left_out = len(text) - limit
        text = text[:limit]
    if not text.isprintable():
        text = "".join(map(_visible, text))
    return f"{text}… ({left_out:,} more characters)" if left_out else text


def label(value: object, limit: int = LABEL_LIMIT) -> str:
    """Return a short one-line form of `value` for row headers, axes and titles."""
    text = " ".join(clean(value, 4 * limit).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t":
        return char
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    kind = unicodedata.category(char)
    # Format characters reorder what stands around them or hide in it; the two joiners that scripts and emoji need stay.
    if kind in ("Zl", "Zp") or (kind == "Cf" and code not in (0x200C, 0x200D)):
        return f"⟨U+{code:04X}⟩"
    return "\ufffd" if kind in ("Cc", "Cs", "Cn") else char


def real(value: Any) -> float | None:
    """Return `value` as a finite float, or None where it is missing, not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def fixed(value: Any, decimals: int = 2) -> str:
    """Return `value` with a fixed number of decimals and a true minus sign; a dash where there is no value.

    From ten thousand on the decimals go, from a million on it is a power of ten.
    """
    number = real(value)
    if number is None:
        return MISSING
    if abs(number) >= 1e6:
        digits, power = f"{number:.1e}".split("e")
        return f"{digits}×10{str(int(power)).translate(_RAISED)}".replace("-", "\u2212")
    text = f"{number:,.{0 if abs(number) >= 1e4 else decimals}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", "\u2212")


def signed(value: Any, decimals: int = 1) -> str:
    """Return `value` with its sign always shown."""
    text = fixed(value, decimals)
    number = real(value)
    return f"+{text}" if number is not None and number > 0 and text.strip("0.,") else text


def span(low: Any, high: Any, decimals: int = 2, *, plus: bool = False) -> str:
    """Return `low to high`; empty where either end is missing."""
    if real(low) is None or real(high) is None:
        return ""
    form = signed if plus else fixed
    return f"{form(low, decimals)} to {form(high, decimals)}"


def scaled(values: Iterable[Any], units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """Return the (divisor, unit) in which the largest of `values` is at least 1; the last unit where none is."""
    largest = max((abs(number) for number in map(real, values) if number is not None), default=0.0)
    for divisor, unit in units:
        if largest >= divisor:
            return divisor, unit
    return units[-1]


BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"))
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def decimals_for(values: Iterable[Any], digits: int = 3) -> int:
    """Return the decimals that give the median magnitude of `values` about `digits` significant digits (0 to 4)."""
    sizes = sorted(abs(number) for number in map(real, values) if number)
    if not sizes:
        return digits - 1
    return min(4, max(0, digits - 1 - math.floor(math.log10(sizes[len(sizes) // 2]))))


def listed(items: Iterable[str], limit: int = 6) -> str:
    """Return `a, b and c`, cut after `limit` items."""
    items = list(items)
    if len(items) > limit:
        items = [*items[:limit], f"{len(items) - limit} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return `1 cell`, `3 cells`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
