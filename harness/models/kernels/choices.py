"""Which numbers of rows run by the project's own kernels and which by torch's calls, per kind of model: a condition of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

NATIVE, TORCH = "native", "torch"
MAX_BUCKET = 256
_choices: dict[str, str] = {}


def table() -> dict[str, str]:
    """What was found for models of this process, by shape and rows, e.g. `{"24 x block 128 4/4x32 512 relu, rows 8": "native"}`."""
    return dict(sorted(_choices.items()))


def digest() -> str:
    """Short name of the choices, for conditions that must be equal."""
    return hashlib.sha256(repr(sorted(_choices.items())).encode()).hexdigest()[:12]


def install(choices: Mapping[str, str]) -> None:
    """Use these choices (from `table` of another process) and no others."""
    _choices.clear()
    _choices.update(choices)


def choose(kind: str, rows: int, what: str) -> None:
    """From now on, models of this kind run this number of rows (and its neighbours) by `NATIVE` or `TORCH`."""
    _choices[f"{kind}, rows {bucket(rows)}"] = what


def chosen(kind: str, rows: int) -> str:
    """What runs this number of rows; the choice of the nearest one measured, the kernels where none was."""
    if not _choices:
        return NATIVE
    at = bucket(rows)
    found = _choices.get(f"{kind}, rows {at}")
    if found is None:
        known = {
            int(key.rpartition(" ")[2]): what for key, what in _choices.items() if key.rpartition(", rows ")[0] == kind
        }
        found = known[min(known, key=lambda r: (abs(r.bit_length() - at.bit_length()), r))] if known else NATIVE
    return found


def bucket(rows: int) -> int:
    """Numbers of rows that share a choice: the next power of two, up to `MAX_BUCKET`."""
    return min(1 << (rows - 1).bit_length(), MAX_BUCKET) if rows else 1
