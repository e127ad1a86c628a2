"""What would spoil a run on this machine now, found before the run. Torch-free; nothing is changed.

Each finding is one of `ok`, `careful` (numbers stay right, but mind it), `bad` (a run now would mislead) or `unknown`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import psutil

from harness.machine import environment, monitor

OK, CAREFUL, BAD, UNKNOWN = "ok", "careful", "bad", "unknown"

DISK_BYTES = 500_000_000
"""Free space below which a run may not fit: the official suite writes some 30 MB, its temporary files about as much."""
MEMORY_BYTES = 2_000_000_000
"""Free memory below which even the bundled model's worker (about 1 GB with its libraries) may be killed."""
BUSY_CORES = 0.2
"""Share of a core above which another process is named."""
EXTRAS = {"ray": "--executor ray", "bert_score": "BERTScore", "ctranslate2": "the CTranslate2 baseline"}
PYTHONS = ((3, 11), (3, 12))


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: what was looked at.
        found: what there is, with its unit.
        verdict: ok, careful, bad or unknown.
        advice: what to do about it; empty where all is well.
    """

    what: str
    found: str
    verdict: str
    advice: str = ""


def examine(out: Path, device: str = "cpu") -> list[Finding]:
    """Look at everything that is known to spoil runs; takes about a second.

    Args:
        out: where runs will be written.
        device: what will be measured on, `cpu` or `cuda:N`.
    """
    facts = environment.fingerprint()
    busy = monitor.foreign_processes(BUSY_CORES)
    findings = [
        _load(facts, busy),
        _governor(facts),
        _turbo(facts),
        _threads(facts),
        _steal(),
        _power(),
        _memory(facts),
        _swap(facts),
        _disk(out),
        _temporary(),
        _python(facts),
        _code(facts),
        *_gpus(facts, device),
        *_extras(),
    ]
    return findings


def table(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The findings as rows of text, the header first."""
    return [("what", "found", "verdict", "what to do"), *((f.what, f.found, f.verdict, f.advice) for f in findings)]


def _load(facts: dict[str, Any], busy: list[dict[str, Any]]) -> Finding:
    load, cores = facts["load_average"], facts["cpu"]["usable_cores"]
    if load is None or not cores:
        return Finding("load", "not readable", UNKNOWN)
    said = f"{load[0]:.2f} over the last minute, {cores} cores"
    if busy:
        names = ", ".join(f"{p['name']} ({p['pid']}) {p['cores']:.1f}" for p in busy[:4])
        more = f" and {len(busy) - 4} more" if len(busy) > 4 else ""
        advice = "stop them or wait: they take turns with what is timed"
        return Finding("load", f"{said}; cores used by others: {names}{more}", BAD, advice)
    if load[0] > 0.5 * cores:
        return Finding("load", said, CAREFUL, "nothing runs now, but something did: wait a minute")
    return Finding("load", said, OK)


def _governor(facts: dict[str, Any]) -> Finding:
    found = facts["cpu"]["governor"]
    if found is None:
        return Finding("frequency governor", "not told (usual in a virtual machine)", UNKNOWN)
    if found == "performance":
        return Finding("frequency governor", found, OK)
    return Finding("frequency governor", found, CAREFUL, "set it to performance, or the clock follows the load")


def _turbo(facts: dict[str, Any]) -> Finding:
    found = facts["cpu"]["turbo"]
    if found is None:
        return Finding("turbo", "not told", UNKNOWN)
    if found:
        return Finding(
            "turbo", "on", CAREFUL, "the first arms may run on a cooler, faster chip; interleaving evens it out"
        )
    return Finding("turbo", "off", OK)


