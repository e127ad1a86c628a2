"""What is stored of a run, as types, each with its one reader: cells of every kind, arms, run.json. Torch-free.

A reader checks the values it is given and returns them as they are, so that nothing changes by being read. Keys it does not
know are kept; keys that older runs of this schema lack may be missing. What could not be measured is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import (
    Any,
    Literal,
    Required,  # those of typing do not reach pydantic before Python 3.12
    TypeVar,
    cast,
)

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.errors import Failure

Status = Literal["ok", "failed"]
Kind = Literal["speed", "memory", "energy", "quality"]
KINDS: tuple[Kind, ...] = ("speed", "memory", "energy", "quality")

Conditions = dict[str, Any]
"""What no method may change, by name: JSON values, hashed as a whole."""
Suite = dict[str, Any]
"""A suite as resolved; `harness.suites.suite` has its keys."""
Environment = dict[str, Any]
"""The fingerprint of `harness.machine.environment`."""
Expected = dict[str, int | dict[str, int]]
"""Expected tokens by the suite's tasks; for an lm-eval entry that stands for several tasks, by those."""


class Planned(TypedDict, total=False):
    """An arm as the suite asks for it; `tuned` names the artefact its parameters come from."""

    label: Required[str]
    method: Required[str]
    spec: Required[str]
    checkpoint: Required[str]
    tuned: dict[str, Any]


class Arm(TypedDict, total=False):
    """An arm with what only the loaded checkpoint tells. `weights` is the sampled digest of its weights."""

    label: Required[str]
    method: str
    spec: str
    checkpoint: str
    tuned: dict[str, Any]
    params: dict[str, Any]
    family: str
    exact: bool | None
    title: str
    paper: str
    skipped_kv: str
    trained: str | None
    weights: str


class Prepared(TypedDict, total=False):
    """What is checked and chosen before anything is measured."""

    arms: Required[list[Arm]]
    expected_tokens: Required[Expected]
    kernels: Required[dict[str, str]]
    contests: list[Contest]
    energy_counters: list[str]


class RunRecord(TypedDict, total=False):
    """run.json."""

    schema_version: int
    name: str
    suite: Suite
    arms: list[Arm]
    expected_tokens: Expected
    kernels: dict[str, str]
    contests: list[Contest]
    energy_counters: list[str]
    published: list[dict[str, Any]]
    environment: Environment
    resumed: list[Environment]
    started: str | None
    finished: str | None
    command: list[str]


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
    foreign_processes: list[dict[str, Any]] | None


class Machine(TypedDict, total=False):
    """What the machine did while one process measured; see `harness.machine.monitor`."""

    seconds: float
    load_average: list[float | None]
    memory_available_bytes: int | None
    cpu: Cpu
    gpus: list[Gpu] | None
    node: str
    attempts: int


class Divergence(TypedDict, total=False):
    """Where the tokens of a lossless arm first part from full's, and full's margin there."""

    example: str
    prompt_set: int
    row: int
    position: int
    full_token: int | None
    token: int | None
    margin: float | None
    scale: float | None


class Divergences(TypedDict):
    """How many generations part, and the first of them."""

    count: int
    first: list[Divergence]


class Timed(TypedDict, total=False):
    """One timed generation: seconds of each decode step (`plan_s`: of its plan), tokens it yielded over all rows.

    `machine` is what the machine did meanwhile, `disturbed` why the repeat does not count, `again` the repeat it was measured
    in place of.
    """

    process: Required[int]
    repeat: Required[int]
    prompt_set: Required[int]
    order: int
    ttft_s: float | None
    plan_s: list[float]
    step_s: list[float]
    step_tokens: list[int]
    machine: Meanwhile
    disturbed: str
    again: int


class Meanwhile(TypedDict, total=False):
    """What the machine did during one repeat; None for what it does not tell."""

    seconds: float
    foreign_share: float | None
    steal_share: float | None
    switches: int | None
    mhz: float | None


