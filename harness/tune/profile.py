"""Profiles: what a training-free method learns from data before it runs, kept as an artefact with the data's hash and the cost."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import outside, tasks
from harness.errors import BadInput
from harness.machine import environment
from harness.method import Method
from harness.models.decoder import Decoder
from harness.tasks.base import data_hash
from harness.tasks.prompts import fit
from harness.tune.measured import DataProfile, Scoring

Json = dict[str, Any]


def text_windows(tokenizer: Any, text: str, count: int, tokens: int, seed: int) -> list[list[int]]:
    """`count` windows of `tokens` tokens at random places of a text, the same for one seed."""
    ids = tokenizer([text]).input_ids[0]
    if len(ids) < tokens:
        raise BadInput(
            f"text: {len(ids)} tokens are fewer than one window of {tokens}; give a longer text or fewer --tokens"
        )
    draw = random.Random(seed)
    places = [draw.randint(0, len(ids) - tokens) for _ in range(count)]
    return [ids[place : place + tokens] for place in places]


@dataclass(frozen=True)
class Source:
    """Where the windows come from: a text file, or a task's examples (a prompt and its first reference are one window).

    Attributes:
        text: file; None: the task.
        task: registered task.
        split: train or validation.
        windows: of the text, or examples of the task.
        tokens: of each window at most.
        seed: of the windows' places.
        metric: of `Profile.score`; None: the task's first.
    """

    text: Path | None = None
    task: str = "e2e"
    split: str = "validation"
    windows: int = 32
    tokens: int = 256
    seed: int = 0
    metric: str | None = None


def profile(
    method: Method, decoder: Decoder, source: Source, *, data: Path | None = None, batch_size: int = 8
) -> tuple[Method, Json]:
    """Let a method learn from data; returns it with what it learned, and the record of that.

    Raises:
        BadInput: the method learns nothing from data, or something does not fit.
    """
    if source.windows < 1 or source.tokens < 2:
        raise BadInput(f"windows: {source.windows} of {source.tokens} tokens; give 1 or more of 2 or more")
    if source.split == "test":
        raise BadInput("split: a profile from the test split would be selection on test data; give train or validation")
    began, cpu = time.perf_counter(), time.process_time()
    windows, scoring, said = _drawn(decoder, source, data)
    measured = DataProfile(decoder, windows, scoring, batch_size)
    found = method.profile(measured)
    record = {
        "kind": "profile",
        "method": outside.absolute(found.called),
        "parameters": found.given,
        "asked": str(method),
        "checkpoint": decoder.name,
        "data": said,
        "cost": {
            **measured.cost,
            "seconds": round(time.perf_counter() - began, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment.fingerprint(),
    }
    return found, record


def _drawn(decoder: Decoder, source: Source, data: Path | None) -> tuple[list[list[int]], Scoring | None, Json]:
    """The windows, what is scored, and which data these are."""
    tokenizer = decoder.tokenizer
    if tokenizer is None:
        raise BadInput(f"model: {decoder.name} has no tokenizer to read text with")
    limit = min(source.tokens, decoder.geometry.max_positions)
    if source.text is not None:
        if not source.text.is_file():
            raise BadInput(f"text: there is no file {source.text}")
        raw = source.text.read_bytes()
        windows = text_windows(tokenizer, raw.decode(errors="replace"), source.windows, limit, source.seed)
        said = {"file": source.text.name, "sha256": hashlib.sha256(raw).hexdigest(), "seed": source.seed}
        return windows, None, {**said, "windows": len(windows), "tokens_each": limit}
    task = tasks.create(source.task, data)
    examples, _ = fit(task.examples(source.split, source.windows), tokenizer, task.max_prompt_tokens, task.name)
    metric = task.chosen_metrics(None if source.metric is None else [source.metric])[0]
    joined = zip(
        tokenizer([e.prompt for e in examples]).input_ids,
        tokenizer([e.references[0] for e in examples], add_special_tokens=False).input_ids,
        strict=True,
    )
    windows = [[*prompt, *reference][:limit] for prompt, reference in joined]
    said = {"task": source.task, "split": source.split, "examples": len(examples), "hash": data_hash(examples)}
    return (
        windows,
        Scoring(examples, metric, task.max_new_tokens),
        {**said, "tokens_each": limit, "metric": metric.name},
    )
