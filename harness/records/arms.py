"""The arms of a run and what is checked and chosen before anything is measured, as types. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Any,
    Required,  # that of typing does not reach pydantic before Python 3.12
)

from typing_extensions import TypedDict

from harness.records.fields import Idle
from harness.records.limits import BASELINE
from harness.records.measures import real
from harness.tasks.base import Example

Expected = dict[str, int | dict[str, int]]
"""Expected tokens by the suite's tasks; for an lm-eval entry that stands for several tasks, by those."""


class Code(TypedDict):
    """The file of a method that is not the project's own: its name, its hash, and where the run folder keeps its text."""

    file: str
    sha256: str
    kept: str


class Training(TypedDict, total=False):
    """What the weights of a checkpoint cost beyond those it started from, as its card has it.

    Attributes:
        tokens: the model ran over in training.
        steps: of the optimiser.
        seconds: wall time.
        device: it was trained on.
        data_hash: of what it was trained on.
        start: digest of the weights it started from; None: none were.
    """

    tokens: int
    steps: int
    seconds: float
    device: str
    data_hash: str
    start: str | None


class Planned(TypedDict, total=False):
    """An arm as the suite asks for it; `tuned` names the artefact its parameters come from, `code` is a method's own file."""

    label: Required[str]
    method: Required[str]
    spec: Required[str]
    checkpoint: Required[str]
    tuned: dict[str, object]
    code: Code


class Arm(TypedDict, total=False):
    """An arm with what only the loaded checkpoint tells.

    Attributes:
        weights: the sampled digest of its weights.
        of_blocks: blocks of the run's model, for an arm whose own model has fewer: its shares and ratios are of these. Not there
            for others.
    """

    label: Required[str]
    method: str
    spec: str
    checkpoint: str
    tuned: dict[str, object]
    code: Code
    params: dict[str, object]
    family: str
    exact: bool | None
    title: str
    paper: str
    skipped_kv: str
    trained: str | None
    training: Training | None
    weights: str
    beside_weights: dict[str, Any]
    of_blocks: int


def is_whole(arm: Mapping[str, Any]) -> bool:
    """Whether an arm runs all blocks of the run's model: the full model, and not a shallower one of its kind."""
    return arm.get("method") == BASELINE and not arm.get("of_blocks")


def rests_on(arm: Mapping[str, Any]) -> tuple[str, float | None]:
    """What an arm's parameters were learned by before the run (profile, calibration, tuning) and its seconds; else empty, None."""
    source = arm.get("tuned")
    if not isinstance(source, Mapping):
        return "", None
    cost = source.get("cost")
    return str(source.get("kind") or "tuning"), real(cost.get("seconds")) if isinstance(cost, Mapping) else None


def cost_said(kind: str, seconds: float | None) -> str:
    """That in words, as `profile, 19 s`; empty where nothing was learned."""
    if not kind or seconds is None:
        return f"{kind}, cost not recorded" if kind else ""
    return f"{kind}, {seconds:.0f} s" if seconds < 100 else f"{kind}, {seconds / 60:.0f} min"


class Contest(TypedDict, total=False):
    """The full model's step by the kernels and by torch's own calls, before anything is timed; `said` is it in words."""

    rows: int
    native_s: Required[list[float]]
    torch_s: list[float]
    chosen: Required[str]
    said: Required[str]


class Prepared(TypedDict, total=False):
    """What is checked and chosen before anything is measured."""

    arms: Required[list[Arm]]
    expected_tokens: Required[Expected]
    kernels: Required[dict[str, str]]
    contests: list[Contest]
    energy_counters: list[str]
    energy_idle: Idle | None
    energy_idles: list[Idle]
    ignored_settings: list[str]
    prompts: list[Example]
    """Examples whose prompts are timed, no longer than they may be: read once, handed to every process, stored nowhere."""
