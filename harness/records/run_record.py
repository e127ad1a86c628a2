"""run.json, as a type with its one reader. Torch-free."""

from __future__ import annotations

from typing import cast

from typing_extensions import TypedDict

from harness.machine.record import Environment
from harness.records.arms import Arm, Contest, Expected
from harness.records.checked import checked
from harness.records.fields import Idle


class SuiteRecord(TypedDict, total=False):
    """A suite as resolved; `harness.suites.suite.Suite` says what its keys mean."""

    name: str
    title: str
    description: str
    model: str
    methods: list[dict[str, object]]
    batch_sizes: list[int]
    tasks: list[dict[str, object]]
    prompt_tokens: int | None
    new_tokens: int
    dtype: str
    device: str
    processes: int
    repeats: int
    warmup: int
    seed: int
    threads: int | None
    max_new_tokens: int | None
    quality_batch_size: int
    prompt_sets: int
    expected_tokens: int | None
    memory: bool
    energy: bool
    energy_window_s: float | None
    quality_margin: float
    compact_exits: bool
    time_limit_s: float
    limits: dict[str, float]
    published: list[dict[str, object]]


class PaperHead(TypedDict, total=False):
    """The head of a paper whose tables stand beside a run's; `harness.records.published.Paper` says what its keys mean."""

    bibkey: str
    title: str
    authors: list[str]
    year: int
    venue: str
    arxiv: str | None
    url: str
    code: str | None
    readings: dict[str, dict[str, str]]
    notes: list[str]


class PublishedPart(TypedDict):
    """What a run carries of a paper: its head, the suite's entry, and the rows chosen by it."""

    paper: PaperHead
    beside: dict[str, object]
    rows: list[dict[str, object]]


class RunRecord(TypedDict, total=False):
    """run.json."""

    schema_version: int
    name: str
    suite: SuiteRecord
    arms: list[Arm]
    expected_tokens: Expected
    kernels: dict[str, str]
    contests: list[Contest]
    energy_counters: list[str]
    energy_idle: Idle | None
    ignored_settings: list[str]
    published: list[PublishedPart]
    environment: Environment
    resumed: list[Environment]
    started: str | None
    finished: str | None
    command: list[str]


def read_run(record: object) -> RunRecord:
    """The run.json that a stored JSON object is; ValueError that names the field where it is none."""
    return cast(RunRecord, checked(record, RunRecord))
