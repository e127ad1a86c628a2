"""Energy of generating: counters read around windows of seconds, the idle machine measured apart.

Counters: NVML's total energy of a CUDA device, and the processor packages' RAPL counters where the system lets one read
them (often root alone may). They move every 1 to 100 ms: how often is measured once per device, and a window is as long as that
needs, but a second at least, since some devices sample a part of the time only. It holds whole generations, prefill included,
the device synchronised at both ends. Everything the device or package does is counted: nothing else may run on it. What cannot
be read is None, and a counter that did not move over a window, or ran backwards without a known range, is no measurement.
"""

from __future__ import annotations

import hashlib
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from harness.machine import nvml
from harness.measure.probes.latency import Clock, synchronise
from harness.records.fields import Count, EnergyFields, Idle

RAPL = Path("/sys/class/powercap")
UPDATES = 50
"""Moves of the slowest counter in a window: what an end of it may miss, one move, is then 2 % of the energy at most."""
SHORTEST_S, LONGEST_S = 1.0, 30.0
UNTOLD_S = 5.0
"""The window where no counter showed how often it moves."""
_MOVES, _WATCHED_S, _POLL_S = 5, 2.0, 2e-4


@dataclass(frozen=True)
class Counter:
    """A counter of energy that only rises.

    Attributes:
        name: `gpu`, or the RAPL domain, e.g. `package-0`.
        scope: `gpu` or `cpu`; counters of one scope are added up.
        read: the count; None where it cannot be read.
        unit_j: joules of one count.
        range: count at which it starts again from 0; None: it does not.
    """

    name: str
    scope: str
    read: Callable[[], int | None]
    unit_j: float
    range: int | None = None

    def joules(self, before: int | None, after: int | None) -> float | None:
        """Energy between two readings; None unless it is positive."""
        if before is None or after is None:
            return None
        moved = after - before
        if moved < 0 and self.range is not None:
            moved += self.range
        return moved * self.unit_j if moved > 0 else None


def counters(device: torch.device, folder: Path = RAPL, library: Any = None, uuid: str | None = None) -> list[Counter]:
    """The counters that can be read here: the device's own, and those of the processor packages."""
    found = []
    gpu = nvml.gpu(device, library, uuid)
    if gpu is not None and gpu.energy_mj() is not None:
        found.append(Counter("gpu", "gpu", gpu.energy_mj, 1e-3))
    for domain in sorted(folder.glob("intel-rapl:*")):
        name = _text(domain / "name")
        # Subdomains (cores, memory controller) are parts of a package or lie beside it; packages are what adds up.
        if name and name.startswith("package") and _number(domain / "energy_uj") is not None:
            read = partial(_number, domain / "energy_uj")
            found.append(Counter(name, "cpu", read, 1e-6, _number(domain / "max_energy_range_uj")))
    return found


def update_s(
    meters: Sequence[Counter], clock: Clock = time.perf_counter, sleep: Callable[[float], None] = time.sleep
) -> float | None:
    """Seconds between two moves of the slowest counter; None where one moved less than twice while it was watched.

    A counter is read again and again until it has moved six times, two seconds long at most; the median of the times between
    its moves counts, so that a reading that came late does not.
    """
    began = clock()
    last, moved = [meter.read() for meter in meters], [list[float]() for _ in meters]
    while clock() - began < _WATCHED_S and any(len(times) <= _MOVES for times in moved):
        sleep(_POLL_S)
        for i, meter in enumerate(meters):
            if (now := meter.read()) is not None and now != last[i]:
                last[i] = now
                moved[i].append(clock())
    slowest = 0.0
    for times in moved:
        if len(times) < 2:
            return None
        slowest = max(slowest, statistics.median(b - a for a, b in itertools.pairwise(times)))
    return slowest or None


def window_s(asked: float | None, update: float | None) -> float:
    """Seconds of a window: what the suite asks for, else what counters that move so often need."""
    if asked is not None:
        return asked
    return UNTOLD_S if update is None else min(max(UPDATES * update, SHORTEST_S), LONGEST_S)


