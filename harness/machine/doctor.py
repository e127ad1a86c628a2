"""What would spoil a run on this machine now, found before the run: a table of rules. Torch-free; nothing is changed.

Each finding is one of `ok`, `careful` (numbers stay right, but mind it), `bad` (a run now would mislead) or `unknown`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import psutil

from harness.machine import environment, monitor, nvml
from harness.machine.record import Device
from harness.machine.system import attempt

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


Facts = Mapping[str, Any]
Trouble = tuple[Callable[[Any], Any], str, str]
"""When it is one, how bad it is, what to do about it; braces stand for parts of the value."""


@dataclass(frozen=True)
class Rule:
    """One thing to look at.

    Attributes:
        what: what is looked at.
        value: of the facts, what is judged: a mapping whose `said` is the text; None where it cannot be read.
        troubles: the first that holds decides; none: all is well.
        unknown: said where there is no value.
    """

    what: str
    value: Callable[[Facts], Facts | None]
    troubles: tuple[Trouble, ...]
    unknown: str = "not readable"

    def judge(self, facts: Facts) -> Finding:
        """The finding, on facts as `environment.fingerprint` has them and what `examine` adds."""
        value = self.value(facts)
        if value is None:
            return Finding(self.what, self.unknown, UNKNOWN)
        for holds, verdict, advice in self.troubles:
            if holds(value):
                return Finding(self.what, value["said"], verdict, advice.format(**value))
        return Finding(self.what, value["said"], OK)


def examine(out: Path, device: str = "cpu") -> list[Finding]:
    """Look at everything that is known to spoil runs; takes about a second.

    Args:
        out: where runs will be written.
        device: what will be measured on, `cpu` or `cuda:N`.
    """
    found = environment.fingerprint()
    facts = {**found, "busy": monitor.foreign_processes(BUSY_CORES)}
    wanted = device.startswith("cuda")
    return [*(rule.judge(facts) for rule in RULES), _disk(out), _temporary(), *_gpus(found["gpu"], wanted), *_extras()]


def table(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The findings as rows of text, the header first."""
    return [("what", "found", "verdict", "what to do"), *((f.what, f.found, f.verdict, f.advice) for f in findings)]


def _load(facts: Facts) -> Facts | None:
    load, cores, busy = facts["load_average"], facts["cpu"]["usable_cores"], facts["busy"]
    if load is None or not cores:
        return None
    said = f"{load[0]:.2f} over the last minute, {cores} cores"
    if busy:
        names = ", ".join(f"{p['name']} ({p['pid']}) {p['cores']:.1f}" for p in busy[:4])
        said += f"; cores used by others: {names}{f' and {len(busy) - 4} more' if len(busy) > 4 else ''}"
    return {"said": said, "busy": busy, "high": load[0] > 0.5 * cores}


def _threads(facts: Facts) -> Facts | None:
    cpu = facts["cpu"]
    cores = cpu["usable_cores"]
    if not cores:
        return None
    asked = {k: v for k, v in facts["threads"].items() if v and k.endswith("_NUM_THREADS")}
    said = f"{cores} usable cores of {cpu['cores']} ({cpu['threads']} hardware threads)"
    if asked:
        said += "; " + ", ".join(f"{k}={v}" for k, v in asked.items())
    many = next((k for k, v in asked.items() if v.isdigit() and int(v) > cores), None)
    return {"said": said, "many": many, "cores": cores, "fewer": cpu["cores"] and cores < cpu["cores"]}


def _steal(facts: Facts) -> Facts | None:
    """Share of processor time that a hypervisor gave to others since the machine started."""
    times = psutil.cpu_times()
    steal = getattr(times, "steal", None)
    if steal is None:
        return None
    share = steal / max(sum(times), 1e-9)
    return {"said": f"{share:.1%} since start", "share": share}


