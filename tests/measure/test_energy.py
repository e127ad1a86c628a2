"""Energy from a replay of counters: windows, units, wrap-around, idle apart; unreadable is empty."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import methods
from harness.machine import nvml
from harness.measure.alone import energy_per_token
from harness.measure.prepare import prepare
from harness.measure.probes import energy, memory
from harness.suites.suite import Suite
from tests.measure.test_latency import FakeClock

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
UUID = "GPU-0b1c7f2e-1111-2222-3333-444455556666"


class NVMLError(Exception):
    """As pynvml raises it."""


class Replay:
    """Stands in for pynvml: answers every call from what was written down, in the form and units NVML uses.

    Args:
        answers: for each function the answers in order, the last one for good; an exception is raised.
        clock: where given, the energy counter runs with it instead: (seconds at 0 mJ, watts).
    """

    def __init__(self, answers: dict[str, list[Any]], power: Callable[[], float] | None = None) -> None:
        self._answers, self._power = answers, power
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any) -> Any:
            self.asked.append((name, arguments))
            if name == "nvmlDeviceGetTotalEnergyConsumption" and self._power is not None:
                return int(self._power())
            found = self._answers.get(name)
            if found is None:
                raise NVMLError(f"{name} is not supported")
            value = found.pop(0) if len(found) > 1 else found[0]
            if isinstance(value, Exception):
                raise value
            return value

        return answer


def device(**answers: list[Any]) -> Replay:
    return Replay({"nvmlInit": [None], "nvmlDeviceGetHandleByUUID": ["handle"], **answers})


class Machine:
    """A clock, and a GPU that draws 70 W idle and 400 W while it generates; its counter moves in steps of 50 ms."""

    def __init__(self, idle_w: float = 70.0, busy_w: float = 400.0) -> None:
        self.clock, self.idle_w, self.busy_w = FakeClock(), idle_w, busy_w
        self.joules = 12345.0

    def pass_(self, seconds: float, watts: float) -> None:
        self.clock.spend(seconds)
        self.joules += seconds * watts

    def sleep(self, seconds: float) -> None:
        self.pass_(seconds, self.idle_w)

    def generate(self) -> int:
        self.pass_(0.4, self.busy_w)
        return 64

    def millijoules(self) -> float:
        return 1000 * (self.joules - self.joules % (0.05 * self.idle_w))


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "synchronise", lambda device: lambda: None)


def test_energy_of_a_window_and_of_the_idle_machine(no_wait: None, tmp_path: Path) -> None:
    machine = Machine()
    library = device(nvmlDeviceGetPowerUsage=[398_000, 402_000])
    library._power = machine.millijoules
    meters = energy.counters(CUDA, tmp_path, library, UUID)
    assert [m.name for m in meters] == ["gpu"]
    assert ("nvmlDeviceGetHandleByUUID", (UUID,)) in library.asked
    gpu = nvml.gpu(CUDA, library, UUID)
    assert gpu is not None
    found = energy.measure(
        machine.generate, meters, CUDA, 3.0, power_w=gpu.power_w, clock=machine.clock, sleep=machine.sleep
    )
    assert (found["generations"], found["tokens"]) == (8, 8 * 64)  # the first that ends past 3 s is the last
    assert found["window_s"] == pytest.approx(3.2)
    assert found["idle_w"] == pytest.approx(70, rel=0.03)
    assert found["energy_j_per_token"] == pytest.approx(400 * 3.2 / 512, rel=0.01)
    assert found["energy_above_idle_j_per_token"] == pytest.approx(330 * 3.2 / 512, rel=0.02)
    assert found["mean_power_w"] == pytest.approx(400, rel=0.01)
    assert found["sampled_power_w"] == pytest.approx(401.5)
    assert found["cpu_energy_j_per_token"] is None


class Ticking:
    """A counter that moves every `update_s` seconds of a clock, at 100 W."""

    def __init__(self, clock: FakeClock, update_s: float) -> None:
        self.clock, self.update_s = clock, update_s

    def __call__(self) -> int:
        return int(100_000 * self.update_s * int(self.clock() / self.update_s))


@pytest.mark.parametrize(
    ("update_s", "window_s"),
    [((0.1,), 5.0), ((0.02,), 1.0), ((0.001, 0.08), 4.0), ((0.9,), 30.0), ((3.0,), energy.UNTOLD_S)],
)
def test_a_window_is_as_long_as_its_slowest_counter_needs(
    no_wait: None, update_s: tuple[float, ...], window_s: float
) -> None:
    clock = FakeClock()
    meters = [energy.Counter(f"gpu{each}", "gpu", Ticking(clock, each), 1e-3) for each in update_s]
    quiet = energy.idle(meters, CUDA, None, clock, clock.spend)
    assert quiet["window_s"] == pytest.approx(window_s, rel=0.02)
    assert (quiet["update_s"] is None) == (update_s == (3.0,))

    def generate() -> int:
        clock.spend(0.05)
        return 5

    found = energy.measure(generate, meters, CUDA, quiet=quiet, clock=clock, sleep=clock.spend)
    assert found["window_s"] == pytest.approx(window_s, rel=0.1)
    if quiet["update_s"]:
        assert found["mean_power_w"] == pytest.approx(100 * len(meters), rel=0.05)
    assert energy.idle(meters, CUDA, 7.0, clock, clock.spend)["window_s"] == pytest.approx(7.0), "as the suite asks"


def test_a_counter_that_stands_still_is_no_measurement(no_wait: None, tmp_path: Path) -> None:
    """Short windows gave 0 J; a counter that does not move must be empty, not free energy."""
    machine = Machine()
    meters = energy.counters(CUDA, tmp_path, device(nvmlDeviceGetTotalEnergyConsumption=[5000]), UUID)
    found = energy.measure(machine.generate, meters, CUDA, 1.0, clock=machine.clock, sleep=machine.sleep)
    assert [found[k] for k in ("energy_j_per_token", "idle_w", "mean_power_w")] == [None] * 3
    assert found["counters"] == [{"name": "gpu", "scope": "gpu", "idle_j": None, "active_j": None}]


@pytest.mark.parametrize(
    "library",
    [
        device(),  # Pascal and older: not supported
        Replay({"nvmlInit": [NVMLError("driver not loaded")]}),
        Replay({"nvmlInit": [None], "nvmlDeviceGetHandleByUUID": [NVMLError("not found")]}),
    ],
)
def test_without_a_counter_there_is_nothing(library: Replay, tmp_path: Path) -> None:
    assert energy.counters(CUDA, tmp_path, library, UUID) == []


def domain(folder: Path, name: str, label: str, count: int | None, limit: int | None = None) -> Path:
    path = folder / name
    path.mkdir()
    (path / "name").write_text(label + "\n")
    if count is not None:
        (path / "energy_uj").write_text(f"{count}\n")
    if limit is not None:
        (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path / "energy_uj"


def test_rapl_packages_are_added_and_wrap_around(no_wait: None, tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000, 262_143_328_850)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 1_000_000, 262_143_328_850)
    domain(tmp_path, "intel-rapl:0:0", "core", 5)
    domain(tmp_path, "intel-rapl:2", "psys", 7)
    domain(tmp_path, "intel-rapl:3", "package-9", None)
    clock = FakeClock()
    meters = energy.counters(CPU, tmp_path)
    assert [(m.name, m.scope) for m in meters] == [("package-0", "cpu"), ("package-1", "cpu")]

    def pass_(seconds: float, watts: int) -> None:
        clock.spend(seconds)
        for path, range_ in ((first, 262_143_328_850), (second, 262_143_328_850)):
            path.write_text(str((int(path.read_text()) + int(seconds * watts * 1e6)) % range_))

    def generate() -> int:
        pass_(0.5, 30)
        return 10

    found = energy.measure(generate, meters, CPU, 2.0, clock=clock, sleep=lambda seconds: pass_(seconds, 8))
    assert found["energy_j_per_token"] == pytest.approx(2 * 30 * 2.0 / 40)
    assert found["cpu_energy_j_per_token"] == found["energy_j_per_token"]
    assert found["idle_w"] == pytest.approx(16.0)
    assert found["energy_above_idle_j_per_token"] == pytest.approx(2 * 22 * 2.0 / 40)


def test_a_counter_running_backwards_is_no_measurement() -> None:
    counter = energy.Counter("gpu", "gpu", lambda: 0, 1e-3)
    assert counter.joules(10, 5) is None
    assert counter.joules(None, 5) is None
    assert counter.joules(5, 5) is None
    assert counter.joules(1000, 3500) == 2.5
    assert energy.Counter("p", "cpu", lambda: 0, 1e-6, 1000).joules(900, 100) == pytest.approx(200e-6)


def test_one_lost_package_makes_the_sum_unknown(no_wait: None) -> None:
    """Half a machine's energy is not its energy."""
    clock, count = FakeClock(), itertools.count(0, 1000)
    meters = [
        energy.Counter("package-0", "cpu", lambda: next(count), 1e-3),
        energy.Counter("package-1", "cpu", lambda: None, 1e-3),
    ]

    def generate() -> int:
        clock.spend(1.0)
        return 1

    found = energy.measure(generate, meters, CPU, 1.0, clock=clock, sleep=clock.spend)
    assert found["energy_j_per_token"] is None
    assert found["counters"][0]["active_j"] == 1.0


