"""What is measured of an arm, as types: the fields of cells of every kind, without what tells one cell from another. Torch-free.

Numbers that code only stores and shows have no key here: they are rows of `harness.records.quantities`.
"""

from __future__ import annotations

from typing import Literal, Required

from typing_extensions import TypedDict

from harness.errors import Failure
from harness.machine.record import Machine

Status = Literal["ok", "failed"]


class Conditions(TypedDict, total=False):
    """What no method may change, by name: hashed as a whole. Each kind of cell has those that concern it."""

    model: str
    dtype: str
    device: str
    device_name: str | None
    driver: str | None
    cpu: str | None
    threads: int
    thread_variables: str | None
    padding: str
    attention: str
    compiled_kernels: str
    kernels: str
    steps: str
    matmul_precision: str
    tf32: bool | None
    sampling: str
    seed: int
    exited_rows: str
    vocabulary: str
    end_tokens: str
    pad_token: int
    tokenizer: str | None
    configuration: str
    torch: str
    transformers: str
    batch_size: int
    new_tokens: int
    max_new_tokens: int
    prompts_hash: str
    end_of_sequence: str
    expected_tokens: int | dict[str, int]
    task: str
    split: str
    examples: int
    lm_eval: str
    task_hashes: dict[str, str]
    n_shot: dict[str, int]


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
    in place of, `superseded` why the whole process was measured again later.
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
    superseded: str


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


class Parts(TypedDict, total=False):
    """One instrumented generation: seconds of each part of each step; `blocks_s`, sums over all steps, in older records."""

    process: int
    prompt_set: int
    step_s: list[float]
    step_tokens: Required[list[int]]
    parts_s: Required[dict[str, list[float]]]
    block_step_s: list[float]
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
    lm_eval: dict[str, object]


class SublayerShares(TypedDict):
    """Share of rows that ran the sublayer of block l at decode step k, [N-1][L] each."""

    attention: list[list[float]]
    feed: list[list[float]]


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
    sublayers_by_position: SublayerShares | None  # where a block ran in part
    layers_per_token: float | None
    attention_per_token: float | None
    feed_per_token: float | None
    computed_layers_per_token: float | None
    serial_layers_per_token: float | None
    serial_attention_per_token: float | None
    serial_feed_per_token: float | None
    heads_per_token: float | None
    flops_per_token: float | None
    weight_bytes_per_token: float | None
    kv_bytes_per_token: float | None
    step_parts_s: dict[str, float] | None
    predicted_step_s: float | None
    predicted_full_step_s: float | None
    ideal_step_s: float | None  # older runs have the two under these names
    ideal_full_step_s: float | None
    finite: bool | None
    repeatable: bool | None
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


class Count(TypedDict):
    """What one counter of energy said: joules of both windows."""

    name: str
    scope: str
    idle_j: float | None
    active_j: float | None


class Idle(TypedDict, total=False):
    """The idle machine: seconds of the window, and joules of each counter in it by name; None where one does not tell.

    `update_s` are the seconds between two moves of the slowest counter (None: it did not show them), `device` says whose counters
    they are.
    """

    window_s: Required[float]
    joules: Required[dict[str, float | None]]
    update_s: float | None
    device: str


class EnergyFields(TypedDict, total=False):
    """Energy of one arm alone."""

    batch_size: int
    steps: str
    new_tokens: int
    conditions: Conditions
    window_s: float
    idle_window_s: float
    idle: Idle  # where it was read before this cell, the first one on its device
    generations: int
    tokens: int
    counters: list[Count]


class Standing(TypedDict):
    """How a score of an arm stands to chance: `reason` says why it is not informative, and is empty where it is."""

    value: float
    chance: float
    informative: bool
    reason: str


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
    metric_signatures: dict[str, object]
    metrics_skipped: dict[str, str]
    prompts_shortened: int
    layers_per_token: float | None
    executed_share: float | None
    # What ran one after the other on the scored outputs, as in a speed cell.
    heads_per_token: float | None
    serial_attention_per_token: float | None
    serial_feed_per_token: float | None
    layers_by_position: list[list[float]]
    sublayers_by_position: SublayerShares | None  # where a block ran in part
    depth: int
    tokens: int
    unfinished: int
    batches: list[Batch]
    seconds: float
    divergences: Divergences | None
    informative: dict[str, Standing]
    lm_eval: dict[str, object]