class Reading(TypedDict, total=False):
    """How fast the cores read in one process; see `harness.measure.probes.reading`."""

    process: int
    memory_gb_per_s: Required[float]
    memory_bytes: int
    cache_bytes: int
    threads: int
    cache_gb_per_s: float | None
    last_level_cache_bytes: int | None


class FewerBlocks(TypedDict):
    """Seconds of the full model's step with the first so many of its blocks, in one process."""

    process: int
    blocks: int
    step_s: list[float]


class Contest(TypedDict, total=False):
    """The full model's step by the kernels and by torch's own calls, before anything is timed; `said` is it in words."""

    rows: int
    native_s: Required[list[float]]
    torch_s: list[float]
    chosen: Required[str]
    said: Required[str]


class Parts(TypedDict, total=False):
    """One instrumented generation: seconds of each part of each step."""

    process: int
    prompt_set: int
    step_s: list[float]
    step_tokens: Required[list[int]]
    parts_s: Required[dict[str, list[float]]]
    blocks_s: list[float]


class Seen(TypedDict):
    """One untimed generation: tokens [B][N], margins [B][N] and scales [B]; these are None where logits are not finite."""

    tokens: list[list[int]]
    margins: list[list[float]] | None
    scales: list[float] | None


class Output(Seen, total=False):
    """The same with the examples of its rows; None where prompts are cut or made up."""

    examples: list[str] | None


class Batch(TypedDict):
    """One scored batch: its rows, seconds and tokens."""

    rows: int
    seconds: float
    tokens: int


class Example(TypedDict, total=False):
    """One scored example. `stats` are the sufficient statistics of each metric; `answer` is lm-eval's, `token_ids` ours."""

    id: Required[str]
    prompt: str
    output: str | None
    references: list[str]
    tokens: int
    ended: bool
    token_ids: list[int]
    answer: list[int]
    layers_per_token: float | None
    stats: dict[str, list[float]]
    lm_eval: dict[str, Any]


class SpeedFields(TypedDict, total=False):
    """What is measured of an arm at one batch size, all arms interleaved. `steps` says how its steps ran."""

    batch_size: int
    steps: str
    new_tokens: int
    prompt_tokens: int
    prompts_hash: str
    prompts_seen: list[str]
    conditions: Conditions
    depth: int
    runs: list[Timed]
    breakdown: list[Parts]
    reading: list[Reading]
    fewer_blocks: list[FewerBlocks]
    outputs: list[Output]
    layers_by_position: list[list[float]]
    layers_per_token: float | None
    computed_layers_per_token: float | None
    serial_layers_per_token: float | None
    serial_attention_per_token: float | None
    serial_feed_per_token: float | None
    heads_per_token: float | None
    flops_per_token: float | None
    exit_test_flops_per_token: float | None
    fill_flops_per_token: float | None
    head_flops_per_token: float | None
    prefill_flops: float | None
    weight_bytes_per_token: float | None
    kv_bytes_per_token: float | None
    kv_cache_bytes: float | None
    kv_written_bytes: float | None
    step_parts_s: dict[str, float] | None
    predicted_step_s: float | None
    predicted_full_step_s: float | None
    ideal_step_s: float | None  # older runs have the two under these names
    ideal_full_step_s: float | None
    finite: bool | None
    repeatable: bool | None
    noisy: bool | None
    tokens_hash: str
    tokens_unlike_full: int
    divergences: Divergences | None
    device_uuid: str | None


class SpeedShare(SpeedFields, total=False):
    """What one process measured of an arm."""

    status: Required[Status]
    error: str | None
    failure: Failure
    machine: Machine


class MemoryFields(TypedDict, total=False):
    """Peak memory of one arm alone."""

    batch_size: int
    steps: str
    conditions: Conditions
    baseline_rss_bytes: int | None
    weights_bytes: int
    peak_rss_bytes: float | None
    cuda_peak_allocated_bytes: float | None
    cuda_reserved_bytes: float | None
    nvml_process_bytes: float | None
    nvml_device_bytes: float | None


