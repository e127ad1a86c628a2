"""What one worker process does: load, warm up, interleave, measure. Called by `harness.sweep`, one fresh process per call.

Every function here takes and returns plain data, so that a result can cross a process border and be stored as it is.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

import methods
from harness import tasks
from harness.config import Suite
from harness.engine import Decoding, Output, generate
from harness.errors import BadInput
from harness.method import Method
from harness.models import load_model
from harness.models.decoder import Decoder
from harness.probes import flops, latency, layers, memory
from harness.prompts import Batch, expected_tokens, pad_left, speed_batch
from harness.scoring import score
from harness.tasks.metrics import agreement_statistics

Arm = Mapping[str, Any]


def prepare(suite: Suite, arms: Sequence[Arm], data: Path | None) -> dict[str, Any]:
    """Check every arm, task and length before anything is measured.

    Returns:
        `arms`: the arms with what only the loaded checkpoint tells (settings, training, paper); `expected_tokens` by task.

    Raises:
        BadInput: something does not fit; the message names it.
    """
    _set_threads(suite)
    decoders = {name: _load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    expected: dict[str, int] = {}
    first = next(iter(decoders.values()))
    for entry in suite.tasks:
        task = tasks.create(entry.name, data)
        examples = task.examples(entry.split, entry.limit)
        expected[entry.name] = suite.expected_tokens or expected_tokens(task, first.tokenizer)
        longest = max(map(len, first.tokenizer([e.prompt for e in examples]).input_ids))
        room = first.geometry.max_positions
        for key, new in (
            ("new_tokens", suite.new_tokens),
            ("max_new_tokens", suite.max_new_tokens or task.max_new_tokens),
        ):
            width = suite.prompt_tokens or longest if key == "new_tokens" else longest
            if width + new - 1 > room:
                raise BadInput(
                    f"{key}: {new} after prompts of up to {width} tokens (task {entry.name}) needs {width + new - 1} positions, "
                    f"{first.name} has {room}; give at most {max(room - width + 1, 0)}"
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
        settings = method.settings(decoder.depth, next(iter(expected.values()), suite.new_tokens))
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
    return {"arms": described, "expected_tokens": expected}


def _trained(method: Method, decoder: Decoder) -> str:
    """How the weights relate to the method: a schedule on weights that never saw it is another experiment."""
    if not method.needs_training:
        return "not needed"
    if str(decoder.card.get("trained_for", "")).partition("(")[0] == method.name:
        return "trained"
    return "schedule only" if method.family == "schedule" else "untrained"


def speed(
    suite: Suite, arms: Sequence[Arm], batch_size: int, process: int, expected: Mapping[str, int], data: Path | None
) -> dict[str, dict[str, Any]]:
    """All arms at one batch size, interleaved on the same prompts; fixed length, the end token ignored.

    Returns a payload for every arm's label: `status`, and the fields of a speed cell with this process's runs.
    """
    _set_threads(suite)
    decoders = {name: _load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    base = decoders[arms[0]["checkpoint"]]
    entry = suite.tasks[0]
    examples = tasks.create(entry.name, data).examples(entry.split, entry.limit)
    batches = [
        speed_batch(base.tokenizer, examples, batch_size, s, suite.prompt_tokens, suite.seed, base.pad_token_id)
        for s in range(suite.prompt_sets)
    ]
    batches = [_to(batch, base.device) for batch in batches]
    conditions = {
        "model": suite.model,
        "dtype": suite.dtype,
        "device": str(base.device),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "new_tokens": suite.new_tokens,
        "prompts_hash": hashlib.sha256("".join(b.hash for b in batches).encode()).hexdigest()[:16],
        "padding": "left",
        "attention": "torch scaled_dot_product_attention",
        "sampling": "greedy",
        "end_of_sequence": "ignored",
        "expected_tokens": expected[entry.name],
        "torch": torch.__version__,
    }
    bench = _Bench(suite, decoders, batches, expected[entry.name])
    states = {arm["label"]: bench.start(arm) for arm in arms}
    parts: dict[str, list[float]] = {"embed": [], "blocks": [], "head": []}
    alive = [arm for arm in arms if states[arm["label"]]["status"] == "ok"]
    gc.collect()
    gc.disable()
    try:
        for repeat in range(suite.repeats):
            order = alive if repeat % 2 == 0 else alive[::-1]
            number = repeat % len(batches)
            for place, arm in enumerate(order):
                bench.repeat(arm, states[arm["label"]], process, repeat, place, number)
            batch = batches[number]
            for name, values in latency.step_parts(base, batch.ids, batch.mask, suite.new_tokens - 1).items():
                parts[name].extend(values)
            gc.collect()
    finally:
        gc.enable()
    full = next((states[a["label"]] for a in alive if a["method"] == "full"), None)
    for arm in arms:
        state = states[arm["label"]]
        state.update(conditions=conditions, batch_size=batch_size, new_tokens=suite.new_tokens)
        state.update(prompt_tokens=max(b.ids.shape[1] for b in batches), prompts_hash=conditions["prompts_hash"])
        if state["status"] == "ok":
            state.update(_ideal(parts, full, base.depth, state["layers_per_token"]))
    _compare_exact(arms, states)
    return {label: {k: v for k, v in state.items() if k != "tokens"} for label, state in states.items()}


class _Bench:
    """The arms of one speed process on their decoders and prompts."""

    def __init__(self, suite: Suite, decoders: Mapping[str, Decoder], batches: Sequence[Batch], expected: int) -> None:
        self.suite, self.decoders, self.batches, self.expected = suite, decoders, batches, expected

    def _decoding(self, arm: Arm, number: int) -> Decoding:
        batch = self.batches[number]
        return Decoding(
            self.decoders[arm["checkpoint"]],
            methods.create(arm["spec"]),
            batch.ids,
            batch.mask,
            max_new_tokens=self.suite.new_tokens,
            stop_at_eos=False,
            expected_tokens=self.expected,
        )

    def _measure(self, arm: Arm, number: int) -> tuple[latency.Timing, Output]:
        return latency.measure(lambda: self._decoding(arm, number), self.decoders[arm["checkpoint"]].device)

    def start(self, arm: Arm) -> dict[str, Any]:
        """Warm up on every prompt set with the real shapes, and count what the trace says."""
        decoder = self.decoders[arm["checkpoint"]]
        try:
            for _ in range(self.suite.warmup):
                outputs = [self._measure(arm, number)[1] for number in range(len(self.batches))]
        except (RuntimeError, BadInput) as error:
            return {"status": "failed", "error": " ".join(str(error).split())[:300], "runs": []}
        counted = layers.count([(o.trace, o.lengths) for o in outputs])
        size = decoder.dtype.itemsize
        sums = [flops.count(o.trace, decoder.geometry, size) for o in outputs]
        tokens = sum(s.tokens for s in sums)
        tail = outputs[0].tokens
        return {
            "status": "ok",
            "error": None,
            "depth": decoder.depth,
            "runs": [],
            "layers_by_position": counted.by_position,
            "layers_per_token": counted.per_token,
            "computed_layers_per_token": counted.computed_per_token,
            "flops_per_token": sum(s.decode for s in sums) / tokens,
            "exit_test_flops_per_token": sum(s.exit_tests for s in sums) / tokens,
            "fill_flops_per_token": sum(s.fill for s in sums) / tokens,
            "head_flops_per_token": sum(s.head for s in sums) / tokens,
            "prefill_flops": sums[0].prefill,
            "weight_bytes_per_token": sum(s.weight_bytes for s in sums) / tokens,
            "kv_cache_bytes": max(o.kv_cache_bytes for o in outputs),
            "kv_written_bytes": max(o.kv_written_bytes for o in outputs),
            "tokens_hash": hashlib.sha256(b"".join(o.tokens.cpu().numpy().tobytes() for o in outputs)).hexdigest()[:16],
            "finite": self._finite(arm, outputs[0]),
            "repeatable": True,
            "tokens": tail,
        }

    def _finite(self, arm: Arm, output: Output) -> bool:
        """Whether the parallel pass over the first row's prompt and tokens gives finite logits throughout."""
        batch = self.batches[0]
        prompt = batch.ids[0] if batch.mask is None else batch.ids[0][batch.mask[0].bool()]
        ids = torch.cat((prompt, output.tokens[0])).unsqueeze(0)
        decoder = self.decoders[arm["checkpoint"]]
        logits = score(decoder, methods.create(arm["spec"]), ids[:, :-1], [len(prompt)], expected_tokens=self.expected)
        return bool(logits.isfinite().all())

    def repeat(self, arm: Arm, state: dict[str, Any], process: int, repeat: int, place: int, number: int) -> None:
        """One timed generation of one arm."""
        timing, output = self._measure(arm, number)
        if number == 0 and not torch.equal(output.tokens, state["tokens"]):
            state["repeatable"] = False
        state["runs"].append(
            {
                "process": process,
                "repeat": repeat,
                "order": place,
                "prompt_set": number,
                "ttft_s": timing.ttft_s,
                "step_s": timing.step_s,
                "step_tokens": timing.step_tokens,
            }
        )


