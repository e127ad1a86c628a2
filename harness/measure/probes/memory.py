"""Peak memory: resident set on a CPU, allocator and process memory on a CUDA device. None where it cannot be read."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from harness.machine import nvml
from harness.records.quantities import Measured

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


def read_peaks(device: torch.device) -> Measured:
    """Peaks since `reset_peaks`, in bytes.

    What each says: `cuda_peak_allocated_bytes` what tensors needed at once, `cuda_reserved_bytes` what the allocator held for
    them, `nvml_process_bytes` what the process occupies (CUDA's own context included), `nvml_device_bytes` all that is
    occupied on the device: the one that decides whether another process fits.
    """
    peaks: Measured = {
        "peak_rss_bytes": resident_bytes("VmHWM"),
        "cuda_peak_allocated_bytes": None,
        "cuda_reserved_bytes": None,
        "nvml_process_bytes": None,
        "nvml_device_bytes": None,
    }
    if device.type == "cuda":
        peaks["cuda_peak_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
        peaks["cuda_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        if (gpu := nvml.gpu(device)) is not None:
            peaks["nvml_process_bytes"] = gpu.process_bytes()
            peaks["nvml_device_bytes"] = gpu.used_bytes()
    return peaks