def _power(facts: Facts) -> Facts:
    battery = attempt(psutil.sensors_battery)
    if battery is None:
        return {"said": "no battery", "drains": False}
    said = "plugged in" if battery.power_plugged else f"on battery, {battery.percent:.0f} %"
    return {"said": said, "drains": not battery.power_plugged}


def _memory(facts: Facts) -> Facts | None:
    free, limit = facts["memory_available_bytes"], facts["memory_limit_bytes"]
    if free is None:
        return None
    said = f"{free / 1e9:.1f} GB" + (f", control group limit {limit / 1e9:.1f} GB" if limit else "")
    return {"said": said, "room": min(free, limit) if limit else free}


def _swap(facts: Facts) -> Facts | None:
    used = facts["swap_used_bytes"]
    return None if used is None else {"said": f"{used / 1e9:.1f} GB", "used": used}


def _software(facts: Facts) -> Facts:
    versions = facts["versions"]
    said = f"Python {versions['python']}, torch {versions['torch']}, transformers {versions['transformers']}"
    missing = next((name for name in ("torch", "transformers") if versions[name] is None), None)
    torch = () if missing else tuple(int(part) for part in versions["torch"].split("+")[0].split(".")[:2])
    return {"said": said, "missing": missing, "torch": torch}


def _code(facts: Facts) -> Facts:
    commit, dirty = facts["commit"], facts["dirty"]
    said = "not in a git repository" if commit is None else commit[:10] + (" with changes" if dirty else "")
    return {"said": said, "commit": commit, "dirty": dirty}


def _told(read: Callable[[Facts], Any], word: Callable[[Any], str] = str) -> Callable[[Facts], Facts | None]:
    """A value that is its own text."""

    def value(facts: Facts) -> Facts | None:
        found = read(facts)
        return None if found is None else {"said": word(found), "found": found}

    return value


RULES = (
    Rule("load", _load, (
        (lambda v: v["busy"], BAD, "stop them or wait: they take turns with what is timed"),
        (lambda v: v["high"], CAREFUL, "nothing runs now, but something did: wait a minute"),
    )),
    Rule("frequency governor", _told(lambda f: f["cpu"]["governor"]), (
        (lambda v: v["found"] != "performance", CAREFUL, "set it to performance, or the clock follows the load"),
    ), "not told (usual in a virtual machine)"),
    Rule("turbo", _told(lambda f: f["cpu"]["turbo"], lambda on: "on" if on else "off"), (
        (lambda v: v["found"], CAREFUL, "the first arms may run on a cooler, faster chip; interleaving evens it out"),
    ), "not told"),
    Rule("threads", _threads, (
        (lambda v: v["many"], BAD, "{many} asks for more threads than cores: they wait for each other"),
        (lambda v: v["fewer"], BAD,
         "workers take one thread per physical core of the machine: put threads: {cores} into the suite"),
    ), "number of cores not readable"),
    Rule("stolen time", _steal, (
        (lambda v: v["share"] > 0.01, CAREFUL, "the hypervisor gives time to other machines"),
    ), "not told"),
    Rule("power supply", _power, ((lambda v: v["drains"], BAD, "plug it in: the clock is held down"),)),
    Rule("free memory", _memory, (
        (lambda v: v["room"] < MEMORY_BYTES, BAD, "workers may be killed: free some, at least 2 GB and the weights"),
    )),
    Rule("swap in use", _swap, (
        (lambda v: v["used"] > 1e8, CAREFUL, "memory was short: pages may be read back while timing"),
    )),
    Rule("software", _software, (
        (lambda v: v["missing"], BAD, "{missing} is not installed: make setup"),
        (lambda v: sys.version_info[:2] not in PYTHONS, CAREFUL, "tested with Python 3.11 and 3.12"),
        (lambda v: not (2, 9) <= v["torch"] < (2, 14), CAREFUL, "tested with torch 2.11 and 2.13"),
    )),
    Rule("code", _code, (
        (lambda v: v["commit"] is None, CAREFUL, "results will not say which code they come from"),
        (lambda v: v["dirty"], CAREFUL, "commit first: results name a commit that is not the code"),
    )),
)  # fmt: skip
"""What is looked at, in the order it is shown."""


