"""What is measured of one arm alone in its process: memory and energy."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import cast

from harness.decode.engine import Output, generate
from harness.machine import nvml
from harness.measure import conditions as evidence
from harness.measure.probes import energy, memory
from harness.measure.running import say
from harness.measure.setup import (
    begin,
    load,
    method_of,
    speed_batch,
    timed_examples,
    timed_expected,
)
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.kernels import choices
from harness.records.arms import Arm, Expected, Prepared
from harness.records.fields import Conditions, EnergyFields, Idle, MemoryFields
from harness.suites.suite import Suite
from harness.tasks.prompts import Batch


def peak_memory(suite: Suite, arm: Arm, batch_size: int, prepared: Prepared, data: Path | None) -> MemoryFields:
    """Peak memory of one arm alone in this process: a fixed-length generation after one that warmed everything up."""
    expected = begin(suite, prepared)
    decoder = load(suite, arm["checkpoint"])
    batch = speed_batch(suite, decoder, timed_examples(suite, decoder, data, prepared), batch_size, 0)
    # Before an arm runs: one that leaves rows out adds choices of kernels for its numbers of rows.
    conditions = _conditions(suite, arm, decoder, batch, batch_size, expected)
    method = method_of(arm)
    loaded = memory.resident_bytes()
    _fixed_length(suite, decoder, method, batch, expected)
    # What was needed once only (buffers of the libraries, chosen kernels) is no part of the steady state.
    gc.collect()
    memory.reset_peaks(decoder.device)
    out = _fixed_length(suite, decoder, method, batch, expected)
    found = {
        "conditions": conditions,
        "batch_size": batch_size,
        "steps": evidence.steps([out]),
        "baseline_rss_bytes": loaded,
        "weights_bytes": decoder.weight_bytes,
        **memory.read_peaks(decoder.device),
    }
    return cast(MemoryFields, found)


def energy_per_token(suite: Suite, arm: Arm, batch_size: int, prepared: Prepared, data: Path | None) -> EnergyFields:
    """Energy of one arm alone in this process: fixed-length generations over a window of seconds; see `probes.energy`."""
    expected = begin(suite, prepared)
    decoder = load(suite, arm["checkpoint"])
    batch = speed_batch(suite, decoder, timed_examples(suite, decoder, data, prepared), batch_size, 0)
    conditions = _conditions(suite, arm, decoder, batch, batch_size, expected)
    method = method_of(arm)
    out = _fixed_length(suite, decoder, method, batch, expected)
    gpu = nvml.gpu(decoder.device)
    here, meters = energy.identity(decoder.device), energy.counters(decoder.device)
    quiet = next((one for one in prepared.get("energy_idles") or [] if one.get("device", here) == here), None)
    new: Idle | None = None
    if quiet is None:  # the run was prepared on another device
        say("reading the energy counters of the idle machine")
        quiet = new = {**energy.idle(meters, decoder.device, suite.energy_window_s), "device": here}
    found = energy.measure(
        lambda: _fixed_length(suite, decoder, method, batch, expected).tokens.numel(),
        meters,
        decoder.device,
        suite.energy_window_s,
        power_w=None if gpu is None else gpu.power_w,
        quiet=quiet,
    )
    if new is not None:
        found["idle"] = new
    found["conditions"], found["steps"] = conditions, evidence.steps([out])
    found["batch_size"], found["new_tokens"] = batch_size, suite.new_tokens
    return found


def _conditions(
    suite: Suite, arm: Arm, decoder: Decoder, batch: Batch, batch_size: int, expected: Expected
) -> Conditions:
    """What an arm that is measured alone may not change."""
    return {
        **evidence.conditions(suite, decoder, arm.get("of_blocks")),
        "batch_size": batch_size,
        "new_tokens": suite.new_tokens,
        "prompts_hash": batch.hash,
        "kernels": choices.digest(),
        "end_of_sequence": "ignored",
        "expected_tokens": timed_expected(suite, expected),
    }


def _fixed_length(suite: Suite, decoder: Decoder, method: Method, batch: Batch, expected: Expected) -> Output:
    """One generation as it is timed."""
    return generate(
        decoder,
        method,
        batch.ids,
        batch.mask,
        max_new_tokens=suite.new_tokens,
        stop_at_eos=False,
        expected_tokens=timed_expected(suite, expected),
        compact_exits=suite.compact_exits,
    )
