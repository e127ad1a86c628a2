"""What the machine did during a measurement: NVML through a double that replays a series of values, clocks through a fake one."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from harness.machine import monitor
from harness.machine.monitor import Monitor

# What a large GPU could answer in five samples, written by hand in NVML's units (not read from a device): throttle bits, SM
# clock in MHz, temperature in C, power in mW, processes on the device.
RECORDED: list[tuple[int, int, int, int, list[int]]] = [
    (0x1, 345, 31, 68_412, []),
    (0x0, 1980, 38, 301_774, [1 << 22]),
    (0x4, 1755, 47, 697_120, [1 << 22]),
    (0x44, 1410, 81, 699_508, [1 << 22]),
    (0x0, 1980, 60, 312_006, [1 << 22]),
]


class Replay:
    """NVML's module as far as the monitor uses it, over given values; one step per sample."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, values: list[Any], silent: tuple[str, ...] = ()) -> None:
        self.values, self.silent, self.at, self.open = values, silent, -1, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return "handle"

    def __getattr__(self, name: str) -> Any:
        if name in self.silent:
            raise AttributeError(name)

        def read(handle: str, *_: Any) -> Any:
            # The throttle reasons are asked for first in every sample.
            if name == "nvmlDeviceGetCurrentClocksThrottleReasons":
                self.at = min(self.at + 1, len(self.values) - 1)
            bits, clock, heat, power, pids = self.values[max(self.at, 0)]
            return {
                "nvmlDeviceGetUUID": b"GPU-1", "nvmlDeviceGetName": "H100",
                "nvmlDeviceGetCurrentClocksThrottleReasons": bits, "nvmlDeviceGetClockInfo": clock,
                "nvmlDeviceGetTemperature": heat, "nvmlDeviceGetPowerUsage": power,
                "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=pid) for pid in pids],
            }[name]  # fmt: skip

        return read


def watch(library: Replay, samples: int = 3) -> dict[str, Any]:
    with Monitor(interval_s=1000, library=library) as watching:
        for _ in range(samples):
            watching.sample()
    assert library.open == 0
    return watching.record(0.0)["gpus"][0]


def test_throttling_clocks_and_heat_are_those_of_the_samples() -> None:
    seen = watch(Replay(RECORDED))
    assert seen["uuid"] == "GPU-1" and seen["samples"] == 5
    assert seen["throttled_samples"] == 2, "an idle device is not throttled"
    assert seen["throttle_reasons"] == {"idle": 1, "power cap": 2, "thermal (hardware)": 1}
    assert (seen["sm_mhz_min"], seen["sm_mhz_max"]) == (345, 1980)
    assert seen["temperature_c_max"] == 81 and seen["power_w_max"] == pytest.approx(699.508)


def test_our_own_process_is_not_foreign_though_a_container_hides_its_number() -> None:
    assert watch(Replay(RECORDED))["foreign_processes"] == []


def test_a_process_that_was_there_before_is_foreign() -> None:
    values = [(bits, c, t, p, [*pids, 1 << 23]) for bits, c, t, p, pids in RECORDED]
    assert [process["pid"] for process in watch(Replay(values))["foreign_processes"]] == [1 << 23]


def test_one_that_comes_meanwhile_is_foreign() -> None:
    values = [*RECORDED[:3], (*RECORDED[3][:4], [1 << 22, 1 << 23]), RECORDED[4]]
    assert [process["pid"] for process in watch(Replay(values))["foreign_processes"]] == [1 << 23]


def test_our_own_tree_is_not_foreign() -> None:
    values = [(bits, c, t, p, [os.getpid(), os.getppid()]) for bits, c, t, p, _ in RECORDED]
    assert watch(Replay(values))["foreign_processes"] == []


def test_what_nvml_does_not_tell_is_none() -> None:
    silent = (
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    )
    seen = watch(Replay(RECORDED, silent))
    assert seen["foreign_processes"] is None and seen["power_w_max"] is None
    assert seen["throttled_samples"] is None and seen["samples"] == 0


def test_foreign_share_is_busy_time_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds on two cores: 14 s busy, 9 of them the worker's, so a quarter of the machine was somebody else's."""

    def seen_at(busy: float, quota: int) -> dict[str, Any]:
        return {"busy_s": busy, "capacity_s": 100.0 + 20 * (quota > 0), "steal_s": 0.5 * quota, "quota_throttled": quota,
                "quota_periods": 100 * quota, "thermal_throttled": None}  # fmt: skip

    readings = iter((seen_at(50.0, 0), seen_at(64.0, 2)))
    monkeypatch.setattr(monitor, "counters", lambda: next(readings))
    times = iter((1000.0, 1010.0))
    with Monitor(
        interval_s=1000, library=Replay(RECORDED), clock=lambda: next(times), cpu_clock=lambda: 0.0
    ) as watching:
        pass
    seen = watching.record(9.0)
    assert seen["seconds"] == 10 and seen["cpu"]["busy_share"] == 0.7
    assert seen["cpu"]["foreign_share"] == 0.25 and seen["cpu"]["steal_share"] == 0.05
    assert (seen["cpu"]["quota_throttled"], seen["cpu"]["quota_periods"]) == (2, 200)
    assert watching.record(None)["cpu"]["foreign_share"] is None
    assert watching.record(99.0)["cpu"]["foreign_share"] == 0, "never below nothing"


def test_this_machine_is_read_without_gpu() -> None:
    with Monitor(interval_s=0.01) as watching:
        sum(range(10**6))
    seen = watching.record(0.0)
    assert seen["memory_available_bytes"] > 0 and 0 <= seen["cpu"]["foreign_share"] <= 1


@pytest.mark.gpu
def test_a_real_gpu_answers() -> None:
    with Monitor() as watching:
        pass
    seen = watching.record(0.0)["gpus"][0]
    assert seen["uuid"].startswith("GPU-") and seen["samples"] >= 2 and seen["temperature_c_max"] > 0