def identity(device: torch.device) -> str:
    """Whose counters they are: the GPU as NVML names it, or the machine, by a digest of its name."""
    if device.type == "cuda":
        return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return f"cpu of {hashlib.sha256(platform.node().encode()).hexdigest()[:12]}"


def idle(
    meters: Sequence[Counter],
    device: torch.device,
    asked_s: float | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Idle:
    """Read the idle machine's counters over a window.

    Args:
        meters: from `counters`.
        device: theirs.
        asked_s: seconds of the window; None: as long as the counters need, see `window_s`.
        clock: seconds, rising.
        sleep: waits so many seconds.
    """
    synchronise(device)()
    update = update_s(meters, clock, sleep)
    wanted_s = window_s(asked_s, update)
    began, before = clock(), [meter.read() for meter in meters]
    sleep(wanted_s)
    after, passed = [meter.read() for meter in meters], clock() - began
    joules = {meter.name: meter.joules(before[i], after[i]) for i, meter in enumerate(meters)}
    return {"window_s": passed, "joules": joules, "update_s": update}


def measure(
    run: Callable[[], int],
    meters: Sequence[Counter],
    device: torch.device,
    asked_s: float | None = None,
    *,
    power_w: Callable[[], float | None] | None = None,
    quiet: Idle | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyFields:
    """Measure generations repeated over a window, beside the idle machine's.

    Args:
        run: one generation; returns the tokens it yielded, the ones from prefill included.
        meters: from `counters`.
        device: that generates.
        asked_s: seconds of the window at least, which ends with the generation that passes it; None: as long as the counters
            need by what `quiet` says of them, see `window_s`.
        power_w: a second reading of the power, taken after every generation.
        quiet: the idle machine as `idle` read it; None: it is read first, over a window of its own.
        clock: seconds, rising.
        sleep: waits so many seconds.

    Returns:
        `window_s`, `idle_window_s`, `generations`, `tokens`; `counters`: for each its joules in both windows;
        `energy_j_per_token` of the scope that generates, `energy_above_idle_j_per_token`, `cpu_energy_j_per_token`,
        `idle_w`, `mean_power_w` by the counter and `sampled_power_w` by the second reading.
    """
    wait = synchronise(device)
    if quiet is None:
        quiet = idle(meters, device, asked_s, clock, sleep)
    wanted_s = window_s(asked_s, quiet.get("update_s"))
    idle_s = quiet["window_s"]
    generations = tokens = 0
    sampled: list[float] = []
    wait()
    began, start = clock(), [meter.read() for meter in meters]
    while clock() - began < wanted_s:
        tokens += run()
        generations += 1
        if power_w is not None and (watts := power_w()) is not None:
            sampled.append(watts)
    wait()
    end, active_s = [meter.read() for meter in meters], clock() - began
    readings: list[Count] = [
        {
            "name": meter.name,
            "scope": meter.scope,
            "idle_j": quiet["joules"].get(meter.name),
            "active_j": meter.joules(start[i], end[i]),
        }
        for i, meter in enumerate(meters)
    ]
    own = "gpu" if device.type == "cuda" else "cpu"
    active, still = _total(readings, own, "active_j"), _total(readings, own, "idle_j")
    processor = _total(readings, "cpu", "active_j")
    idle_w = None if still is None else still / idle_s
    found = {
        "window_s": active_s,
        "idle_window_s": idle_s,
        "generations": generations,
        "tokens": tokens,
        "counters": readings,
        "energy_j_per_token": None if active is None else active / tokens,
        "energy_above_idle_j_per_token": None
        if active is None or idle_w is None
        else (active - idle_w * active_s) / tokens,
        "cpu_energy_j_per_token": None if processor is None else processor / tokens,
        "idle_w": idle_w,
        "mean_power_w": None if active is None else active / active_s,
        "sampled_power_w": sum(sampled) / len(sampled) if sampled else None,
    }
    return cast(EnergyFields, found)


def _total(readings: Sequence[Count], scope: str, key: Literal["idle_j", "active_j"]) -> float | None:
    """Sum over the counters of a scope; None if there is none, or one of them did not tell."""
    values = [reading[key] for reading in readings if reading["scope"] == scope]
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None
