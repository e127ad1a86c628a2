"""What the machine did while a worker measured: load, foreign work, throttling, temperature. Torch-free.

Sampled from the driver's process, not from the measured one: a second's sleep between samples, and a few system files and
NVML readings per sample. Counters (busy time, quota throttling) are read at both ends and miss nothing in between. None for
what cannot be read. Nothing here changes a setting of the device.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import psutil

from harness.machine import nvml
from harness.machine.record import Cpu, Gpu, Machine, Process
from harness.machine.system import attempt, text, texts

INTERVAL_S = 1.0


class Monitor:
    """Watches the machine between `with` and the call of `record`.

    Args:
        interval_s: seconds between samples.
        library: NVML's bindings, or a double of them; default: pynvml if it and a driver are there.
        clock: seconds, monotonic.
        cpu_clock: processor seconds of this process.
    """

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        library: Any = None,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._interval_s, self._clock, self._cpu_clock = interval_s, clock, cpu_clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._devices = nvml.devices(library)
        self._gpus: list[_Gpu] = []
        self._temperatures: list[float] = []
        self._available: list[int] = []

    def __enter__(self) -> Self:
        self._began, self._own_s = self._clock(), self._cpu_clock()
        self._before, self._load = counters(), _load()
        self._gpus = [_Gpu(device) for device in self._devices.__enter__()]
        self.sample(first=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()
        self._after, self._seconds = counters(), self._clock() - self._began
        self._driver_s = self._cpu_clock() - self._own_s
        self._devices.__exit__(None, None, None)

    def sample(self, first: bool = False) -> None:
        """Take one sample; called by the thread, and by tests."""
        ours = _tree() if self._gpus else set()  # lists every process of the machine: not for nothing
        for gpu in self._gpus:
            gpu.sample(ours, first)
        if (temperature := _cpu_temperature()) is not None:
            self._temperatures.append(temperature)
        if (available := attempt(lambda: int(psutil.virtual_memory().available))) is not None:
            self._available.append(available)

    def record(self, worker_cpu_s: float | None) -> Machine:
        """What was seen, as JSON values; after the `with` block.

        Args:
            worker_cpu_s: CPU seconds the worker used, so that the rest can be told from it; None: not known.

        Returns:
            `seconds`, `load_average` (one minute, before and after), `memory_available_bytes` (least), `cpu` and `gpus`.
            `cpu.foreign_share`: share of the machine's processor time that neither worker nor driver used; `steal_share`:
            share that the hypervisor gave to others; `quota_throttled` of `quota_periods`: periods in which the control
            group's quota stopped us. A GPU's `throttled_samples` are those with a reason that slows work down.
        """
        return {
            "seconds": round(self._seconds, 3),
            "load_average": [self._load, _load()],
            "memory_available_bytes": min(self._available, default=None),
            "cpu": self._cpu(worker_cpu_s),
            "gpus": [gpu.record() for gpu in self._gpus] or None,
        }

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.sample()

    def _cpu(self, worker_cpu_s: float | None) -> Cpu:
        spent = {key: _minus(self._after.get(key), self._before.get(key)) for key in self._after}
        capacity, busy, steal = spent.get("capacity_s"), spent.get("busy_s"), spent.get("steal_s")
        foreign = None
        if capacity and busy is not None and worker_cpu_s is not None:
            foreign = round(min(max((busy - worker_cpu_s - self._driver_s) / capacity, 0.0), 1.0), 4)
        found = {
            "busy_share": round(busy / capacity, 4) if capacity and busy is not None else None,
            "foreign_share": foreign,
            "steal_share": round(steal / capacity, 4) if capacity and steal is not None else None,
            "quota_throttled": spent.get("quota_throttled"),
            "quota_periods": spent.get("quota_periods"),
            "thermal_throttled": spent.get("thermal_throttled"),
            "temperature_c": max(self._temperatures, default=None),
        }
        return cast(Cpu, found)


class _Gpu:
    """One GPU's samples."""

    def __init__(self, device: nvml.Gpu) -> None:
        self._device = device
        self.uuid, self.name = device.fact("uuid"), device.fact("name")
        self._reasons: list[int] = []
        self._values: dict[str, list[float]] = {"sm_mhz": [], "temperature_c": [], "power_w": []}
        self._present: set[int] = set()
        self._foreign: dict[int, str] | None = None

    def sample(self, ours: set[int], first: bool) -> None:
        device = self._device
        if (reasons := device.fact("throttle_reasons")) is not None:
            self._reasons.append(int(reasons, 16))
        readings = {**{key: device.fact(key) for key in ("sm_mhz", "temperature_c")}, "power_w": device.power_w()}
        for key, value in readings.items():
            if value is not None:
                self._values[key].append(value)
        processes = device.fact("processes")
        if processes is None:
            return
        self._foreign = {} if self._foreign is None else self._foreign
        pids = set(processes) - ours
        if first:
            self._present = pids
        hidden = {pid for pid in pids - self._present if not psutil.pid_exists(pid)}
        # In a container NVML may give our own process a number that is not known here: the first such newcomer is the worker.
        excused = {min(hidden)} if hidden else set()
        for pid in pids - excused:
            self._foreign.setdefault(pid, _process_name(pid))

    def record(self) -> Gpu:
        known = self._reasons
        names = Counter(name for bits in known for bit, name in nvml.THROTTLE_REASONS.items() if bits & bit)
        ends = {f"{key}_{end.__name__}": end(v) if v else None for key, v in self._values.items() for end in (min, max)}
        found = {
            "uuid": self.uuid,
            "name": self.name,
            "samples": len(known),
            "throttled_samples": sum(bool(bits & ~nvml.HARMLESS) for bits in known) if known else None,
            "throttle_reasons": dict(names),
            **ends,
            "foreign_processes": None
            if self._foreign is None
            else [{"pid": pid, "name": name} for pid, name in sorted(self._foreign.items())],
        }
        return cast(Gpu, found)


