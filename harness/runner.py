"""What one worker process does: load, warm up, interleave, measure. Called by `harness.sweep`, one fresh process per call.

Every function here takes and returns plain data, so that a result can cross a process border and be stored as it is.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import methods
from harness import tasks
from harness.config import BASELINE, Suite
from harness.engine import generate
from harness.errors import BadInput
from harness.method import Method
from harness.models import kernels
from harness.models.decoder import Decoder
from harness.probes import layers, memory
from harness.prompts import expected_tokens, pad_left
from harness.speed import speed
from harness.tasks.metrics import agreement_statistics
from harness.worker import (
    Arm,
    Prepared,
    begin,
    load,
    set_threads,
    speed_batch,
    timed_examples,
    timed_expected,
    to_device,
)

__all__ = ["peak_memory", "prepare", "quality", "speed"]


def prepare(suite: Suite, arms: Sequence[Arm], data: Path | None) -> dict[str, Any]:
    """Check every arm, task and length before anything is measured.

    Returns:
        `arms`: the arms with what only the loaded checkpoint tells (settings, training, paper); `expected_tokens` by task;
        `kernels`: the layout of the weights chosen for each shape and number of rows.

    Raises:
        BadInput: something does not fit; the message names it.
    """
    set_threads(suite)
    decoders = {name: load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    expected: dict[str, int | dict[str, int]] = {}
    first = next(iter(decoders.values()))
    for index, entry in enumerate(suite.tasks):
        task = tasks.of(entry, data)
        if entry.is_lm_eval:
            expected[entry.name] = suite.expected_tokens or _lm_eval().check(entry, first, data)
            if index:  # contexts that do not fit are cut and counted, and only the first task is timed
                continue
        examples = task.examples(entry.split, entry.limit)
        if not entry.is_lm_eval:
            expected[entry.name] = suite.expected_tokens or expected_tokens(task, first.tokenizer)
        longest = max(map(len, first.tokenizer([e.prompt for e in examples]).input_ids))
        room = first.geometry.max_positions
        for key, new in (
            ("new_tokens", suite.new_tokens),
            ("max_new_tokens", suite.max_new_tokens or task.max_new_tokens),
        ):
            if entry.is_lm_eval and key == "max_new_tokens":
                continue
            width = suite.prompt_tokens or longest if key == "new_tokens" else longest
            if width + new - 1 > room:
                raise BadInput(
                    f"{key}: {new} after prompts of up to {width} tokens (task {entry.name}) needs {width + new - 1} positions, "
                    f"{first.name} has {room}; give at most {max(room - width + 1, 0)}"
                )
    needed = (suite.prompt_tokens or 0) + suite.new_tokens - 1
    if not suite.tasks and needed > first.geometry.max_positions:
        raise BadInput(
            f"new_tokens: {suite.new_tokens} after prompts of {suite.prompt_tokens} tokens needs {needed} positions, "
            f"{first.name} has {first.geometry.max_positions}"
        )
    described = []
    for arm in arms:
        decoder = decoders[arm["checkpoint"]]
        if decoder.geometry != first.geometry or _vocabulary(decoder) != _vocabulary(first):
            raise BadInput(
                f"methods: {arm['label']}: checkpoint {arm['checkpoint']} has other sizes or another tokenizer than {first.name}; "
                "one suite compares weights of one shape"
            )
        method = methods.create(arm["spec"]).resolve(decoder.depth, decoder.extras)
        settings = method.settings(decoder.depth, timed_expected(suite, expected))
        described.append(
            {
                **arm,
                "params": settings,
                "family": method.family,
                "exact": method.exact,
                "title": method.title,
                "paper": method.paper,
                "skipped_kv": method.skipped_kv,
                "trained": _trained(method, decoder),
            }
        )
    _choose_kernels(suite, first, data)
    return {"arms": described, "expected_tokens": expected, "kernels": kernels.table()}


def _lm_eval() -> Any:
    """Imported on use: lm-eval takes seconds, and most suites have none of its tasks."""
    from harness.tasks import lm_eval_suite as module

    return module


def _choose_kernels(suite: Suite, decoder: Decoder, data: Path | None) -> None:
    """Run two tokens at every batch size, so that the layouts of the weights are chosen once for all processes of the run."""
    full = methods.create(BASELINE)
    examples = timed_examples(suite, data)
    for size in (*suite.batch_sizes, suite.quality_batch_size) if suite.tasks else suite.batch_sizes:
        batch = speed_batch(suite, decoder, examples, size, 0)
        generate(decoder, full, batch.ids, batch.mask, max_new_tokens=2, stop_at_eos=False)


def _trained(method: Method, decoder: Decoder) -> str:
    """How the weights relate to the method: a schedule on weights that never saw it is another experiment."""
    if not method.needs_training:
        return "not needed"
    if str(decoder.card.get("trained_for", "")).partition("(")[0] == method.name:
        return "trained"
    return "schedule only" if method.family == "schedule" else "untrained"


def peak_memory(suite: Suite, arm: Arm, batch_size: int, prepared: Prepared, data: Path | None) -> dict[str, Any]:
    """Peak memory of one arm alone in this process: one fixed-length generation after the weights are loaded."""
    expected = begin(suite, prepared)
    decoder = load(suite, arm["checkpoint"])
    batch = speed_batch(suite, decoder, timed_examples(suite, data), batch_size, 0)
    method = methods.create(arm["spec"])
    gc.collect()
    loaded = memory.resident_bytes()
    memory.reset_peaks(decoder.device)
    generate(
        decoder,
        method,
        batch.ids,
        batch.mask,
        max_new_tokens=suite.new_tokens,
        stop_at_eos=False,
        expected_tokens=timed_expected(suite, expected),
        compact_exits=suite.compact_exits,
    )
    return {
        "batch_size": batch_size,
        "baseline_rss_bytes": loaded,
        "weights_bytes": decoder.weight_bytes,
        "energy_j_per_token": None,
        **memory.read_peaks(decoder.device),
    }


def quality(
    suite: Suite,
    arm: Arm,
    task_index: int,
    prepared: Prepared,
    data: Path | None,
    reference: Mapping[str, Sequence[int]] | None,
) -> dict[str, Any]:
    """Outputs and scores of one arm on one task, each row to its natural end.

    Args:
        suite: the run's settings.
        arm: what is scored.
        task_index: place in `suite.tasks`.
        prepared: what `prepare` found.
        data: local data folder.
        reference: the baseline arm's tokens by example id, for the agreement; None for the baseline itself.
    """
    expected = begin(suite, prepared)
    decoder = load(suite, arm["checkpoint"])
    entry = suite.tasks[task_index]
    planned = expected[entry.name]
    if entry.is_lm_eval:
        conditions = {
            "model": suite.model,
            "dtype": suite.dtype,
            "device": str(decoder.device),
            "task": entry.name,
            "batch_size": suite.quality_batch_size,
        }
        return _lm_eval().cell(  # type: ignore[no-any-return]
            entry, decoder, arm["spec"], suite.quality_batch_size, planned, data, reference, conditions
        )
    assert isinstance(planned, int)
    task = tasks.create(entry.name, data)
    examples = task.examples(entry.split, entry.limit)
    limit = suite.max_new_tokens or task.max_new_tokens
    prompts = decoder.tokenizer([e.prompt for e in examples]).input_ids
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))
    method = methods.create(arm["spec"])
    rows: dict[int, dict[str, Any]] = {}
    traces = []
    seconds = 0.0
    for start in range(0, len(order), suite.quality_batch_size):
        chosen = order[start : start + suite.quality_batch_size]
        batch = to_device(pad_left([prompts[i] for i in chosen], decoder.pad_token_id), decoder.device)
        began = time.perf_counter()
        out = generate(
            decoder,
            method,
            batch.ids,
            batch.mask,
            max_new_tokens=limit,
            expected_tokens=planned,
            compact_exits=suite.compact_exits,
        )
        tokens, lengths = out.tokens.tolist(), out.lengths.tolist()
        seconds += time.perf_counter() - began
        traces.append((out.trace, out.lengths))
        ran = out.trace.layers.sum(2)
        for row, index in enumerate(chosen):
            ids = tokens[row][: lengths[row]]
            decoded = ran[row, 1 : lengths[row]]
            rows[index] = {
                "id": examples[index].id,
                "tokens": lengths[row],
                "ended": ids[-1] in decoder.eos_token_ids,
                "layers_per_token": float(decoded.double().mean()) if len(decoded) else None,
                "token_ids": ids,
            }
    metrics = [m for m in task.metrics() if entry.metrics is None or m.name in entry.metrics]
    for index, example in enumerate(examples):
        found = rows[index]
        text = decoder.tokenizer.decode(found["token_ids"], skip_special_tokens=True).strip()
        other = found["token_ids"] if reference is None else reference[example.id]
        found.update(prompt=example.prompt, output=text, references=list(example.references))
        found["stats"] = {m.name: m.example(text, example) for m in metrics}
        found["stats"]["agreement"] = agreement_statistics(found["token_ids"], list(other))
        if reference is not None:
            del found["token_ids"]
    counted = layers.count(traces)
    return {
        "task": entry.name,
        "split": entry.split,
        "batch_size": suite.quality_batch_size,
        "max_new_tokens": limit,
        "examples": [rows[i] for i in range(len(examples))],
        "metrics": [m.name for m in metrics],
        "layers_per_token": counted.per_token,
        "layers_by_position": counted.by_position,
        "depth": decoder.depth,
        "tokens": sum(row["tokens"] for row in rows.values()),
        "unfinished": sum(not row["ended"] for row in rows.values()),
        "seconds": seconds,
        "conditions": {
            "model": suite.model,
            "dtype": suite.dtype,
            "device": str(decoder.device),
            "task": entry.name,
            "split": entry.split,
            "examples": len(examples),
            "batch_size": suite.quality_batch_size,
            "max_new_tokens": limit,
            "expected_tokens": planned,
            "sampling": "greedy",
            "end_of_sequence": "natural",
            "prompts_hash": hashlib.sha256("".join(e.prompt for e in examples).encode()).hexdigest()[:16],
        },
    }


def _vocabulary(decoder: Decoder) -> str:
    """Digest of the tokenizer's vocabulary."""
    if decoder.tokenizer is None:
        return str(decoder.geometry.vocabulary)
    return hashlib.sha256(repr(sorted(decoder.tokenizer.get_vocab().items())).encode()).hexdigest()
