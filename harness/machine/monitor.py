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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

INTERVAL_S = 1.0

THROTTLE_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "thermal (software)", 0x40: "thermal (hardware)", 0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
"""Bits of NVML's throttle reasons (nvml.h, nvmlClocksThrottleReasons)."""
HARMLESS = 0x1 | 0x2
"""Bits that do not slow measured work: an idle device, and clocks that somebody set on purpose (recorded as such)."""


class Monitor:
    """Watches the machine between `with` and the call of `record`.

    Args:
        interval_s: seconds between samples.
        nvml: NVML's module, or a double of it; default: pynvml if it and a driver are there.
        clock: seconds, monotonic.
    """

    def __init__(
        self, interval_s: float = INTERVAL_S, nvml: Any = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s, self._clock = interval_s, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._nvml = nvml if nvml is not None else _pynvml()
        self._gpus: list[_Gpu] = []
        self._temperatures: list[float] = []
        self._available: list[int] = []

    def __enter__(self) -> Self:
        self._began, self._own_s = self._clock(), time.process_time()
        self._before, self._load = _counters(), _load()
        if self._nvml is not None:
            self._gpus = _open_gpus(self._nvml)
        self.sample(first=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()
        self._after, self._seconds = _counters(), self._clock() - self._began
        self._driver_s = time.process_time() - self._own_s
        if self._nvml is not None and self._gpus:
            self._nvml.nvmlShutdown()

    def sample(self, first: bool = False) -> None:
        """Take one sample; called by the thread, and by tests."""
        ours = _tree() if self._gpus else set()  # lists every process of the machine: not for nothing
        for gpu in self._gpus:
            gpu.sample(ours, first)
        if (temperature := _cpu_temperature()) is not None:
            self._temperatures.append(temperature)
        if (available := _attempt(lambda: int(psutil.virtual_memory().available))) is not None:
            self._available.append(available)

    def record(self, worker_cpu_s: float | None) -> dict[str, Any]:
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

    def _cpu(self, worker_cpu_s: float | None) -> dict[str, Any]:
        spent = {key: _minus(self._after.get(key), self._before.get(key)) for key in self._after}
        capacity, busy, steal = spent.get("capacity_s"), spent.get("busy_s"), spent.get("steal_s")
        foreign = None
        if capacity and busy is not None and worker_cpu_s is not None:
            foreign = round(min(max((busy - worker_cpu_s - self._driver_s) / capacity, 0.0), 1.0), 4)
        return {
            "busy_share": round(busy / capacity, 4) if capacity and busy is not None else None,
            "foreign_share": foreign,
            "steal_share": round(steal / capacity, 4) if capacity and steal is not None else None,
            "quota_throttled": spent.get("quota_throttled"),
            "quota_periods": spent.get("quota_periods"),
            "thermal_throttled": spent.get("thermal_throttled"),
            "temperature_c": max(self._temperatures, default=None),
        }


class _Gpu:
    """One GPU's samples."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.uuid, self.name = self._ask("nvmlDeviceGetUUID"), self._ask("nvmlDeviceGetName")
        self._reasons: list[int | None] = []
        self._values: dict[str, list[float]] = {"sm_mhz": [], "temperature_c": [], "power_w": []}
        self._present: set[int] = set()
        self._foreign: dict[int, str] | None = None

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None
        return answer.decode(errors="replace") if isinstance(answer, bytes) else answer

    def sample(self, ours: set[int], first: bool) -> None:
        nvml = self._nvml
        self._reasons.append(self._ask("nvmlDeviceGetCurrentClocksThrottleReasons"))
        power = self._ask("nvmlDeviceGetPowerUsage")
        for key, value in (
            ("sm_mhz", self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)),
            ("temperature_c", self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)),
            ("power_w", None if power is None else power / 1000),
        ):
            if value is not None:
                self._values[key].append(value)
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if processes is None:
            return
        self._foreign = {} if self._foreign is None else self._foreign
        pids = {int(process.pid) for process in processes} - ours
        if first:
            self._present = pids
        hidden = {pid for pid in pids - self._present if not psutil.pid_exists(pid)}
        # In a container NVML may give our own process a number that is not known here: the first such newcomer is the worker.
        excused = {min(hidden)} if hidden else set()
        for pid in pids - excused:
            self._foreign.setdefault(pid, _process_name(pid))

    def record(self) -> dict[str, Any]:
        known = [bits for bits in self._reasons if bits is not None]
        names = Counter(name for bits in known for bit, name in THROTTLE_REASONS.items() if bits & bit)
        ends = {f"{key}_{end.__name__}": end(v) if v else None for key, v in self._values.items() for end in (min, max)}
        return {
            "uuid": self.uuid,
            "name": self.name,
            "samples": len(known),
            "throttled_samples": sum(bool(bits & ~HARMLESS) for bits in known) if known else None,
            "throttle_reasons": dict(names),
            **ends,
            "foreign_processes": None
            if self._foreign is None
            else [{"pid": pid, "name": name} for pid, name in sorted(self._foreign.items())],
        }


def _open_gpus(nvml: Any) -> list[_Gpu]:
    try:
        nvml.nvmlInit()
        return [_Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def foreign_processes(busy_share: float = 0.2, window_s: float = 1.0) -> list[dict[str, Any]]:
    """Processes outside this one's tree that use at least `busy_share` of a core over `window_s`: pid, name and share."""
    ours = _tree()
    before: dict[int, float] = {}
    running = []
    for process in psutil.process_iter(["pid"]):
        if process.pid not in ours and (spent := _attempt(partial(_spent, process))) is not None:
            before[process.pid] = spent
            running.append(process)
    began = time.monotonic()
    time.sleep(window_s)
    passed = time.monotonic() - began
    found = []
    for process in running:
        spent = _attempt(partial(_spent, process))
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
    related = [me, *(_attempt(me.parents) or []), *(_attempt(lambda: me.children(recursive=True)) or [])]
    return {process.pid for process in related}


def _process_name(pid: int) -> str:
    return _attempt(lambda: psutil.Process(pid).name()) or "unknown"


def _load() -> float | None:
    load: float | None = _attempt(lambda: round(os.getloadavg()[0], 2))
    return load


def _counters() -> dict[str, float | None]:
    """Counters that only rise: processor seconds of the whole machine, and how often we were slowed down."""
    times = _attempt(psutil.cpu_times)
    busy = capacity = steal = None
    if times is not None:
        # Linux counts guest time within user time already.
        parts = {k: v for k, v in times._asdict().items() if k not in ("guest", "guest_nice")}
        steal = parts.get("steal")
        capacity = sum(parts.values())
        busy = capacity - parts["idle"] - parts.get("iowait", 0.0) - (steal or 0.0)
    return {
        "busy_s": busy,
        "capacity_s": capacity,
        "steal_s": steal,
        "quota_throttled": _quota("nr_throttled"),
        "quota_periods": _quota("nr_periods"),
        "thermal_throttled": _thermal_throttled(),
    }


def _quota(key: str) -> int | None:
    """A counter of the control group's processor quota: periods passed, or those in which it stopped us."""
    for path in ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"):
        for line in (_attempt(Path(path).read_text) or "").splitlines():
            if line.startswith(f"{key} "):
                return int(line.split()[1])
    return None


def _thermal_throttled() -> int | None:
    pattern = "cpu[0-9]*/thermal_throttle/core_throttle_count"
    paths = _attempt(lambda: list(Path("/sys/devices/system/cpu").glob(pattern))) or []
    counts = [text.strip() for path in paths if (text := _attempt(path.read_text))]
    return sum(map(int, counts)) if counts else None


def _cpu_temperature() -> float | None:
    """The hottest of the processor's sensors."""
    sensors = _attempt(lambda: psutil.sensors_temperatures()) or {}
    chips = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
    return max((entry.current for chip in chips for entry in sensors.get(chip, ())), default=None)


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _attempt(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, AttributeError, RuntimeError, NotImplementedError, psutil.Error):
        return None