def test_memory_as_nvml_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [SimpleNamespace(pid=7, usedGpuMemory=1), SimpleNamespace(pid=42, usedGpuMemory=3_000_000_000)]
    library = device(
        nvmlDeviceGetComputeRunningProcesses=[processes],
        nvmlDeviceGetMemoryInfo=[SimpleNamespace(total=80 * 10**9, used=5 * 10**9)],
    )
    gpu = nvml.gpu(CUDA, library, UUID)
    assert gpu is not None
    assert (gpu.process_bytes(42), gpu.process_bytes(43), gpu.used_bytes()) == (3_000_000_000, None, 5 * 10**9)
    hidden = nvml.gpu(
        CUDA, device(nvmlDeviceGetComputeRunningProcesses=[[SimpleNamespace(pid=42, usedGpuMemory=None)]]), UUID
    )
    assert hidden is not None and hidden.process_bytes(42) is None and hidden.used_bytes() is None
    assert nvml.gpu(CPU, library) is None
    monkeypatch.setattr(memory.nvml, "gpu", lambda device: gpu)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 11)
    peaks = memory.read_peaks(CUDA)
    assert (peaks["nvml_device_bytes"], peaks["cuda_peak_allocated_bytes"]) == (5 * 10**9, 11)


def test_a_worker_measures_energy_of_one_arm(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass as the sweep calls it, the counter and the sleeping replaced: everything else is real."""
    seen: dict[str, Any] = {}
    reading = iter(range(1000, 10**6, 1000))

    def measure(run: Callable[[], int], meters: Any, device: Any, window_s: float, **more: Any) -> dict[str, Any]:
        seen.update(window=window_s, tokens=run(), names=[m.name for m in meters])
        return inner(run, meters, device, 0.05, sleep=lambda seconds: None)

    inner = energy.measure
    monkeypatch.setattr(energy, "measure", measure)
    monkeypatch.setattr(
        energy, "counters", lambda device: [energy.Counter("package-0", "cpu", lambda: next(reading), 1e-3)]
    )
    suite = Suite.model_validate(
        {"name": "x", "model": str(checkpoint), "methods": ["full"], "batch_sizes": [2], "prompt_tokens": 5,
         "new_tokens": 6, "threads": 1, "energy_window_s": 1}
    )  # fmt: skip
    arm = {"label": "full", "method": "full", "spec": "full", "checkpoint": str(checkpoint)}
    prepared = prepare(suite, [arm], None)
    assert prepared["energy_counters"] == ["package-0"]
    quiet = prepared["energy_idle"]
    assert quiet is not None and quiet["device"] == energy.identity(CPU)
    found = energy_per_token(suite, arm, 2, {**prepared, "energy_idles": [quiet]}, None)
    assert seen == {"window": 1.0, "tokens": 12, "names": ["package-0"]} and "idle" not in found
    assert found["energy_j_per_token"] > 0
    assert (found["batch_size"], found["conditions"]["end_of_sequence"]) == (2, "ignored")
    assert methods.create("full").family == "schedule"


def test_the_idle_machine_is_read_once_for_all_arms(no_wait: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a large machine idle windows before every cell took longer than the cells: one reading serves them all."""
    clock = FakeClock()
    readings = iter([1_000, 4_000])
    meter = energy.Counter("gpu", "gpu", lambda: next(readings), 1e-3)
    monkeypatch.setattr(energy, "update_s", lambda *_: None)
    quiet = energy.idle([meter], CUDA, 2.0, clock, clock.spend)
    assert (quiet["window_s"], quiet["joules"]) == (2.0, {"gpu": 3.0})
    readings = iter([0, 50_000])
    slept: list[float] = []

    def generate() -> int:
        clock.spend(1.0)
        return 10

    found = energy.measure(generate, [meter], CUDA, 2.0, quiet=quiet, clock=clock, sleep=slept.append)
    assert not slept and found["idle_w"] == 1.5
    assert found["energy_above_idle_j_per_token"] == pytest.approx((50.0 - 1.5 * 2.0) / 20)