def _threads(facts: dict[str, Any]) -> Finding:
    cpu = facts["cpu"]
    cores = cpu["usable_cores"]
    asked = {k: v for k, v in facts["threads"].items() if v and k.endswith("_NUM_THREADS")}
    if not cores:
        return Finding("threads", "number of cores not readable", UNKNOWN)
    said = f"{cores} usable cores of {cpu['cores']} ({cpu['threads']} hardware threads)"
    if asked:
        said += "; " + ", ".join(f"{k}={v}" for k, v in asked.items())
    many = [k for k, v in asked.items() if v.isdigit() and int(v) > cores]
    if many:
        return Finding("threads", said, BAD, f"{many[0]} asks for more threads than cores: they wait for each other")
    if cpu["cores"] and cores < cpu["cores"]:
        advice = f"workers take one thread per physical core of the machine: put threads: {cores} into the suite"
        return Finding("threads", said, BAD, advice)
    return Finding("threads", said, OK)


def _steal() -> Finding:
    """Share of processor time that a hypervisor gave to others since the machine started."""
    times = psutil.cpu_times()
    steal = getattr(times, "steal", None)
    if steal is None:
        return Finding("stolen time", "not told", UNKNOWN)
    share = steal / max(sum(times), 1e-9)
    if share > 0.01:
        return Finding(
            "stolen time", f"{share:.1%} since start", CAREFUL, "the hypervisor gives time to other machines"
        )
    return Finding("stolen time", f"{share:.1%} since start", OK)


def _power() -> Finding:
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):
        battery = None
    if battery is None:
        return Finding("power supply", "no battery", OK)
    if battery.power_plugged:
        return Finding("power supply", "plugged in", OK)
    return Finding("power supply", f"on battery, {battery.percent:.0f} %", BAD, "plug it in: the clock is held down")


def _memory(facts: dict[str, Any]) -> Finding:
    free, limit = facts["memory_available_bytes"], facts["memory_limit_bytes"]
    if free is None:
        return Finding("free memory", "not readable", UNKNOWN)
    room = min(free, limit) if limit else free
    said = f"{free / 1e9:.1f} GB" + (f", control group limit {limit / 1e9:.1f} GB" if limit else "")
    if room < MEMORY_BYTES:
        return Finding("free memory", said, BAD, "workers may be killed: free some, at least 2 GB and the weights")
    return Finding("free memory", said, OK)


def _swap(facts: dict[str, Any]) -> Finding:
    used = facts["swap_used_bytes"]
    if used is None:
        return Finding("swap in use", "not readable", UNKNOWN)
    if used > 1e8:
        return Finding(
            "swap in use", f"{used / 1e9:.1f} GB", CAREFUL, "memory was short: pages may be read back while timing"
        )
    return Finding("swap in use", f"{used / 1e9:.1f} GB", OK)


def _disk(out: Path) -> Finding:
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    what = f"disk for {out}"
    if not folder.is_dir():
        return Finding(what, f"{folder} is a file", BAD, "name a folder with --out")
    if (problem := _unwritable(folder)) is not None:
        return Finding(what, problem, BAD, "name a folder that can be written with --out")
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        return Finding(what, f"{free / 1e6:.0f} MB free", BAD, "free some space, or name another folder with --out")
    return Finding(what, f"{free / 1e9:.1f} GB free", OK)


def _temporary() -> Finding:
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Finding("temporary files", str(error.strerror), BAD, "set TMPDIR to a folder that can be written")
    free = shutil.disk_usage(folder).free
    if free < 1e8:
        return Finding("temporary files", f"{folder}: {free / 1e6:.0f} MB free", BAD, "free some space, or set TMPDIR")
    return Finding("temporary files", f"{folder}: {free / 1e9:.1f} GB free", OK)


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder; tried, because permission bits do not say all."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or "cannot be written"


