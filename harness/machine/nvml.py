"""What NVIDIA's management library says: the only place that asks it. Torch-free.

Every reading is None where it cannot be had (no driver, no right, not supported), never 0. Nothing here changes a setting.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from harness.machine.record import Device

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

THROTTLE_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "thermal (software)", 0x40: "thermal (hardware)", 0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
"""Bits of NVML's throttle reasons (nvml.h, nvmlClocksThrottleReasons)."""
HARMLESS = 0x1 | 0x2
"""Bits that do not slow measured work: an idle device, and clocks that somebody set on purpose (recorded as such)."""


def _string(answer: Any) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)


def _watts(milliwatts: Any) -> float:
    return float(milliwatts) / 1000


def _first(modes: Any) -> bool:
    return bool(modes[0])


_CLOCK_SM, _CLOCK_MEMORY, _SENSOR_GPU = 1, 2, 0  # nvml.h
FACTS: dict[str, tuple[str, tuple[int, ...], Callable[[Any], Any]]] = {
    "name": ("Name", (), _string),
    "uuid": ("UUID", (), _string),
    "driver": ("nvmlSystemGetDriverVersion", (), _string),
    "memory_bytes": ("MemoryInfo", (), lambda info: int(info.total)),
    "sm_mhz": ("ClockInfo", (_CLOCK_SM,), int),
    "sm_max_mhz": ("MaxClockInfo", (_CLOCK_SM,), int),
    "memory_mhz": ("ClockInfo", (_CLOCK_MEMORY,), int),
    "power_cap_w": ("EnforcedPowerLimit", (), _watts),
    "power_default_w": ("PowerManagementDefaultLimit", (), _watts),
    "temperature_c": ("Temperature", (_SENSOR_GPU,), int),
    "processes": ("ComputeRunningProcesses", (), lambda found: [int(p.pid) for p in found]),
    "throttle_reasons": ("CurrentClocksThrottleReasons", (), lambda bits: f"0x{bits:x}"),
    "persistence": ("PersistenceMode", (), bool),
    "ecc": ("EccMode", (), _first),
    "mig": ("MigMode", (), _first),
}
"""What a fingerprint has of a device, clocks and heat as they are: NVML's call, its arguments, what is taken from the answer."""


class Gpu:
    """One device.

    Args:
        library: the `pynvml` module, or what stands in for it.
        handle: NVML's handle of the device.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._nvml, self._handle = library, handle

    def fact(self, name: str) -> Any:
        """One of `FACTS`, as it is now."""
        return self._ask(*FACTS[name])

    def energy_mj(self) -> int | None:
        """Millijoules the device used since its driver was loaded (Volta and later)."""
        return self._ask("TotalEnergyConsumption", (), int)

    def power_w(self) -> float | None:
        """Power draw in watts, on newer devices the mean of the last second."""
        return self._ask("PowerUsage", (), _watts)

    def used_bytes(self) -> int | None:
        """Memory in use on the device, whoever uses it."""
        return self._ask("MemoryInfo", (), lambda info: int(info.used))

    def process_bytes(self, pid: int | None = None) -> int | None:
        """Memory NVML attributes to a process (default: this one); None where the container hides process numbers."""
        wanted = os.getpid() if pid is None else pid
        found: list[Any] = self._ask("ComputeRunningProcesses", (), list) or []
        return next((int(p.usedGpuMemory) for p in found if p.pid == wanted and p.usedGpuMemory), None)

    def _ask(self, what: str, arguments: tuple[int, ...], take: Callable[[Any], T]) -> T | None:
        if what.startswith("nvmlSystem"):
            return _attempt(lambda: take(getattr(self._nvml, what)()))
        return _attempt(lambda: take(getattr(self._nvml, f"nvmlDeviceGet{what}")(self._handle, *arguments)))


@contextlib.contextmanager
def devices(library: Any = None) -> Iterator[list[Gpu]]:
    """Every device there is, as long as the block lasts; none without the bindings or a driver.

    Args:
        library: instead of `pynvml`.
    """
    library = library or _attempt(_bindings)
    if library is None or _attempt(lambda: library.nvmlInit() or True) is None:
        yield []
        return
    try:
        count = _attempt(library.nvmlDeviceGetCount) or 0
        handles = [_attempt(lambda i=i: library.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]  # type: ignore[misc]
        yield [Gpu(library, handle) for handle in handles if handle is not None]
    finally:
        _attempt(library.nvmlShutdown)


def facts(library: Any = None) -> list[Device] | None:
    """The facts of every device; None where there is none."""
    with devices(library) as found:
        return [cast(Device, {name: gpu.fact(name) for name in FACTS}) for gpu in found] or None


def gpu(device: torch.device, library: Any = None, uuid: str | None = None) -> Gpu | None:
    """The NVML device behind a CUDA device, matched by UUID; None where there is none. NVML stays open.

    Args:
        device: as torch names it.
        library: instead of `pynvml`.
        uuid: instead of the one torch reports, `GPU-...`.
    """
    if device.type != "cuda":
        return None

    def find() -> Gpu:
        found = library or _bindings()
        found.nvmlInit()
        return Gpu(found, found.nvmlDeviceGetHandleByUUID(uuid or _cuda_uuid(device)))

    return _attempt(find)


def _cuda_uuid(device: torch.device) -> str:
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _bindings() -> Any:
    import pynvml

    return pynvml


def _attempt(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # noqa: BLE001 - NVML raises types of its own, and any of them means: not measurable
        return None
