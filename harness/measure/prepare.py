"""What is checked and chosen once, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch

import methods
from harness.decode.engine import Decoding
from harness.errors import BadInput
from harness.measure import conditions as evidence
from harness.measure.probes import energy, latency
from harness.measure.running import say, say_arm
from harness.measure.setup import (
    lm_eval_cells,
    lm_eval_options,
    load,
    method_of,
    set_threads,
    task_examples,
    timed_expected,
)
from harness.method import Method
from harness.models import contest
from harness.models.checks import said
from harness.models.decoder import Decoder
from harness.models.identity import as_deep, beside_weights, sampled_weights
from harness.models.kernels import choices
from harness.records.arms import Arm, Contest, Expected, Planned, Prepared, Training
from harness.records.differences import differences
from harness.records.fields import Idle
from harness.records.limits import BASELINE
from harness.suites.suite import Suite
from harness.tasks.base import Example
from harness.tasks.prompts import expected_tokens


def prepare(suite: Suite, arms: Sequence[Planned], data: Path | None) -> Prepared:
    """Check every arm, task and length before anything is measured.

    Returns:
        `arms`: the arms with what only the loaded checkpoint tells (settings, training, paper); `expected_tokens` by task;
        `kernels`: what runs each number of rows, and `contests`: the times that decided it; `energy_counters`: names of those that
        can be read here, `energy_idle` what they read of the idle machine (None where energy is not measured);
        `ignored_settings`: what checkpoints ask of a generation and no arm does, in words; `prompts`: the examples whose prompts
        are timed, so that no other process reads the task for them.

    Raises:
        BadInput: something does not fit; the message names it.
    """
    set_threads(suite)
    decoders = {name: load(suite, name) for name in dict.fromkeys(arm["checkpoint"] for arm in arms)}
    expected: Expected = {}
    prompts: list[Example] = []
    first = next(iter(decoders.values()))
    for index, entry in enumerate(suite.tasks):
        given = entry.expected_tokens or suite.expected_tokens
        if entry.is_lm_eval:
            planned = lm_eval_cells().check(lm_eval_options(entry), first, data)
            expected[entry.name] = given or planned
            if index:  # contexts that do not fit are cut and counted, and only the first task is timed
                continue
        task, examples, _ = task_examples(suite, index, first, data)
        prompts = prompts if index else examples
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
    digests = {name: sampled_weights(decoder) for name, decoder in decoders.items()}
    for name in decoders:
        for index in range(1, len(suite.tasks)) if "{task}" in name else ():
            _check_alike(name, load(suite, name, index), first)
    described: list[Arm] = []
    for arm in arms:
        decoder = decoders[arm["checkpoint"]]
        _check_alike(arm["label"], decoder, first, shallower=arm["method"] == BASELINE)
        say_arm(arm["label"])
        method, settings = _resolved(method_of(cast(Arm, arm)), decoder, timed_expected(suite, expected))
        found = cast(
            Arm,
            {
                **arm,
                "params": settings,
                "family": method.family,
                "exact": method.exact,
                "title": method.title,
                "paper": method.paper,
                "skipped_kv": method.skipped_kv,
                "trained": _trained(method, decoder),
                "training": _training(decoder.card),
                "weights": digests[arm["checkpoint"]],
                "beside_weights": beside_weights(decoder),
            },
        )
        if decoder.depth < first.depth:
            found["of_blocks"] = first.depth
        described.append(found)
    contests = _contests(suite, first)
    meters = energy.counters(first.device)
    quiet: Idle | None = None
    if suite.energy and meters:  # once for all cells: the idle machine does not change with the arm
        say("reading the energy counters of the idle machine")
        quiet = {**energy.idle(meters, first.device, suite.energy_window_s), "device": energy.identity(first.device)}
    return {
        "arms": described,
        "expected_tokens": expected,
        "kernels": choices.table(),
        "contests": contests,
        "energy_counters": [meter.name for meter in meters],
        "energy_idle": quiet,
        "ignored_settings": [line for name, decoder in decoders.items() if (line := said(name, decoder.ignored))],
        "prompts": prompts,
    }


def _resolved(method: Method, decoder: Decoder, expected: int) -> tuple[Method, dict[str, object]]:
    """A method on a model and its settings there. One whose own code raises fails in its cells, not here with all others."""
    try:
        resolved = method.resolve(decoder.depth, decoder.extras)
        return resolved, resolved.settings(decoder.depth, expected)
    except BadInput:
        raise
    except Exception:  # whatever a method's own code raises
        return method, method.params


def _check_alike(what: str, decoder: Decoder, first: Decoder, shallower: bool = False) -> None:
    """BadInput unless both have the same sizes, the same tokenizer, end tokens and numbers of the configuration.

    With `shallower` the number of blocks alone may be smaller: a control, the full model of so many blocks.
    """
    if decoder is first:
        return
    fewer = decoder.depth < first.depth
    blocks = first.depth if fewer and shallower else None
    sizes = decoder.geometry if blocks is None else replace(decoder.geometry, depth=blocks)
    if sizes != first.geometry or evidence.vocabulary(decoder) != evidence.vocabulary(first):
        only = replace(decoder.geometry, depth=first.depth) == first.geometry
        hint = (
            "; one of fewer blocks may stand beside them under full alone" if fewer and only and not shallower else ""
        )
        raise BadInput(
            f"methods: {what}: checkpoint {decoder.name} has other sizes or another tokenizer than {first.name}; "
            f"one suite compares weights of one shape{hint}"
        )
    for found in differences(as_deep(beside_weights(decoder), blocks), beside_weights(first))[:1]:
        raise BadInput(
            f"methods: {what}: checkpoint {decoder.name} has {found.name} {found.ours!r}, {first.name} has {found.theirs!r}; "
            "one suite compares weights that generate alike"
        )


def _contests(suite: Suite, decoder: Decoder) -> list[Contest]:
    """What runs the full model's step at every number of rows that will be decoded, chosen once for all processes of the run."""
    sizes = (*suite.batch_sizes, suite.quality_batch_size) if suite.tasks else suite.batch_sizes
    say("timing the kernels against torch")
    held = [contest.hold(decoder, size) for size in sorted(set(sizes))]
    made = [cast(Contest, {**asdict(found), "said": str(found)}) for found in held]
    for found in made:
        if not found["native_s"]:  # nothing was run to choose: a step all the same, by which the run is forecast
            found["torch_s"] = [_step_s(decoder, found["rows"])]
    return made


