"""What NVIDIA's management library says of one device, matched by UUID: CUDA's device numbers and NVML's may differ.

Every reading is None where it cannot be had (no driver, no right, not supported), never 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Gpu:
    """One device.

    Args:
        library: the `pynvml` module, or what stands in for it.
        handle: NVML's handle of the device.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._nvml, self._handle = library, handle

    def energy_mj(self) -> int | None:
        """Millijoules the device used since its driver was loaded (Volta and later)."""
        return self._ask("nvmlDeviceGetTotalEnergyConsumption", int)

    def power_w(self) -> float | None:
        """Power draw in watts, on newer devices the mean of the last second."""
        return self._ask("nvmlDeviceGetPowerUsage", lambda milliwatts: float(milliwatts) / 1000)

    def used_bytes(self) -> int | None:
        """Memory in use on the device, whoever uses it."""
        return self._ask("nvmlDeviceGetMemoryInfo", lambda info: int(info.used))

    def process_bytes(self, pid: int | None = None) -> int | None:
        """Memory NVML attributes to a process (default: this one); None where the container hides process numbers."""
        wanted = os.getpid() if pid is None else pid
        processes: list[Any] = self._ask("nvmlDeviceGetComputeRunningProcesses", list) or []
        return next((int(p.usedGpuMemory) for p in processes if p.pid == wanted and p.usedGpuMemory), None)

    def _ask(self, name: str, take: Callable[[Any], T]) -> T | None:
        try:
            return take(getattr(self._nvml, name)(self._handle))
        except Exception:  # noqa: BLE001 - NVML raises types of its own, and any of them means: not measurable
            return None


def gpu(device: torch.device, library: Any = None, uuid: str | None = None) -> Gpu | None:
    """The NVML device behind a CUDA device, None where there is none.

    Args:
        device: as torch names it.
        library: instead of `pynvml`.
        uuid: instead of the one torch reports, `GPU-...`.
    """
    if device.type != "cuda":
        return None
    try:
        if library is None:
            import pynvml

            library = pynvml
        library.nvmlInit()
        uuid = uuid or f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return Gpu(library, library.nvmlDeviceGetHandleByUUID(uuid))
    except Exception:  # noqa: BLE001 - as above
        return None
