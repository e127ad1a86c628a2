"""What trials cost: seconds of the clock and of the processor, summed. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


class Clock:
    """Adds the seconds spent inside to a cost: wall clock, and of this process's threads on the CPU."""

    def __init__(self, cost: Json) -> None:
        self._cost = cost

    def __enter__(self) -> None:
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *failure: object) -> None:
        self._cost["seconds"] += time.perf_counter() - self._began
        self._cost["cpu_seconds"] += time.process_time() - self._began_cpu


def add_costs(costs: Sequence[Mapping[str, Any]]) -> Json:
    """The sum of several costs."""
    return {key: sum(cost[key] for cost in costs) for key in costs[0]}
