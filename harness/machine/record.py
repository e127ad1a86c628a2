"""What is stored of a machine, as types: what it is, and what it did while something was measured. None: not readable."""

from __future__ import annotations

from typing_extensions import TypedDict


class Process(TypedDict, total=False):
    """A process that is not ours; `cores`: how many it kept busy."""

    pid: int
    name: str
    cores: float


class Processor(TypedDict, total=False):
    """The processor as found; `cache_bytes` by level, `vectors` its widest, `usable_cores` those of this process."""

    model: str | None
    cores: int | None
    threads: int | None
    usable_cores: int | None
    governor: str | None
    turbo: bool | None
    max_mhz: float | None
    vectors: str | None
    cache_bytes: dict[str, int] | None


class Device(TypedDict, total=False):
    """A GPU as found: the facts of `harness.machine.nvml.FACTS`."""

    name: str | None
    uuid: str | None
    driver: str | None
    memory_bytes: int | None
    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    power_cap_w: float | None
    power_default_w: float | None
    temperature_c: int | None
    processes: list[int] | None
    throttle_reasons: str | None
    persistence: bool | None
    ecc: int | bool | None
    mig: int | bool | None


class Environment(TypedDict, total=False):
    """The fingerprint of `harness.machine.environment`; `gpu` has a record for each device."""

    commit: str | None
    dirty: bool | None
    date: str
    versions: dict[str, str | None]
    os: str | None
    cpu: Processor
    memory_bytes: int | None
    memory_available_bytes: int | None
    memory_limit_bytes: int | None
    swap_used_bytes: int | None
    load_average: list[float] | None
    threads: dict[str, str | None]
    gpu: list[Device] | None


class Code(TypedDict, total=False):
    """Which version of the code measured a cell."""

    commit: str | None
    dirty: bool | None


class Cpu(TypedDict, total=False):
    """The processor while a cell was measured."""

    busy_share: float | None
    foreign_share: float | None
    steal_share: float | None
    quota_throttled: int | None
    quota_periods: int | None
    thermal_throttled: int | None
    temperature_c: float | None


class Gpu(TypedDict, total=False):
    """A GPU while a cell was measured."""

    uuid: str | None
    name: str | None
    samples: int
    throttled_samples: int | None
    throttle_reasons: dict[str, int]
    foreign_processes: list[Process] | None
    sm_mhz_min: float | None
    sm_mhz_max: float | None
    temperature_c_min: float | None
    temperature_c_max: float | None
    power_w_min: float | None
    power_w_max: float | None


class Machine(TypedDict, total=False):
    """What the machine did while one process measured; see `harness.machine.monitor`."""

    seconds: float
    load_average: list[float | None]
    memory_available_bytes: int | None
    cpu: Cpu
    gpus: list[Gpu] | None
    node: str
    attempts: int