def _ideal(
    parts: Mapping[str, list[float]], full: Mapping[str, Any] | None, depth: int, per_token: float | None
) -> dict[str, Any]:
    """The step time if skipping were free: the full model's own parts, with blocks in proportion to those a row ran."""
    if full is None or per_token is None or not parts["blocks"]:
        return {"step_parts_s": None, "ideal_step_s": None, "ideal_full_step_s": None}
    embed, blocks, head = (statistics.median(parts[name]) for name in ("embed", "blocks", "head"))
    step = statistics.median(seconds for run in full["runs"] for seconds in run["step_s"])
    rest = max(step - embed - blocks - head, 0.0)
    block = blocks / depth
    return {
        "step_parts_s": {"block": block, "head": head, "embed": embed, "rest": rest},
        "ideal_step_s": embed + head + rest + per_token * block,
        "ideal_full_step_s": embed + head + rest + blocks,
    }


def _compare_exact(arms: Sequence[Arm], states: Mapping[str, dict[str, Any]]) -> None:
    """For exact methods: tokens that differ from the full model's on the same checkpoint."""
    full = {
        a["checkpoint"]: states[a["label"]] for a in arms if a["method"] == "full" and "tokens" in states[a["label"]]
    }
    for arm in arms:
        state = states[arm["label"]]
        if arm["exact"] and "tokens" in state and arm["checkpoint"] in full:
            state["tokens_unlike_full"] = int((state["tokens"] != full[arm["checkpoint"]]["tokens"]).sum())


