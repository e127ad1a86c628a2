"""What a run was measured on: commit, versions, processor, memory, load, GPU. None for what cannot be read, never 0.

Nothing here changes a setting, and torch is not imported (its version comes from the package's metadata).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from harness.machine import nvml
from harness.machine.record import Environment, Processor
from harness.machine.system import attempt, text, texts

ROOT = Path(__file__).resolve().parents[2]
CODE = ("depthbench", "harness", "methods", "reports", "pyproject.toml")

PACKAGES = (
    "depthbench", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "datasets", "sacrebleu",
    "rouge-score", "lm-eval", "matplotlib", "pydantic", "nvidia-ml-py", "ray",
)  # fmt: skip
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY", "CUDA_VISIBLE_DEVICES", "DEPTHBENCH_NATIVE_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS", "CT2_FORCE_CPU_ISA",
)  # fmt: skip


def fingerprint() -> Environment:
    """Return what identifies machine and software, as plain JSON values; takes well under a second.

    Keys: `commit` and `dirty` of the project's own repository (None outside one), `date` (UTC), `versions`, `os`, `cpu`
    (`model`, physical `cores`, logical `threads`, `usable_cores` of this process, `governor`, `turbo`, `max_mhz`, `vectors`,
    `cache_bytes` by level),
    `memory_bytes`, `memory_available_bytes`, `memory_limit_bytes` (of the control
    group), `swap_used_bytes`, `load_average` (1, 5, 15 minutes), `threads` (environment variables) and
    `gpu` (one record per device, or None).
    """
    commit, dirty = repository(ROOT)
    return {
        "commit": commit,
        "dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "os": " ".join(filter(None, (platform.system(), platform.release(), platform.machine()))) or None,
        "cpu": _cpu(),
        "memory_bytes": attempt(lambda: int(psutil.virtual_memory().total)),
        "memory_available_bytes": attempt(lambda: int(psutil.virtual_memory().available)),
        "memory_limit_bytes": memory_limit(),
        "swap_used_bytes": attempt(lambda: int(psutil.swap_memory().used)),
        "load_average": attempt(lambda: [round(value, 2) for value in os.getloadavg()]),
        "threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "gpu": nvml.facts(),
    }


def conditions_hash(conditions: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal characters that are equal exactly when the conditions are equal as JSON values."""
    canonical = json.dumps(conditions, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def usable_cores() -> int | None:
    """Return how many physical cores this process may use: the least of machine, affinity and control group."""
    limits = [attempt(lambda: psutil.cpu_count(logical=False)), _affinity(), _quota()]
    known = [limit for limit in limits if limit]
    return min(known) if known else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def repository(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the repository at `root` and whether its code differs from it; None, None where `root` is not one.

    A repository further up does not count: an installed package may lie inside somebody else's.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():
        return None, None
    commit = git("rev-parse", "--verify", "HEAD")
    changes = git("status", "--porcelain", "--", *CODE)
    return commit, None if changes is None or commit is None else bool(changes)


def _cpu() -> Processor:
    maximum = attempt(lambda: psutil.cpu_freq())
    return {
        "model": cpu_model(),
        "cores": attempt(lambda: psutil.cpu_count(logical=False)),
        "threads": attempt(lambda: psutil.cpu_count(logical=True)),
        "usable_cores": usable_cores(),
        "governor": _governor(),
        "turbo": _turbo(),
        "max_mhz": maximum.max if maximum and maximum.max else None,
        "vectors": vectors(),
        "cache_bytes": cache_bytes() or None,
    }


def vectors() -> str | None:
    """The widest vectors of the processor that matter here: avx512, avx2, sse2 or neon; None where the system does not tell."""
    flags: set[str] = set()
    for line in (text("proc/cpuinfo") or "").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            break
    known = (
        ("avx512", {"avx512f", "avx512dq", "avx512vl"}),
        ("avx2", {"avx2", "fma"}),
        ("sse2", {"sse2"}),
        ("neon", {"asimd"}),
    )
    return next((name for name, needs in known if flags >= needs), None)


def cache_bytes() -> dict[str, int]:
    """Bytes of the data caches the first processor sees, by name (L1d, L2, L3); empty where the system does not tell."""
    found: dict[str, int] = {}
    for index in range(8):
        folder = f"sys/devices/system/cpu/cpu0/cache/index{index}"
        level, kind, size = (text(f"{folder}/{name}") for name in ("level", "type", "size"))
        if level and size and kind in ("Data", "Unified") and size[:-1].isdigit() and size[-1] in "KM":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) << (10 if size[-1] == "K" else 20)
    return found


def cpu_model() -> str | None:
    """The processor's name as the system gives it."""
    for line in (text("proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or None


def bfloat16() -> bool:
    """Whether the processor says that it has instructions for bfloat16."""
    parts = (line.partition(":") for line in (text("proc/cpuinfo") or "").splitlines())
    lines = ((key.strip(), value.split()) for key, _, value in parts)
    flags = next((value for key, value in lines if key in ("flags", "Features")), [])
    return bool({"avx512_bf16", "amx_bf16", "bf16"}.intersection(flags))


def _governor() -> str | None:
    """The frequency governors in use, usually one; None where the system does not tell (virtual machines)."""
    return ", ".join(dict.fromkeys(texts("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))) or None


def _turbo() -> bool | None:
    """Whether the processor may exceed its base frequency."""
    off, boost = text("sys/devices/system/cpu/intel_pstate/no_turbo"), text("sys/devices/system/cpu/cpufreq/boost")
    if off in ("0", "1"):
        return off == "0"
    return boost == "1" if boost in ("0", "1") else None


def _affinity() -> int | None:
    """Physical cores among the logical ones this process may run on (all of them where the topology is not told)."""
    allowed = attempt(lambda: psutil.Process().cpu_affinity())
    if not allowed:
        return None
    return len({text(f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") or f"cpu{i}" for i in allowed})


def _quota() -> int | None:
    """Whole cores the control group grants (1 at least); None without a limit. Version 2, then version 1."""
    quota, _, period = (text("sys/fs/cgroup/cpu.max") or "").partition(" ")
    if not quota:
        quota = text("sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = text("sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return max(1, int(quota) // int(period))


def memory_limit() -> int | None:
    """Bytes the control group grants; None without a limit."""
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = text(path) or ""
        if limit.isdigit() and int(limit) < 2**60:
            return int(limit)
    return None


def gpu_driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    gpus = nvml.facts()
    return gpus[0]["driver"] if gpus else None
