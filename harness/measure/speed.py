"""Timing in one worker process: all arms at one batch size, interleaved on the same prompts."""

from __future__ import annotations

import gc
import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import torch

from harness.decode.engine import Decoding, Output
from harness.decode.forced import score
from harness.decode.sampling import GREEDY, Sampling
from harness.errors import BAD_INPUT, BadInput, CellFailed, one_line, reason_of
from harness.measure import conditions as evidence
from harness.measure import disturbed
from harness.measure.meanwhile import Before
from harness.measure.predicted import add_predicted
from harness.measure.probes import breakdown, fewer_blocks, flops, latency, layers, reading, watching
from harness.measure.running import say_arm
from harness.measure.setup import begin, load, method_of, speed_batch, timed_examples, timed_expected
from harness.measure.turns import turns
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.kernels import choices
from harness.records.arms import Arm, Prepared
from harness.records.fields import Conditions, Reading, SpeedShare, Timed
from harness.suites.suite import BASELINE, Suite
from harness.tasks.prompts import Batch


def speed(
    suite: Suite, arms: Sequence[Arm], batch_size: int, process: int, prepared: Prepared, data: Path | None
) -> dict[str, SpeedShare]:
    """All arms at one batch size, interleaved on the same prompts; fixed length, the end token ignored.

    Returns a payload for every arm's label: `status`, and the fields of a speed cell with this process's runs.
    """
    expected = begin(suite, prepared)
    decoders = {name: load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    base = decoders[arms[0]["checkpoint"]]
    examples = timed_examples(suite, base, data, prepared)
    tokens = timed_expected(suite, expected)
    batches = [speed_batch(suite, base, examples, batch_size, s) for s in range(suite.prompt_sets)]
    conditions: Conditions = {
        **evidence.conditions(suite, base),
        "batch_size": batch_size,
        "new_tokens": suite.new_tokens,
        "prompts_hash": hashlib.sha256("".join(b.hash for b in batches).encode()).hexdigest()[:16],
        "kernels": choices.digest(),
        "end_of_sequence": "ignored",
        "expected_tokens": tokens,
    }
    read: list[Reading] = []
    if base.device.type == "cpu":
        read.append(cast(Reading, {"process": process, **asdict(reading.measure())}))
    bench = _Bench(suite, decoders, batches, tokens)
    bench.timed_ids = [evidence.timed_ids(suite, examples, batch_size, s) for s in range(suite.prompt_sets)]
    fewer: dict[int, list[float]] = {count: [] for count in fewer_blocks.counts(base.depth)}
    states = {arm["label"]: bench.start(arm) for arm in arms}
    alive = [arm for arm in arms if states[arm["label"]]["status"] == "ok"]
    base_arm = next((arm for arm in alive if arm["method"] == BASELINE), arms[0])
    gc.collect()
    # What is loaded stays: looking at it after every repeat takes a quarter of a second and empties the processor's caches.
    gc.freeze()
    gc.disable()
    try:
        for repeat in range(suite.repeats):
            number = repeat % len(batches)
            for place, arm in enumerate(turns(base_arm, [arm for arm in alive if arm is not base_arm], repeat)):
                if states[arm["label"]]["status"] == "ok":  # one that failed in an earlier repeat stays out
                    bench.repeat(arm, states[arm["label"]], process, repeat, place, number)
            bench.instrument(base_arm, states[base_arm["label"]], process, number)
            if repeat < _CURVES:
                bench.fewer(base_arm, states[base_arm["label"]], number, fewer)
            gc.collect()
        bench.again(base_arm, alive, states, process)
        # The other arms' instrumented pass comes after everything that is timed.
        for arm in alive:
            if arm is not base_arm:
                bench.instrument(arm, states[arm["label"]], process, 0)
    finally:
        gc.enable()
        gc.unfreeze()
    alive = [arm for arm in alive if states[arm["label"]]["status"] == "ok"]
    full = next((states[a["label"]] for a in alive if a["method"] == BASELINE), None)
    for arm in arms:
        state = states[arm["label"]]
        state["conditions"], state["prompts_hash"] = conditions, conditions["prompts_hash"]
        state["batch_size"], state["new_tokens"] = batch_size, suite.new_tokens
        state["prompt_tokens"] = max(b.ids.shape[1] for b in batches)
        state["reading"] = read
        if state["status"] == "ok":
            add_predicted(full, state, fewer, drafts=arm["family"] == "draft")
            state["fewer_blocks"] = [{"process": process, "blocks": n, "step_s": found} for n, found in fewer.items()]
    _compare_exact(arms, states)
    for state in states.values():
        state.pop("tokens", None)
        state.pop("warm", None)
    return dict(states)


class _State(SpeedShare, total=False):
    """A share that is being made, with the tokens of every prompt set."""

    tokens: list[torch.Tensor]
    warm: dict[int, list[float]]
    """Decode seconds per token of the warm-up, by prompt set."""


_CURVES = 3
"""Repeats in which the full model is timed with fewer blocks, too."""


class _Bench:
    """The arms of one speed process on their decoders and prompts."""

    def __init__(self, suite: Suite, decoders: Mapping[str, Decoder], batches: Sequence[Batch], expected: int) -> None:
        self.suite, self.decoders, self.batches, self.expected = suite, decoders, batches, expected
        self.timed_ids: list[list[str] | None] = [None] * len(batches)

    def _decoding(
        self, number: int, decoder: Decoder, method: Method, sampling: Sampling = GREEDY, static: bool | None = None
    ) -> Decoding:
        """A generation of one prompt set at fixed length."""
        batch = self.batches[number]
        return Decoding(
            decoder,
            method,
            batch.ids,
            batch.mask,
            max_new_tokens=self.suite.new_tokens,
            stop_at_eos=False,
            expected_tokens=self.expected,
            sampling=sampling,
            compact_exits=self.suite.compact_exits,
            static=static,
        )

    def fewer(self, arm: Arm, state: _State, number: int, found: Mapping[int, list[float]]) -> None:
        """Time the full model with some of its blocks alone; the median step of each number is added to `found`."""
        if state["status"] != "ok":
            return
        decoder = self.decoders[arm["checkpoint"]]
        for count, seconds in found.items():
            method = fewer_blocks.FirstBlocks(count)
            try:
                timing, _ = latency.measure(partial(self._decoding, number, decoder), method, decoder.device)
            except Exception as error:  # whatever a method raises fails its arm alone
                _fail(state, error)
                return
            seconds.append(round(statistics.median(timing.step_s), 9))

    def _watched(self, arm: Arm, number: int) -> Decoding:
        """An untimed generation in which a method that breaks the contract is caught; see `harness.measure.probes.watching`."""
        return self._decoding(number, self.decoders[arm["checkpoint"]], watching.Watch(method_of(arm)).method)

    def _measure(self, arm: Arm, number: int) -> tuple[latency.Timing, Output]:
        decoder, method = self.decoders[arm["checkpoint"]], method_of(arm)
        return latency.measure(partial(self._decoding, number, decoder), method, decoder.device)

    def instrument(self, arm: Arm, state: _State, process: int, number: int) -> None:
        """One generation with a clock around every part; its times are kept apart from the timed ones."""
        if state["status"] != "ok":
            return
        say_arm(arm["label"])
        decoder, method = self.decoders[arm["checkpoint"]], method_of(arm)
        try:
            found, output = breakdown.measure(partial(self._decoding, number, static=False), decoder, method)
        except Exception as error:  # whatever a method raises fails its arm alone
            _fail(state, error)
            return
        if not torch.equal(output.tokens, state["tokens"][number]):
            state["repeatable"] = False
        state["breakdown"].append(
            {
                "process": process,
                "prompt_set": number,
                "step_s": [round(s, 9) for s in found.step_s],
                "step_tokens": found.step_tokens,
                "block_step_s": [round(s, 9) for s in found.block_step_s],
                "parts_s": {part: [round(s, 9) for s in seconds] for part, seconds in found.parts_s.items()},
            }
        )

    def start(self, arm: Arm) -> _State:
        """Warm up on every prompt set with the real shapes, and count what the trace says."""
        say_arm(arm["label"])
        try:
            return self._begun(arm)
        except Exception as error:  # whatever a method raises fails its arm alone
            failed: _State = {"status": "failed", "runs": []}
            _fail(failed, error)
            return failed

    def _begun(self, arm: Arm) -> _State:
        decoder = self.decoders[arm["checkpoint"]]
        seen = [evidence.observe(self._watched(arm, number)) for number in range(len(self.batches))]
        warm: dict[int, list[float]] = {}
        for _ in range(self.suite.warmup):
            passes = [self._measure(arm, number) for number in range(len(self.batches))]
            outputs = [output for _, output in passes]
            for number, (timing, _) in enumerate(passes):
                seconds = disturbed.seconds_per_token(timing.step_s, timing.step_tokens)
                warm.setdefault(number, []).append(seconds)
        counted = layers.count([(o.trace, o.lengths) for o in outputs])
        found = {
            "status": "ok",
            "error": None,
            "depth": arm.get("of_blocks") or decoder.depth,
            "runs": [],
            "breakdown": [],
            "layers_by_position": counted.by_position,
            "sublayers_by_position": counted.sublayers_by_position,
            **layers.fields(counted),
            **flops.fields(
                [o.trace for o in outputs], decoder.geometry, decoder.dtype.itemsize, decoder.state_dtype.itemsize
            ),
            "kv_cache_bytes": max(o.kv_cache_bytes for o in outputs),
            "kv_written_bytes": max(o.kv_written_bytes for o in outputs),
            "tokens_hash": hashlib.sha256(b"".join(o.tokens.cpu().numpy().tobytes() for o in outputs)).hexdigest()[:16],
            "finite": self._finite(arm, outputs[0]) and all(finite for _, finite in seen),
            "repeatable": all(o.tokens.tolist() == w["tokens"] for o, (w, _) in zip(outputs, seen, strict=True)),
            "outputs": [{"examples": ids, **what} for ids, (what, _) in zip(self.timed_ids, seen, strict=True)],
            "steps": evidence.steps(outputs),
            "device_uuid": evidence.device_uuid(decoder.device),
            "prompts_seen": [],
            "tokens": [output.tokens for output in outputs],
            "warm": warm,
        }
        return cast(_State, found)

    def _finite(self, arm: Arm, output: Output) -> bool:
        """Whether the parallel pass over the first row's prompt and tokens gives finite logits throughout, where there is one."""
        if method_of(arm).cannot_score:
            return True  # its steps were looked at
        batch = self.batches[0]
        prompt = batch.ids[0] if batch.mask is None else batch.ids[0][batch.mask[0].bool()]
        ids = torch.cat((prompt, output.tokens[0])).unsqueeze(0)
        decoder = self.decoders[arm["checkpoint"]]
        try:
            score(decoder, method_of(arm), ids[:, :-1], [len(prompt)], expected_tokens=self.expected)
        except CellFailed:
            return False
        return True

    def again(self, base: Arm, arms: Sequence[Arm], states: Mapping[str, _State], process: int) -> None:
        """Measure pairs of which a repeat was disturbed again, the full model's and the arm's; see `harness.measure.disturbed`."""
        sets, following = len(self.batches), self.suite.repeats
        for turn in range(disturbed.ROUNDS + 1):
            timed = [arm for arm in arms if states[arm["label"]]["status"] == "ok"]
            if base not in timed:
                return
            found = [states[arm["label"]] for arm in timed]
            disturbed.mark([state["runs"] for state in found], [state["warm"] for state in found])
            full = states[base["label"]]["runs"]
            wanted: dict[int, list[Arm]] = {}
            for arm in timed:
                for repeat in disturbed.lost(full, states[arm["label"]]["runs"]):
                    wanted.setdefault(repeat, []).append(arm)
            if turn == disturbed.ROUNDS:
                return
            for repeat, those in sorted(wanted.items()):
                order = those if base in those else [base, *those]
                for place, arm in enumerate(order if following % 2 == 0 else order[::-1]):
                    if states[arm["label"]]["status"] == "ok":
                        state = states[arm["label"]]
                        self.repeat(arm, state, process, following, place, repeat % sets, again=repeat)
                following += 1
            gc.collect()

    def repeat(
        self, arm: Arm, state: _State, process: int, repeat: int, place: int, number: int, again: int | None = None
    ) -> None:
        """One timed generation of one arm; `again` is the repeat it is measured in place of."""
        say_arm(arm["label"])
        before = Before.read()
        try:
            timing, output = self._measure(arm, number)
        except Exception as error:  # whatever a method raises fails its arm alone
            _fail(state, error)
            return
        meanwhile = before.record()
        if not torch.equal(output.tokens, state["tokens"][number]):
            state["repeatable"] = False
        if len(state["prompts_seen"]) == number:  # after the arm ran: a method that writes into its prompts would show
            state["prompts_seen"].append(self.batches[number].hash)
        run: Timed = {
            "process": process,
            "repeat": repeat,
            "order": place,
            "prompt_set": number,
            "ttft_s": timing.ttft_s,
            "step_s": timing.step_s,
            "plan_s": [round(s, 9) for s in timing.plan_s],
            "step_tokens": timing.step_tokens,
            "machine": meanwhile,
        }
        state["runs"].append(run if again is None else {**run, "again": again})


def _fail(state: _State, error: Exception) -> None:
    """Note that an arm raised; what it held on the device is given back for the arms that follow."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    reason = BAD_INPUT if isinstance(error, BadInput) else reason_of(error)
    state["status"], state["error"] = "failed", one_line(error)
    state["failure"] = {"reason": reason, "log_tail": []}


def _compare_exact(arms: Sequence[Arm], states: Mapping[str, _State]) -> None:
    """For exact methods: tokens that differ from the full model's on the same checkpoint."""
    full = {
        a["checkpoint"]: states[a["label"]] for a in arms if a["method"] == BASELINE and "tokens" in states[a["label"]]
    }
    for arm in arms:
        state = states[arm["label"]]
        if arm["exact"] and "tokens" in state and arm["checkpoint"] in full:
            theirs, ours = full[arm["checkpoint"]], state
            pairs = zip(ours["tokens"], theirs["tokens"], strict=True)
            state["tokens_unlike_full"] = sum(int((a != b).sum()) for a, b in pairs)
            state["divergences"] = evidence.timed_divergences(theirs["outputs"], ours["outputs"])
