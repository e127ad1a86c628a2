"""The doctor names what would spoil a run, and only that."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import main as cli
from harness.errors import CellFailed
from harness.machine import doctor, environment, monitor
from harness.machine.doctor import BAD, CAREFUL, OK, UNKNOWN, Finding

GPU = {
    "name": "H100", "driver": "580", "processes": [], "throttle_reasons": "0x1", "power_cap_w": 700.0, "power_default_w": 700.0,
    "temperature_c": 40, "mig": False, "persistence": True,
}  # fmt: skip
QUIET: dict[str, Any] = {
    "commit": "a" * 40, "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
    "cpu": {"model": "x", "cores": 2, "threads": 4, "usable_cores": 2, "governor": "performance", "turbo": False},
    "memory_available_bytes": 8 * 10**9, "memory_limit_bytes": None, "swap_used_bytes": 0, "load_average": [0.1, 0.1, 0.1],
    "threads": {"OMP_NUM_THREADS": None, "OMP_PLACES": "cores"}, "gpu": None,
}  # fmt: skip


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A quiet machine; tests change it."""
    found = copy.deepcopy(QUIET)
    monkeypatch.setattr(environment, "fingerprint", lambda: found)
    monkeypatch.setattr(monitor, "foreign_processes", lambda share: found.get("busy", []))
    return found


def looked(out: Path, device: str = "cpu") -> dict[str, Finding]:
    return {finding.what: finding for finding in doctor.examine(out, device)}


def test_a_quiet_machine_is_fit(facts: dict[str, Any], tmp_path: Path) -> None:
    assert not [f for f in looked(tmp_path).values() if f.verdict == BAD]


def set_(facts: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        facts = facts[part]
    facts[last] = value


@pytest.mark.parametrize(
    ("path", "value", "what", "verdict", "says"),
    [
        ("busy", [{"pid": 7, "name": "train", "cores": 1.9}], "load", BAD, "train (7) 1.9"),
        ("load_average", [1.8, 1, 1], "load", CAREFUL, "1.80"),
        ("load_average", None, "load", UNKNOWN, "not readable"),
        ("cpu.governor", "powersave", "frequency governor", CAREFUL, "powersave"),
        ("cpu.governor", None, "frequency governor", UNKNOWN, "virtual machine"),
        ("cpu.turbo", True, "turbo", CAREFUL, "on"),
        ("threads.OMP_NUM_THREADS", "8", "threads", BAD, "OMP_NUM_THREADS=8"),
        ("threads.OMP_NUM_THREADS", "2", "threads", OK, "OMP_NUM_THREADS=2"),
        ("cpu.usable_cores", 1, "threads", BAD, "1 usable cores of 2"),
        ("memory_available_bytes", 10**9, "free memory", BAD, "1.0 GB"),
        ("memory_limit_bytes", 10**9, "free memory", BAD, "limit 1.0 GB"),
        ("swap_used_bytes", 10**9, "swap in use", CAREFUL, "1.0 GB"),
        ("versions.torch", None, "software", BAD, "torch None"),
        ("versions.torch", "2.14.0", "software", CAREFUL, "2.14.0"),
        ("dirty", True, "code", CAREFUL, "with changes"),
        ("commit", None, "code", CAREFUL, "not in a git repository"),
    ],
)
def test_each_trouble_is_named(
    facts: dict[str, Any], tmp_path: Path, path: str, value: Any, what: str, verdict: str, says: str
) -> None:
    set_(facts, path, value)
    found = looked(tmp_path)
    assert (found[what].verdict, says in found[what].found) == (verdict, True), found[what]
    assert [f.what for f in found.values() if f.verdict == BAD] == ([what] if verdict == BAD else [])
    assert bool(found[what].advice) == (verdict in (BAD, CAREFUL))


@pytest.mark.parametrize(
    ("changes", "what", "verdict"),
    [
        ({"processes": [9]}, "GPU 0: processes", BAD),
        ({"processes": None}, "GPU 0: processes", UNKNOWN),
        ({"throttle_reasons": "0x44"}, "GPU 0: throttled", BAD),
        ({"power_cap_w": 400.0}, "GPU 0: power cap", CAREFUL),
        ({"temperature_c": 82}, "GPU 0: temperature", CAREFUL),
        ({"mig": True}, "GPU 0: MIG", CAREFUL),
        ({"persistence": False}, "GPU 0: persistence mode", CAREFUL),
    ],
)
def test_gpu_troubles(facts: dict[str, Any], tmp_path: Path, changes: dict[str, Any], what: str, verdict: str) -> None:
    facts["gpu"] = [{**GPU, **changes}]
    assert looked(tmp_path, "cuda")[what].verdict == verdict
    if verdict == BAD:  # who measures on the processor is not disturbed by it
        assert looked(tmp_path)[what].verdict == CAREFUL


def test_no_gpu_where_one_is_wanted(facts: dict[str, Any], tmp_path: Path) -> None:
    assert looked(tmp_path, "cuda:1")["GPU"].verdict == BAD and looked(tmp_path)["GPU"].verdict == OK


def test_disk(facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"disk for {tmp_path / 'new' / 'run'}"
    assert looked(tmp_path / "new" / "run")[name].verdict == OK
    assert not (tmp_path / "new").exists(), "looking leaves nothing behind"
    (tmp_path / "file").write_text("")
    assert looked(tmp_path / "file" / "run")[f"disk for {tmp_path / 'file' / 'run'}"].verdict == BAD
    assert looked(Path("/proc/nothing"))["disk for /proc/nothing"].verdict == BAD
    monkeypatch.setattr(doctor, "DISK_BYTES", 10**18)
    assert looked(tmp_path)[f"disk for {tmp_path}"].verdict == BAD


def test_exit_status_and_text(facts: dict[str, Any], tmp_path: Path) -> None:
    assert CliRunner().invoke(cli.app, ["doctor", "--out", str(tmp_path)]).exit_code == 0
    facts["busy"] = [{"pid": 7, "name": "train", "cores": 1.9}]
    result = CliRunner().invoke(cli.app, ["doctor", "--out", str(tmp_path)])
    assert isinstance(result.exception, CellFailed) and "because of: load" in str(result.exception)
    assert "train (7)" in result.output


def test_a_busy_process_is_found(tmp_path: Path) -> None:
    # Forked away, so that it belongs to no process of this one's tree. Any share will do: others may keep the machine busy.
    mark = tmp_path / "pid"
    code = f"import os, pathlib; pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\nwhile True: pass"
    subprocess.run(["setsid", "--fork", sys.executable, "-c", code], check=True)
    while not (mark.exists() and mark.read_text()):
        time.sleep(0.01)
    pid = int(mark.read_text())
    try:
        assert pid in {process["pid"] for process in monitor.foreign_processes(0.01, 1.0)}
    finally:
        os.kill(pid, signal.SIGKILL)
