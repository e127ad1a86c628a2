"""Speed-ups above their byte limit or the predicted one, and why, told once for all that have the same reason. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

OWN_STEP = "the full model's own step is"
CACHE = "fits the cache"
HOST = "the baseline was bound by the host, not by bytes"
UNEXPLAINED = "nothing that was recorded explains it"
"""What `believable.explanation` says of a cell, by which the reasons are told apart; the first that fits counts."""
_REASONS = {
    CACHE: "what a step reads fits the cache, what a full step reads does not",
    OWN_STEP: "the full model's own step gains as much when it runs as few blocks",
    HOST: HOST,
    UNEXPLAINED: UNEXPLAINED,
}
_ABOVE = {"above its byte limit": "above the byte limit", "above the predicted": "above the predicted speed-up"}
_MOST = 4
"""Arms that one sentence names."""


def reasons(explanation: str) -> list[tuple[str, str]]:
    """What a speed-up is above, each with the reason in words; both as every table says them."""
    found = []
    for part in explanation.split("; "):
        above = next((words for start, words in _ABOVE.items() if part.startswith(start)), "")
        reason = next((words for mark, words in _REASONS.items() if mark in part), "")
        if above and reason:
            found.append((above, reason))
    return found


def sentences(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One sentence for everything that is above the same for the same reason.

    Args:
        rows: of the summary, with `label`, `batch_size` and `explanation`.
    """
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row in rows:
        for told in reasons(str(row.get("explanation") or "")):
            found.setdefault(told, {}).setdefault(str(row["label"]), []).append(int(row["batch_size"]))
    return [f"{above[0].upper()}{above[1:]}: {_who(arms)}: {reason}." for (above, reason), arms in found.items()]


def _who(arms: Mapping[str, list[int]]) -> str:
    """Arms with their batch sizes, those at the same sizes together."""
    first, rest = list(arms.items())[:_MOST], len(arms) - _MOST
    said = []
    for sizes, group in itertools.groupby(first, key=lambda each: each[1]):
        said.append(f"{', '.join(label for label, _ in group)} at batch {', '.join(map(str, sizes))}")
    return "; ".join([*said, f"{rest} more"] if rest > 0 else said)
