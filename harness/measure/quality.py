"""Outputs and scores of one arm on one task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from harness.decode.engine import Output, generate
from harness.measure import conditions as evidence
from harness.measure.probes import latency, layers, watching
from harness.measure.probes.layers import executed_share
from harness.measure.running import say
from harness.measure.setup import (
    begin,
    lm_eval_cells,
    lm_eval_options,
    load,
    method_of,
    task_examples,
    to_device,
)
from harness.models.decoder import Decoder
from harness.models.kernels import choices
from harness.records.arms import Arm, Prepared
from harness.records.fields import Batch, Divergences, Example, QualityFields
from harness.suites.suite import Suite
from harness.tasks.metrics import agreement_statistics
from harness.tasks.prompts import pad_left


def quality(
    suite: Suite,
    arm: Arm,
    task_index: int,
    prepared: Prepared,
    data: Path | None,
    reference: Mapping[str, Sequence[int]] | None,
    lossless: Mapping[str, Sequence[int]] | None = None,
    decoder: Decoder | None = None,
) -> QualityFields:
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
    blocks = arm.get("of_blocks")
    kernels = choices.digest()  # before the arm runs, as in peak_memory
    entry = suite.tasks[task_index]
    planned = expected[entry.name]
    if entry.is_lm_eval:
        conditions = {**evidence.conditions(suite, decoder, blocks), "task": entry.name, "kernels": kernels}
        conditions["batch_size"] = suite.quality_batch_size
        answered = lm_eval_cells().cell(
            entry.name,
            lm_eval_options(entry),
            decoder,
            method_of(arm),
            suite.quality_batch_size,
            planned,
            data,
            reference,
            lossless,
            conditions,
        )
        return cast(QualityFields, {**answered, "depth": blocks or decoder.depth})
    assert isinstance(planned, int)
    task, examples, shortened = task_examples(suite, task_index, decoder, data)
    limit = suite.max_new_tokens or task.max_new_tokens
    prompts = decoder.tokenizer([e.prompt for e in examples]).input_ids
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))
    method = method_of(arm)
    rows: dict[int, Example] = {}
    outputs: list[Output] = []
    batches: list[Batch] = []
    wait = latency.synchronise(decoder.device)
    for start in range(0, len(order), suite.quality_batch_size):
        say(f"evaluating, {start} of {len(order)} examples done")
        chosen = order[start : start + suite.quality_batch_size]
        batch = to_device(pad_left([prompts[i] for i in chosen], decoder.pad_token_id), decoder.device)
        if not batches:  # the first request of a process pays for what is made once
            watched = watching.Watch(method).method
            generate(decoder, watched, batch.ids, batch.mask, max_new_tokens=2, expected_tokens=planned)
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
        outputs.append(out)
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
        found["prompt"], found["output"], found["references"] = example.prompt, texts[index], list(example.references)
        found["stats"] = {name: values[index] for name, values in scored.items()}
        found["stats"]["agreement"] = agreement_statistics(found["token_ids"], list(other))
    counted = layers.count([(out.trace, out.lengths) for out in outputs])
    parted: Divergences | None = None
    if lossless is not None:
        names = [example.id for example in examples]
        ours = {name: rows[i]["token_ids"] for i, name in enumerate(names)}
        parted = evidence.scored_divergences(decoder, dict(zip(names, prompts, strict=True)), lossless, ours)
    cell: QualityFields = {
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
        "executed_share": executed_share(counted, decoder.geometry, blocks),
        "heads_per_token": counted.heads_per_token,
        "serial_attention_per_token": counted.serial_attention_per_token,
        "serial_feed_per_token": counted.serial_feed_per_token,
        "layers_by_position": counted.by_position,
        "sublayers_by_position": counted.sublayers_by_position,
        "depth": blocks or decoder.depth,
        "steps": evidence.steps(outputs),
        "tokens": sum(row["tokens"] for row in rows.values()),
        "unfinished": sum(not row["ended"] for row in rows.values()),
        "batches": batches,
        "seconds": sum(each["seconds"] for each in batches),
        "conditions": {
            **evidence.conditions(suite, decoder, blocks),
            "task": entry.name,
            "split": entry.split,
            "examples": len(examples),
            "batch_size": suite.quality_batch_size,
            "max_new_tokens": limit,
            "expected_tokens": planned,
            "end_of_sequence": "natural",
            "kernels": kernels,
            "prompts_hash": evidence.token_hash(prompts),
        },
    }
    if parted is not None:
        cell["divergences"] = parted
    return cell
