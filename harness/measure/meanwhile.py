"""What the machine did during one repeat, read in the measured process right before and after it. Torch-free.

A few small files are read outside the timed region. The kernel counts the processor's time in hundredths of a second per core:
over less than MIN_S seconds it does not tell whose time it was.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass

from harness.machine.monitor import processor_seconds
from harness.machine.system import texts
from harness.records.fields import Meanwhile

MIN_S = 0.25
"""Shorter repeats have no shares of the processor's time."""


@dataclass(frozen=True)
class Before:
    """Counters as a repeat begins."""

    wall_s: float
    own_s: float
    processor: dict[str, float | None]
    switches: int

    @staticmethod
    def read() -> Before:
        """The counters of now."""
        return Before(time.monotonic(), time.process_time(), processor_seconds(), _switches())

    def record(self) -> Meanwhile:
        """What happened since: see `harness.records.cells.Meanwhile`."""
        passed = time.monotonic() - self.wall_s
        own, now = time.process_time() - self.own_s, processor_seconds()
        spent = {
            key: None if value is None or before is None else value - before
            for (key, value), before in zip(now.items(), self.processor.values(), strict=True)
        }
        capacity, busy, steal = spent["capacity_s"], spent["busy_s"], spent["steal_s"]
        told = passed >= MIN_S and capacity is not None and capacity > 0
        return {
            "seconds": round(passed, 4),
            "foreign_share": _share(None if busy is None else busy - own, capacity) if told else None,
            "steal_share": _share(steal, capacity) if told else None,
            "switches": _switches() - self.switches,
            "mhz": _mhz(),
        }


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else round(min(max(part / whole, 0.0), 1.0), 3)


def _switches() -> int:
    """How often this process had to give up a processor it was not done with."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _mhz() -> float | None:
    """The mean clock of the cores, where the system tells it."""
    if not os.path.isdir("/sys/devices/system/cpu/cpu0/cpufreq"):
        return None
    told = [int(text) for text in texts("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq") if text.isdigit()]
    return round(sum(told) / len(told) / 1000, 1) if told else None