def _step_s(decoder: Decoder, rows: int) -> float:
    """The shortest of a few steps of the full model, in seconds."""
    ids = torch.zeros(rows, 1, dtype=torch.long, device=decoder.device)
    new = min(_STEPS, decoder.geometry.max_positions)
    timing, _ = latency.measure(
        lambda method: Decoding(decoder, method, ids, None, max_new_tokens=new, stop_at_eos=False),
        methods.create(BASELINE),
        decoder.device,
    )
    return min(timing.step_s)


_STEPS = 6


def _trained(method: Method, decoder: Decoder) -> str:
    """How the weights relate to the method: a schedule on weights that never saw it is another experiment."""
    if not method.needs_training:
        return "not needed"
    if str(decoder.card.get("trained_for", "")).partition("(")[0] == method.name:
        return "trained"
    return "schedule only" if method.family == "schedule" else "untrained"


def _training(card: Mapping[str, Any]) -> Training | None:
    """What the weights cost, as far as their card says."""
    cost = card.get("cost")
    if not isinstance(cost, Mapping):
        return None
    begun = card.get("started_from")
    told: dict[str, Any] = {
        key: cost[key] for key in ("tokens", "steps", "seconds", "device") if cost.get(key) is not None
    }
    told["start"] = begun.get("weights") if isinstance(begun, Mapping) else None
    return cast(Training, {**told, **{key: card[key] for key in ("data_hash",) if key in card}})