def peak_memory(
    suite: Suite, arm: Arm, batch_size: int, expected: Mapping[str, int], data: Path | None
) -> dict[str, Any]:
    """Peak memory of one arm alone in this process: one fixed-length generation after the weights are loaded."""
    _set_threads(suite)
    decoder = _load(suite, arm["checkpoint"])
    entry = suite.tasks[0]
    examples = tasks.create(entry.name, data).examples(entry.split, entry.limit)
    batch = speed_batch(
        decoder.tokenizer, examples, batch_size, 0, suite.prompt_tokens, suite.seed, decoder.pad_token_id
    )
    batch = _to(batch, decoder.device)
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
        expected_tokens=expected[entry.name],
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
    expected: Mapping[str, int],
    data: Path | None,
    reference: Mapping[str, Sequence[int]] | None,
) -> dict[str, Any]:
    """Outputs and scores of one arm on one task, each row to its natural end.

    Args:
        suite: the run's settings.
        arm: what is scored.
        task_index: place in `suite.tasks`.
        expected: expected tokens by task.
        data: local data folder.
        reference: the baseline arm's tokens by example id, for the agreement; None for the baseline itself.
    """
    _set_threads(suite)
    decoder = _load(suite, arm["checkpoint"])
    entry = suite.tasks[task_index]
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
        batch = _to(pad_left([prompts[i] for i in chosen], decoder.pad_token_id), decoder.device)
        began = time.perf_counter()
        out = generate(
            decoder, method, batch.ids, batch.mask, max_new_tokens=limit, expected_tokens=expected[entry.name]
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
            "expected_tokens": expected[entry.name],
            "sampling": "greedy",
            "end_of_sequence": "natural",
            "prompts_hash": hashlib.sha256("".join(e.prompt for e in examples).encode()).hexdigest()[:16],
        },
    }


def _load(suite: Suite, checkpoint: str) -> Decoder:
    decoder = load_model(checkpoint, dtype=suite.dtype, device=suite.device)
    if decoder.tokenizer is None:
        raise BadInput(f"model: {checkpoint} has no tokenizer; save one beside the weights")
    return decoder


def _vocabulary(decoder: Decoder) -> str:
    """Digest of the tokenizer's vocabulary."""
    return hashlib.sha256(repr(sorted(decoder.tokenizer.get_vocab().items())).encode()).hexdigest()


def _set_threads(suite: Suite) -> None:
    torch.set_num_threads(suite.threads or psutil.cpu_count(logical=False) or 1)


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.ids.to(device), None if batch.mask is None else batch.mask.to(device))
