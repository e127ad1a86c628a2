"""The fingerprint says what it can read and None for the rest."""

import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.machine import environment, system
from harness.machine.environment import conditions_hash, fingerprint, usable_cores


def unreadable(*arguments: object, **keywords: object) -> None:
    raise OSError("not here")


def leaves(value: object) -> list:
    return [leaf for inner in value.values() for leaf in leaves(inner)] if isinstance(value, dict) else [value]


def test_fingerprint_is_plain_json():
    found = fingerprint()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"]
    assert found["cpu"]["usable_cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert len(found["load_average"]) == 3


def test_what_cannot_be_read_is_none_never_zero(monkeypatch):
    """A machine that tells nothing must not be described as one of 0 cores, load 0 and 0 bytes."""
    for name in ("cpu_count", "cpu_freq", "virtual_memory", "swap_memory", "Process"):
        monkeypatch.setattr(psutil, name, unreadable)
    monkeypatch.setattr(os, "getloadavg", unreadable)
    monkeypatch.setattr(subprocess, "run", unreadable)
    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(environment.metadata, "version", lambda name: missing(name))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for name in environment.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = fingerprint()
    known = {key: found.pop(key) for key in ("date", "os")}
    assert all(known.values())
    assert found["versions"].pop("python")
    assert set(leaves(found)) == {None}
    assert usable_cores() is None


def missing(name: str) -> str:
    raise environment.metadata.PackageNotFoundError(name)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, str]], None]:
    """A system with these files and no others."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8 if logical else 4)
    numbers = itertools.count()

    def write(content: dict[str, str]) -> None:
        root = tmp_path / str(next(numbers))
        monkeypatch.setattr(system, "ROOT", root)
        for path, text in content.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")

    return write


def test_governor_and_turbo(files):
    folder = "sys/devices/system/cpu"
    governors = [f"{folder}/cpu{i}/cpufreq/scaling_governor" for i in range(3)]
    for content, governor, turbo in (
        (dict(zip(governors, ("powersave", "performance", "powersave"), strict=True)), "powersave, performance", None),
        ({f"{folder}/intel_pstate/no_turbo": "1"}, None, False),
        ({f"{folder}/cpufreq/boost": "1"}, None, True),
    ):
        files(content)
        cpu = fingerprint()["cpu"]
        assert (cpu["governor"], cpu["turbo"]) == (governor, turbo)


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({}, 4),
    ],
)
def test_container_quota(monkeypatch, files, content, cores):
    """In a container the machine's core count is not what a run may use; threads beyond the quota only wait."""
    monkeypatch.setattr(psutil, "Process", unreadable)
    files(content)
    assert usable_cores() == cores


def test_usable_cores_counts_physical_cores(monkeypatch, files):
    """Two hyperthreads of one core are one core."""
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: [0, 4]))
    files({f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": "0,4" for i in (0, 4)})
    assert usable_cores() == 1
    files({})
    assert usable_cores() == 2


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_dirty(tmp_path):
    """Results and notes do not make the code dirty; a new method file does."""
    assert environment.repository(tmp_path) == (None, None)
    git(tmp_path, "init", "--quiet")
    assert environment.repository(tmp_path) == (None, None)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "x", "--no-verify")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment.repository(tmp_path) == (commit, False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    assert environment.repository(tmp_path) == (commit, False)
    (tmp_path / "methods" / "b.py").write_text("2")
    assert environment.repository(tmp_path) == (commit, True)
    # Installed inside somebody else's repository: their commit says nothing about this code.
    assert environment.repository(tmp_path / "methods") == (None, None)


class FakeNVML:
    """A driver that answers some questions and refuses others."""

    class NVMLError(Exception):
        pass

    def __init__(self, devices: int) -> None:
        self.devices, self.ended = devices, False

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None:
        self.ended = True

    def nvmlDeviceGetCount(self) -> int:
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, device: int) -> bytes:
        return b"Example GPU"

    def nvmlDeviceGetEnforcedPowerLimit(self, device: int) -> int:
        return 350_000

    def nvmlDeviceGetTemperature(self, device: int, sensor: int) -> int:
        raise self.NVMLError


def test_gpu_facts_it_refuses_are_none(monkeypatch):
    library = FakeNVML(1)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    (found,) = fingerprint()["gpu"]
    assert (found["name"], found["power_cap_w"], found["temperature_c"], found["uuid"]) == (
        "Example GPU",
        350.0,
        None,
        None,
    )
    assert library.ended
    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML(0))
    assert fingerprint()["gpu"] is None


def test_conditions_hash_knows_every_value_and_no_order():
    conditions = {"dtype": "float32", "threads": 2, "eos": None, "sizes": [1, 2]}
    digest = conditions_hash(conditions)
    assert len(digest) == 12
    assert int(digest, 16) >= 0
    assert digest == conditions_hash(dict(reversed(conditions.items())))
    for changes in ({"threads": 1}, {"dtype": "bfloat16"}, {"sizes": [2, 1]}, {"eos": ""}, {"more": 1}):
        assert conditions_hash(conditions | changes) != digest
    assert conditions_hash({"a": 1}) == "015abd7f5cc5"  # fixed, or runs of two versions could not be compared
