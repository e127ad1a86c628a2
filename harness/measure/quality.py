"""What one worker process does: load, warm up, interleave, measure. Called by `harness.run.sweep`, one fresh process per call.

Every function here takes and returns plain data, so that a result can cross a process border and be stored as it is.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import methods
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.machine import nvml
from harness.measure import conditions as evidence
from harness.measure.probes import energy, latency, layers, memory
from harness.measure.setup import (
    Arm,
    Expected,
    Prepared,
    begin,
    load,
    set_threads,
    speed_batch,
    task_examples,
    timed_examples,
    timed_expected,
    to_device,
)
from harness.measure.speed import speed
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.kernels import layouts
from harness.suites.suite import BASELINE, Suite
from harness.tasks.metrics import agreement_statistics
from harness.tasks.prompts import Batch, expected_tokens, pad_left

__all__ = ["energy_per_token", "peak_memory", "prepare", "quality", "speed"]


def prepare(suite: Suite, arms: Sequence[Arm], data: Path | None) -> dict[str, Any]:
    """Check every arm, task and length before anything is measured.

    Returns:
        `arms`: the arms with what only the loaded checkpoint tells (settings, training, paper); `expected_tokens` by task;
        `kernels`: the layout of the weights chosen for each shape and number of rows; `energy_counters`: names of those that
        can be read here.

    Raises:
        BadInput: something does not fit; the message names it.
    """
    set_threads(suite)
    decoders = {name: load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    expected: dict[str, int | dict[str, int]] = {}
    first = next(iter(decoders.values()))
    for index, entry in enumerate(suite.tasks):
        given = entry.expected_tokens or suite.expected_tokens
        if entry.is_lm_eval:
            planned = _lm_eval().check(entry, first, data)
            expected[entry.name] = given or planned
            if index:  # contexts that do not fit are cut and counted, and only the first task is timed
                continue
        task, examples, _ = task_examples(suite, index, first, data)
        if not entry.is_lm_eval:
            task.chosen_metrics(entry.metrics)
            expected[entry.name] = given or expected_tokens(task, first.tokenizer)
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
    digests = {name: evidence.weights_digest(decoder) for name, decoder in decoders.items()}
    for name in decoders:
        for index in range(1, len(suite.tasks)) if "{task}" in name else ():
            _check_alike(name, load(suite, name, index), first)
    described = []
    for arm in arms:
        decoder = decoders[arm["checkpoint"]]
        _check_alike(arm["label"], decoder, first)
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
                "weights": digests[arm["checkpoint"]],
            }
        )
    _choose_kernels(suite, first, data)
    meters = [meter.name for meter in energy.counters(first.device)]
    return {"arms": described, "expected_tokens": expected, "kernels": layouts.table(), "energy_counters": meters}


def _check_alike(what: str, decoder: Decoder, first: Decoder) -> None:
    """BadInput unless both have the same sizes and the same tokenizer."""
    if decoder.geometry != first.geometry or evidence.vocabulary(decoder) != evidence.vocabulary(first):
        raise BadInput(
            f"methods: {what}: checkpoint {decoder.name} has other sizes or another tokenizer than {first.name}; "
            "one suite compares weights of one shape"
        )


def _lm_eval() -> Any:
    """Imported on use: lm-eval takes seconds, and most suites have none of its tasks."""
    from harness.tasks.lm_eval import cell as module

    return module


def _choose_kernels(suite: Suite, decoder: Decoder, data: Path | None) -> None:
    """Run two tokens at every batch size, so that the layouts of the weights are chosen once for all processes of the run."""
    full = methods.create(BASELINE)
    examples = timed_examples(suite, decoder, data)
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
    """Peak memory of one arm alone in this process: a fixed-length generation after one that warmed everything up."""
    expected = begin(suite, prepared)
    decoder = load(suite, arm["checkpoint"])
    batch = speed_batch(suite, decoder, timed_examples(suite, decoder, data), batch_size, 0)
    # Before an arm runs: one that leaves rows out adds choices of kernels for its numbers of rows.
    conditions = _conditions(suite, decoder, batch, batch_size, expected)
    method = methods.create(arm["spec"])
    loaded = memory.resident_bytes()
    _fixed_length(suite, decoder, method, batch, expected)
    # What was needed once only (buffers of the libraries, chosen kernels) is no part of the steady state.
    gc.collect()
    memory.reset_peaks(decoder.device)
    _fixed_length(suite, decoder, method, batch, expected)
    return {
        "conditions": conditions,
        "batch_size": batch_size,
        "baseline_rss_bytes": loaded,
        "weights_bytes": decoder.weight_bytes,
        **memory.read_peaks(decoder.device),
    }


def energy_per_token(suite: Suite, arm: Arm, batch_size: int, prepared: Prepared, data: Path | None) -> dict[str, Any]:
    """Energy of one arm alone in this process: fixed-length generations over a window of seconds; see `probes.energy`."""
    expected = begin(suite, prepared)
    decoder = load(suite, arm["checkpoint"])
    batch = speed_batch(suite, decoder, timed_examples(suite, decoder, data), batch_size, 0)
    conditions = _conditions(suite, decoder, batch, batch_size, expected)
    method = methods.create(arm["spec"])
    _fixed_length(suite, decoder, method, batch, expected)
    gpu = nvml.gpu(decoder.device)
    found = energy.measure(
        lambda: _fixed_length(suite, decoder, method, batch, expected),
        energy.counters(decoder.device),
        decoder.device,
        suite.energy_window_s,
        power_w=None if gpu is None else gpu.power_w,
    )
    return {"conditions": conditions, "batch_size": batch_size, "new_tokens": suite.new_tokens, **found}


def _conditions(suite: Suite, decoder: Decoder, batch: Batch, batch_size: int, expected: Expected) -> dict[str, Any]:
    """What an arm that is measured alone may not change."""
    return {
        **evidence.conditions(suite, decoder),
        "batch_size": batch_size,
        "new_tokens": suite.new_tokens,
        "prompts_hash": batch.hash,
        "kernels": layouts.digest(),
        "end_of_sequence": "ignored",
        "expected_tokens": timed_expected(suite, expected),
    }


def _fixed_length(suite: Suite, decoder: Decoder, method: Method, batch: Batch, expected: Expected) -> int:
    """One generation as it is timed; returns the tokens it yielded, the ones from prefill included."""
    out = generate(
        decoder,
        method,
        batch.ids,
        batch.mask,
        max_new_tokens=suite.new_tokens,
        stop_at_eos=False,
        expected_tokens=timed_expected(suite, expected),
        compact_exits=suite.compact_exits,
    )
    return out.tokens.numel()


def quality(
    suite: Suite,
    arm: Arm,
    task_index: int,
    prepared: Prepared,
    data: Path | None,
    reference: Mapping[str, Sequence[int]] | None,
    lossless: Mapping[str, Sequence[int]] | None = None,
    decoder: Decoder | None = None,
) -> dict[str, Any]:
    """Outputs and scores of one arm on one task, each row to its natural end.

    Args:
        suite: the run's settings.
        arm: what is scored.
        task_index: place in `suite.tasks`.
        prepared: what `prepare` found.
        data: local data folder.
        reference: the baseline arm's tokens by example id, for the agreement; None for the baseline itself.
        lossless: for an exact arm, the tokens that the full model gave on the same checkpoint, by example id.
        decoder: the arm's checkpoint where it is loaded already.
    """
    expected = begin(suite, prepared)
    decoder = decoder or load(suite, arm["checkpoint"], task_index)
    choices = layouts.digest()  # before the arm runs, as in peak_memory
    entry = suite.tasks[task_index]
    planned = expected[entry.name]
    if entry.is_lm_eval:
        conditions = {**evidence.conditions(suite, decoder), "task": entry.name, "kernels": choices}
        conditions["batch_size"] = suite.quality_batch_size
        return _lm_eval().cell(  # type: ignore[no-any-return]
            entry, decoder, arm["spec"], suite.quality_batch_size, planned, data, reference, lossless, conditions
        )
    assert isinstance(planned, int)
    task, examples, shortened = task_examples(suite, task_index, decoder, data)
    limit = suite.max_new_tokens or task.max_new_tokens
    prompts = decoder.tokenizer([e.prompt for e in examples]).input_ids
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))
    method = methods.create(arm["spec"])
    rows: dict[int, dict[str, Any]] = {}
    traces = []
    batches: list[dict[str, Any]] = []
    wait = latency.synchronise(decoder.device)
    for start in range(0, len(order), suite.quality_batch_size):
        chosen = order[start : start + suite.quality_batch_size]
        batch = to_device(pad_left([prompts[i] for i in chosen], decoder.pad_token_id), decoder.device)
        if not batches:  # the first request of a process pays for what is made once
            generate(decoder, method, batch.ids, batch.mask, max_new_tokens=2, expected_tokens=planned)
        wait()
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
        wait()
        seconds = time.perf_counter() - began
        tokens, lengths = out.tokens.tolist(), out.lengths.tolist()
        batches.append({"rows": len(chosen), "seconds": seconds, "tokens": sum(lengths)})
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
    texts = [
        decoder.tokenizer.decode(rows[i]["token_ids"], skip_special_tokens=True).strip() for i in range(len(examples))
    ]
    wanted = task.chosen_metrics(entry.metrics)
    skipped = {m.name: reason for m in wanted if (reason := m.unavailable()) is not None}
    metrics = [m for m in wanted if m.name not in skipped]
    scored = {m.name: m.examples(texts, examples) for m in metrics}
    for index, example in enumerate(examples):
        found = rows[index]
        other = found["token_ids"] if reference is None else reference[example.id]
        found.update(prompt=example.prompt, output=texts[index], references=list(example.references))
        found["stats"] = {name: values[index] for name, values in scored.items()}
        found["stats"]["agreement"] = agreement_statistics(found["token_ids"], list(other))
    counted = layers.count(traces)
    parted = {}
    if lossless is not None:
        names = [example.id for example in examples]
        ours = {name: rows[i]["token_ids"] for i, name in enumerate(names)}
        found = evidence.scored_divergences(decoder, dict(zip(names, prompts, strict=True)), lossless, ours)
        parted = {"divergences": found}
    return {
        **parted,
        "task": entry.name,
        "split": entry.split,
        "checkpoint": decoder.name,
        "batch_size": suite.quality_batch_size,
        "max_new_tokens": limit,
        "examples": [rows[i] for i in range(len(examples))],
        "metrics": [m.name for m in metrics],
        "metric_signatures": {m.name: m.signature() for m in metrics},
        "metrics_skipped": skipped,
        "prompts_shortened": shortened,
        "layers_per_token": counted.per_token,
        "layers_by_position": counted.by_position,
        "depth": decoder.depth,
        "tokens": sum(row["tokens"] for row in rows.values()),
        "unfinished": sum(not row["ended"] for row in rows.values()),
        "batches": batches,
        "seconds": sum(each["seconds"] for each in batches),
        "conditions": {
            **evidence.conditions(suite, decoder),
            "task": entry.name,
            "split": entry.split,
            "examples": len(examples),
            "batch_size": suite.quality_batch_size,
            "max_new_tokens": limit,
            "expected_tokens": planned,
            "end_of_sequence": "natural",
            "kernels": choices,
            "prompts_hash": evidence.token_hash(prompts),
        },
    }
