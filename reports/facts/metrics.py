"""How a metric is named and read in reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.records import readings
from reports.text import label


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is named and read."""

    name: str
    title: str
    unit: str
    better: str
    combine: Callable[[np.ndarray], np.ndarray]

    @property
    def points(self) -> bool:
        """Whether it counts in points of a hundred, as the margin does."""
        return self.unit in ("points", "%")

    def margin(self, margin: float, full: float) -> float:
        """Return the loss one accepts in the metric's own unit: points where it counts in points, else percent of full's value."""
        return margin if self.points else abs(full) * margin / 100


def metric_title(name: str) -> str:
    """How a metric is called in words."""
    how = readings.reading(name)
    return how.title if how and how.title else label(name).replace("_", " ")


def metric_info(name: str) -> MetricInfo | None:
    """How to read and name a metric; None for one this version does not know."""
    how = readings.reading(name)
    if how is None:
        return None
    unit = {"percent": "%"}.get(how.unit, how.unit)
    return MetricInfo(name, metric_title(name), unit, how.better, how.combine)
