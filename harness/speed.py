"""Timing in one worker process: all arms at one batch size, interleaved on the same prompts."""

from __future__ import annotations

import gc
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import methods
from harness.config import BASELINE, Suite
from harness.engine import Decoding, Output
from harness.errors import BadInput
from harness.models import kernels
from harness.models.decoder import Decoder
from harness.probes import flops, latency, layers
from harness.prompts import Batch
from harness.scoring import score
from harness.worker import Arm, Prepared, begin, load, speed_batch, timed_examples, timed_expected


def speed(
    suite: Suite, arms: Sequence[Arm], batch_size: int, process: int, prepared: Prepared, data: Path | None
) -> dict[str, dict[str, Any]]:
    """All arms at one batch size, interleaved on the same prompts; fixed length, the end token ignored.

    Returns a payload for every arm's label: `status`, and the fields of a speed cell with this process's runs.
    """
    expected = begin(suite, prepared)
    decoders = {name: load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    base = decoders[arms[0]["checkpoint"]]
    examples = timed_examples(suite, base, data)
    tokens = timed_expected(suite, expected)
    batches = [speed_batch(suite, base, examples, batch_size, s) for s in range(suite.prompt_sets)]
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
        "kernels": kernels.digest(),
        "sampling": "greedy",
        "exited_rows": "left out" if suite.compact_exits else "computed along",
        "end_of_sequence": "ignored",
        "expected_tokens": tokens,
        "torch": torch.__version__,
    }
    bench = _Bench(suite, decoders, batches, tokens)
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
    full = next((states[a["label"]] for a in alive if a["method"] == BASELINE), None)
    for arm in arms:
        state = states[arm["label"]]
        state.update(conditions=conditions, batch_size=batch_size, new_tokens=suite.new_tokens)
        state.update(prompt_tokens=max(b.ids.shape[1] for b in batches), prompts_hash=conditions["prompts_hash"])
        if state["status"] == "ok":
            state.update(_ideal(parts, full, base.depth, state["serial_layers_per_token"], state["heads_per_token"]))
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
            compact_exits=self.suite.compact_exits,
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
            "serial_layers_per_token": counted.serial_per_token,
            "heads_per_token": counted.heads_per_token,
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
    parts: Mapping[str, list[float]],
    full: Mapping[str, Any] | None,
    depth: int,
    layers_per_token: float | None,
    heads_per_token: float | None,
) -> dict[str, Any]:
    """The time per token if skipping were free: the full model's own parts, with blocks in proportion to those a row ran.

    A method that drafts pays embedding, head and the rest of a step once per pass; running its blocks over the several columns
    of a verification is taken to cost what one column costs.
    """
    if full is None or layers_per_token is None or heads_per_token is None or not parts["blocks"]:
        return {"step_parts_s": None, "ideal_step_s": None, "ideal_full_step_s": None}
    embed, blocks, head = (statistics.median(parts[name]) for name in ("embed", "blocks", "head"))
    step = statistics.median(seconds for run in full["runs"] for seconds in run["step_s"])
    rest = max(step - embed - blocks - head, 0.0)
    block = blocks / depth
    around = embed + head + rest
    return {
        "step_parts_s": {"block": block, "head": head, "embed": embed, "rest": rest},
        "ideal_step_s": heads_per_token * around + layers_per_token * block,
        "ideal_full_step_s": around + blocks,
    }


def _compare_exact(arms: Sequence[Arm], states: Mapping[str, dict[str, Any]]) -> None:
    """For exact methods: tokens that differ from the full model's on the same checkpoint."""
    full = {
        a["checkpoint"]: states[a["label"]] for a in arms if a["method"] == BASELINE and "tokens" in states[a["label"]]
    }
    for arm in arms:
        state = states[arm["label"]]
        if arm["exact"] and "tokens" in state and arm["checkpoint"] in full:
            state["tokens_unlike_full"] = int((state["tokens"] != full[arm["checkpoint"]]["tokens"]).sum())