class EnergyFields(TypedDict, total=False):
    """Energy of one arm alone."""

    batch_size: int
    steps: str
    new_tokens: int
    conditions: Conditions
    window_s: float
    idle_window_s: float
    generations: int
    tokens: int
    counters: list[dict[str, Any]]
    energy_j_per_token: float | None
    energy_above_idle_j_per_token: float | None
    cpu_energy_j_per_token: float | None
    idle_w: float | None
    mean_power_w: float | None
    sampled_power_w: float | None


class QualityFields(TypedDict, total=False):
    """Outputs and scores of one arm on one task."""

    task: str
    steps: str
    split: str
    checkpoint: str
    batch_size: int
    max_new_tokens: int
    conditions: Conditions
    examples: list[Example]
    metrics: list[str]
    metric_signatures: dict[str, Any]
    metrics_skipped: dict[str, str]
    prompts_shortened: int
    layers_per_token: float | None
    layers_by_position: list[list[float]]
    depth: int
    tokens: int
    unfinished: int
    batches: list[Batch]
    seconds: float
    divergences: Divergences | None
    lm_eval: dict[str, Any]


class _Stored(TypedDict, total=False):
    schema_version: int
    id: Required[str]
    status: Required[Status]
    arm: Required[Arm]
    error: str | None
    failure: Failure
    code: Code
    conditions_hash: str
    machine: list[Machine]


class SpeedCell(_Stored, SpeedFields, total=False):
    """Times of an arm at one batch size, those of all processes."""

    kind: Required[Literal["speed"]]


class MemoryCell(_Stored, MemoryFields, total=False):
    """Memory of an arm at one batch size."""

    kind: Required[Literal["memory"]]


class EnergyCell(_Stored, EnergyFields, total=False):
    """Energy of an arm at one batch size."""

    kind: Required[Literal["energy"]]


class QualityCell(_Stored, QualityFields, total=False):
    """Outputs and scores of an arm on a task."""

    kind: Required[Literal["quality"]]


Cell = SpeedCell | MemoryCell | EnergyCell | QualityCell

_TYPES: dict[str, Any] = {"speed": SpeedCell, "memory": MemoryCell, "energy": EnergyCell, "quality": QualityCell}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,179}")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=Cell)


def place(cell: Cell) -> int | str | None:
    """What a cell belongs to beside its arm: the task where it was scored, else the batch size."""
    return cell.get("task") if cell["kind"] == "quality" else cell.get("batch_size")


def by_place(cells: Iterable[_C]) -> dict[tuple[str, int | str | None], _C]:
    """Cells of one kind by arm label and place."""
    return {(cell["arm"]["label"], place(cell)): cell for cell in cells}


def identified(record: object) -> Kind:
    """The kind of a cell; ValueError where the record does not say which cell it is."""
    if not isinstance(record, Mapping):
        raise ValueError("not an object")
    if not isinstance(name := record.get("id"), str) or not _ID.fullmatch(name):
        raise ValueError(f"id {name!r} is not a plain file name")
    if (kind := record.get("kind")) not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if (status := record.get("status")) not in ("ok", "failed"):
        raise ValueError(f"status {status!r} is neither ok nor failed")
    if not isinstance(arm := record.get("arm"), Mapping) or not arm.get("label"):
        raise ValueError("arm.label is missing")
    return cast(Kind, kind)


def read(record: object) -> Cell:
    """The cell that a stored JSON object is; ValueError that names the field where it is none."""
    return cast(Cell, _checked(record, _TYPES[identified(record)]))


def read_run(record: object) -> RunRecord:
    """The run.json that a stored JSON object is; ValueError that names the field where it is none."""
    return cast(RunRecord, _checked(record, RunRecord))


def _checked(record: _T, kind: Any) -> _T:
    try:
        _adapter(kind).validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        raise ValueError(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}" if where else first["msg"]) from None
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
