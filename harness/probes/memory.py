"""Peak memory: resident set on a CPU, allocator and process memory on a CUDA device. None where it cannot be read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


def resident_bytes(field: str = "VmRSS") -> int | None:
    """`VmRSS` (now) or `VmHWM` (peak) of this process, in bytes; None where /proc is not there."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def reset_peaks(device: torch.device) -> None:
    """Start the peaks from now on: the kernel's high-water mark where it allows that, and the CUDA allocator's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def read_peaks(device: torch.device) -> dict[str, Any]:
    """Peaks since `reset_peaks`, in bytes."""
    peaks: dict[str, Any] = {
        "peak_rss_bytes": resident_bytes("VmHWM"),
        "cuda_peak_allocated_bytes": None,
        "cuda_reserved_bytes": None,
        "nvml_process_bytes": None,
    }
    if device.type == "cuda":
        peaks["cuda_peak_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
        peaks["cuda_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        peaks["nvml_process_bytes"] = _nvml_process_bytes(device)
    return peaks


def _nvml_process_bytes(device: torch.device) -> int | None:
    """Memory NVML attributes to this process on the device, matched by UUID; None where NVML does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return int(process.usedGpuMemory)
    except Exception:  # noqa: BLE001 - NVML raises its own types, and any of them means: not measurable
        return None
    return None