def _disk(out: Path) -> Finding:
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    what = f"disk for {out}"
    if not folder.is_dir():
        return Finding(what, f"{folder} is a file", BAD, "name a folder with --out")
    try:  # permission bits do not say all
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return Finding(what, error.strerror or "cannot be written", BAD, "name a folder that can be written with --out")
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        return Finding(what, f"{free / 1e6:.0f} MB free", BAD, "free some space, or name another folder with --out")
    return Finding(what, f"{free / 1e9:.1f} GB free", OK)


def _temporary() -> Finding:
    what = "temporary files"
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Finding(what, str(error.strerror), BAD, "set TMPDIR to a folder that can be written")
    free = shutil.disk_usage(folder).free
    if free < 1e8:
        return Finding(what, f"{folder}: {free / 1e6:.0f} MB free", BAD, "free some space, or set TMPDIR")
    return Finding(what, f"{folder}: {free / 1e9:.1f} GB free", OK)


def _gpus(gpus: list[Device] | None, wanted: bool) -> list[Finding]:
    if not gpus and wanted:
        return [Finding("GPU", "NVML finds none", BAD, "check the driver (nvidia-smi), or measure on cpu")]
    found = [] if gpus else [Finding("GPU", "none", OK)]
    for number, gpu in enumerate(gpus or ()):
        found.append(Finding(f"GPU {number}", f"{gpu['name']}, driver {gpu['driver']}", OK))
        found += [Finding(f"GPU {number}: {what}", *rest) for what, *rest in _troubles(gpu, BAD if wanted else CAREFUL)]
    return found


def _troubles(gpu: Facts, bad: str) -> list[tuple[str, str, str] | tuple[str, str, str, str]]:
    """What is wrong with one GPU, and whether others compute on it."""
    found: list[tuple[str, str, str] | tuple[str, str, str, str]] = []
    others, heat, cap, default = (gpu[key] for key in ("processes", "temperature_c", "power_cap_w", "power_default_w"))
    if others:
        said = f"{len(others)} ({', '.join(map(str, others[:5]))})"
        found.append(("processes", said, bad, "stop them: they share memory bandwidth and clocks"))
    else:
        found.append(("processes", *(("not told", UNKNOWN) if others is None else ("none", OK))))
    slow = int(gpu["throttle_reasons"] or "0", 16) & ~nvml.HARMLESS
    if slow:
        names = ", ".join(name for bit, name in nvml.THROTTLE_REASONS.items() if slow & bit)
        found.append(("throttled", names, bad, "let it cool, or free its power budget"))
    if cap and default and cap < default:
        found.append(("power cap", f"{cap:.0f} W of {default:.0f} W", CAREFUL, "times will be slower than usual"))
    if heat is not None and heat >= 75:
        found.append(("temperature", f"{heat} C", CAREFUL, "let it cool before the run"))
    if gpu["mig"]:
        found.append(("MIG", "on", CAREFUL, "only a slice is measured, and its neighbours share bandwidth"))
    if gpu["persistence"] is False:
        found.append(("persistence mode", "off", CAREFUL, "the first use of the device is slow; warm-up takes it"))
    return found


def _extras() -> list[Finding]:
    found = []
    for name, use in EXTRAS.items():
        there = util.find_spec(name) is not None
        advice = "" if there else f"only needed for {use}: pip install '{name.replace('_', '-')}'"
        found.append(Finding(f"extra: {name}", "installed" if there else "missing", OK, advice))
    if platform.system() == "Linux" and not os.access("/proc/self/clear_refs", os.W_OK):
        found.append(
            Finding("peak memory", "the kernel's mark cannot be reset", CAREFUL, "peaks include loading the weights")
        )
    return found