def foreign_processes(busy_share: float = 0.2, window_s: float = 1.0) -> list[Process]:
    """Processes outside this one's tree that use at least `busy_share` of a core over `window_s`: pid, name and share."""
    ours = _tree()
    before: dict[int, float] = {}
    running = []
    for process in psutil.process_iter(["pid"]):
        if process.pid not in ours and (spent := attempt(partial(_spent, process))) is not None:
            before[process.pid] = spent
            running.append(process)
    began = time.monotonic()
    time.sleep(window_s)
    passed = time.monotonic() - began
    found: list[Process] = []
    for process in running:
        spent = attempt(partial(_spent, process))
        share = (spent - before[process.pid]) / passed if spent is not None else 0.0
        if share >= busy_share:
            found.append({"pid": process.pid, "name": _process_name(process.pid), "cores": round(share, 2)})
    return sorted(found, key=lambda p: -p["cores"])


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _tree() -> set[int]:
    """This process, its ancestors and its descendants: what is not foreign."""
    me = psutil.Process()
    related = [me, *(attempt(me.parents) or []), *(attempt(lambda: me.children(recursive=True)) or [])]
    return {process.pid for process in related}


def _process_name(pid: int) -> str:
    return attempt(lambda: psutil.Process(pid).name()) or "unknown"


def _load() -> float | None:
    load: float | None = attempt(lambda: round(os.getloadavg()[0], 2))
    return load


def counters() -> dict[str, float | None]:
    """Counters that only rise: processor seconds of the whole machine, and how often we were slowed down."""
    return {
        **processor_seconds(),
        "quota_throttled": _quota("nr_throttled"),
        "quota_periods": _quota("nr_periods"),
        "thermal_throttled": _thermal_throttled(),
    }


def processor_seconds() -> dict[str, float | None]:
    """`busy_s`, `capacity_s` and `steal_s` of all processors together since the machine started; None where it does not tell."""
    times = attempt(psutil.cpu_times)
    busy = capacity = steal = None
    if times is not None:
        # Linux counts guest time within user time already.
        parts = {k: v for k, v in times._asdict().items() if k not in ("guest", "guest_nice")}
        steal = parts.get("steal")
        capacity = sum(parts.values())
        busy = capacity - parts["idle"] - parts.get("iowait", 0.0) - (steal or 0.0)
    return {"busy_s": busy, "capacity_s": capacity, "steal_s": steal}


def _quota(key: str) -> int | None:
    """A counter of the control group's processor quota: periods passed, or those in which it stopped us."""
    for path in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
        for line in (text(path) or "").splitlines():
            if line.startswith(f"{key} "):
                return int(line.split()[1])
    return None


def _thermal_throttled() -> int | None:
    counts = texts("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(map(int, counts)) if counts else None


def _cpu_temperature() -> float | None:
    """The hottest of the processor's sensors."""
    sensors = attempt(lambda: psutil.sensors_temperatures()) or {}
    chips = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
    return max((entry.current for chip in chips for entry in sensors.get(chip, ())), default=None)


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