def _python(facts: dict[str, Any]) -> Finding:
    versions = facts["versions"]
    said = f"Python {versions['python']}, torch {versions['torch']}, transformers {versions['transformers']}"
    missing = [name for name in ("torch", "transformers") if versions[name] is None]
    if missing:
        return Finding("software", said, BAD, f"{missing[0]} is not installed: make setup")
    if sys.version_info[:2] not in PYTHONS:
        return Finding("software", said, CAREFUL, "tested with Python 3.11 and 3.12")
    number = tuple(int(part) for part in versions["torch"].split("+")[0].split(".")[:2])
    if not (2, 9) <= number < (2, 14):
        return Finding("software", said, CAREFUL, "tested with torch 2.11 and 2.13")
    return Finding("software", said, OK)


def _code(facts: dict[str, Any]) -> Finding:
    commit, dirty = facts["commit"], facts["dirty"]
    if commit is None:
        return Finding("code", "not in a git repository", CAREFUL, "results will not say which code they come from")
    if dirty:
        return Finding(
            "code", f"{commit[:10]} with changes", CAREFUL, "commit first: results name a commit that is not the code"
        )
    return Finding("code", commit[:10], OK)


def _gpus(facts: dict[str, Any], device: str) -> list[Finding]:
    gpus = facts["gpu"]
    wanted = device.startswith("cuda")
    if not gpus:
        if wanted:
            return [Finding("GPU", "NVML finds none", BAD, "check the driver (nvidia-smi), or measure on cpu")]
        return [Finding("GPU", "none", OK)]
    return [finding for number, gpu in enumerate(gpus) for finding in _gpu(f"GPU {number}", gpu, wanted)]


def _gpu(what: str, gpu: dict[str, Any], wanted: bool) -> list[Finding]:
    bad = BAD if wanted else CAREFUL
    found = [Finding(what, f"{gpu['name']}, driver {gpu['driver']}", OK)]
    others = gpu["processes"]
    if others is None:
        found.append(Finding(f"{what}: processes", "not told", UNKNOWN))
    elif others:
        said = f"{len(others)} ({', '.join(map(str, others[:5]))})"
        found.append(Finding(f"{what}: processes", said, bad, "stop them: they share memory bandwidth and clocks"))
    else:
        found.append(Finding(f"{what}: processes", "none", OK))
    bits = int(gpu["throttle_reasons"], 16) if gpu["throttle_reasons"] else None
    if bits is not None and bits & ~monitor.HARMLESS:
        names = ", ".join(name for bit, name in monitor.THROTTLE_REASONS.items() if bits & bit & ~monitor.HARMLESS)
        found.append(Finding(f"{what}: throttled", names, bad, "let it cool, or free its power budget"))
    cap, default = gpu["power_cap_w"], gpu["power_default_w"]
    if cap and default and cap < default:
        found.append(
            Finding(f"{what}: power cap", f"{cap:.0f} W of {default:.0f} W", CAREFUL, "times will be slower than usual")
        )
    if (heat := gpu["temperature_c"]) is not None and heat >= 75:
        found.append(Finding(f"{what}: temperature", f"{heat} C", CAREFUL, "let it cool before the run"))
    if gpu["mig"]:
        found.append(
            Finding(f"{what}: MIG", "on", CAREFUL, "only a slice is measured, and its neighbours share bandwidth")
        )
    if gpu["persistence"] is False:
        found.append(
            Finding(
                f"{what}: persistence mode", "off", CAREFUL, "the first use of the device is slow; warm-up takes it"
            )
        )
    return found


def _extras() -> list[Finding]:
    def there(name: str) -> bool:
        return util.find_spec(name) is not None

    found = []
    for name, use in EXTRAS.items():
        advice = "" if there(name) else f"only needed for {use}: pip install '{name.replace('_', '-')}'"
        found.append(Finding(f"extra: {name}", "installed" if there(name) else "missing", OK, advice))
    if platform.system() == "Linux" and not os.access("/proc/self/clear_refs", os.W_OK):
        found.append(
            Finding("peak memory", "the kernel's mark cannot be reset", CAREFUL, "peaks include loading the weights")
        )
    return found
