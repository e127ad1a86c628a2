"""Task metrics (placeholder while the tasks load)."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable


class Metric(ABC):
    """One metric."""


class Bleu(Metric):
    """BLEU."""


class RougeL(Metric):
    """ROUGE-L."""


class SlotErrorRate(Metric):
    """Slot error rate."""

    def __init__(self, matcher: Callable[[str, str, str], bool] | None = None) -> None:
        self.matcher = matcher
