"""Defects found in existing benchmark tools, each one a test of ours: those of measuring.

The numbers are those of test_defects.py, which says where every one is tested.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.decode.sampling import GREEDY, Sampling
from harness.measure import setup, speed
from harness.measure.prepare import prepare
from harness.measure.probes import fewer_blocks
from harness.models.decoder import Decoder
from harness.records import clock
from harness.run.contract import decode_with_logits
from harness.suites.suite import Suite
from harness.tasks import prompts
from tests.conftest import ragged_prompts
from tests.records.hand_made import SKIP, full_speed, rows
from tests.records.hand_made import speed as cell


def tiny(checkpoint: Path, **changes: Any) -> Suite:
    values = {
        "name": "x", "model": str(checkpoint), "methods": ["full", "calm(threshold=0.5)", "layerskip(exit_layer=1,draft_tokens=2)"],
        "batch_sizes": [2], "tasks": [{"name": "restaurants", "limit": 4}], "new_tokens": 5, "processes": 1, "repeats": 2,
        "prompt_sets": 2, "threads": 1, **changes,
    }  # fmt: skip
    return Suite.model_validate(values)


@pytest.fixture(scope="module")
def timed(checkpoint: Path) -> dict[str, Any]:
    """One real speed process, and every generation it ran."""
    suite = tiny(checkpoint)
    arms = [{"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": str(checkpoint)} for e in suite.methods]
    prepared = prepare(suite, arms, None)
    ran: list[tuple[str, tuple[int, ...]]] = []
    inner = speed.latency.measure

    def measure(make: Any, method: Any, device: torch.device) -> Any:
        timing, output = inner(make, method, device)
        if not isinstance(method, fewer_blocks.FirstBlocks):  # a pass of its own, and no arm
            ran.append((str(method), (output.trace.batch_size, output.trace.prompt_width)))
        # A stall of the machine that runs the test would have repeats measured again.
        return replace(timing, step_s=[1e-3] * len(timing.step_s)), output

    patch = pytest.MonkeyPatch()
    patch.setattr(speed.latency, "measure", measure)
    try:
        found = speed.speed(suite, prepared["arms"], 2, 0, prepared, None)
    finally:
        patch.undo()
    return {"suite": suite, "found": found, "ran": ran}


def test_1_likelihoods_are_those_of_the_method(opt: Decoder) -> None:
    """Defect 1: log-likelihoods came from the full model whatever method was chosen."""
    ids = torch.randint(2, 90, (1, 12), generator=torch.Generator().manual_seed(4))
    full = score(opt, methods.create("full"), ids, [6])
    for spec in ("fixed_exit(budget=1)", "skipdecode(min_layers=1,max_layers=2)", "calm(threshold=0,decay=none)"):
        skipped = score(opt, methods.create(spec), ids, [6])
        torch.testing.assert_close(skipped[:, :6], full[:, :6], atol=1e-4, rtol=0)  # the prompt is at full depth
        assert (skipped[:, 6:] - full[:, 6:]).abs().max() > 1e-2


def test_2_decoding_is_greedy_unless_said_otherwise(opt: Decoder) -> None:
    """Defect 2: the default sampled, where the paper was greedy."""
    ids, mask = ragged_prompts()
    assert Sampling() == GREEDY and GREEDY.temperature == 0
    full = methods.create("full")
    out, logits = decode_with_logits(opt, full, ids, mask, 6)
    assert torch.equal(out.tokens, logits.argmax(-1))
    drawn = generate(opt, full, ids, mask, max_new_tokens=6, stop_at_eos=False, sampling=Sampling(temperature=2.0))
    assert not torch.equal(drawn.tokens, out.tokens)


def test_4_a_stop_text_of_several_tokens_is_seen(opt: Decoder) -> None:
    """Defect 4: with a cache, only the last token was compared with the stop text."""

    class Letters:
        def decode(self, ids: Any, **_: Any) -> str:
            return "".join(chr(97 + int(i) % 26) for i in ids)

    ids, _ = ragged_prompts(rows=1)
    full, tokenizer = methods.create("full"), opt.tokenizer
    opt.tokenizer = Letters()
    try:
        plain = generate(opt, full, ids, max_new_tokens=8, stop_at_eos=False)
        text = Letters().decode(plain.tokens[0])
        out = generate(opt, full, ids, max_new_tokens=8, stop_at_eos=False, stop_strings=[text[2:5]])
    finally:
        opt.tokenizer = tokenizer
    assert int(out.lengths[0]) == text.index(text[2:5]) + 3


def test_6_tokens_of_all_arms_are_counted_by_the_engine(timed: dict[str, Any]) -> None:
    """Defect 6: the baseline's tokens were counted on decoded text, the method's by the generator."""
    suite = timed["suite"]
    for share in timed["found"].values():
        assert share["status"] == "ok"
        for run in share["runs"]:
            assert sum(run["step_tokens"]) == 2 * (suite.new_tokens - 1)
            assert len(run["step_tokens"]) == len(run["step_s"])


def test_7_the_speed_up_is_a_ratio_of_totals() -> None:
    """Defect 7: a mean of tokens per second lets short easy prompts weigh as much as long ones."""
    full, skip = full_speed(), cell(SKIP)
    for one, long, short in ((full, 0.1, 0.001), (skip, 0.1, 0.0001)):
        for i, run in enumerate(one["runs"]):
            run["step_s"] = [long if i % 2 else short] * 3
    interval = clock.speedup(full, skip)
    assert interval is not None
    assert interval.value == pytest.approx((0.1 + 0.001) / (0.1 + 0.0001)), "each prompt by its time"
    assert interval.value < 1.02 < 3 < rows(full, skip)["Skip", 1]["speedup_geomean"]


def test_9_every_shape_is_warmed_before_it_is_timed(timed: dict[str, Any]) -> None:
    """Defect 9: the warm-up saw one prompt, and kernels for other lengths were first met inside the timed region."""
    suite, seen = timed["suite"], timed["ran"]
    arms = len(suite.methods)
    warmed = seen[: arms * suite.prompt_sets * suite.warmup]
    assert set(seen[len(warmed) :]) <= set(warmed)
    assert len(seen) == len(warmed) + arms * suite.repeats


def test_9_timed_generations_give_the_tokens_of_the_warm_up(timed: dict[str, Any]) -> None:
    """What was timed is what was warmed up, instrumented generations included."""
    assert all(share["repeatable"] for share in timed["found"].values())


def test_10_tokens_per_second_are_tokens_per_second() -> None:
    """Defect 10: the token volume was divided by the latency of the whole generation and called samples per second."""
    row = rows(full_speed(2), cell(SKIP, 2))["Skip", 2]
    decode_s = sum(0.004 * 3 * (1 + 0.01 * r) for r in range(5))
    assert row["tokens_per_s"] == pytest.approx(2 * 3 * 5 / decode_s)
    assert row["tpot_ms"] == pytest.approx(1e3 * 2 / row["tokens_per_s"])


def test_10_prompts_are_real_unless_there_is_no_task(checkpoint: Path) -> None:
    """Defect 10, second half: on random tokens an exit by confidence says nothing."""
    suite = tiny(checkpoint)
    decoder = setup.load(suite, str(checkpoint))
    from harness.measure.setup import speed_batch, timed_examples

    examples = timed_examples(suite, decoder, None)
    batch = speed_batch(suite, decoder, examples, 2, 0)
    texts = [t.strip() for t in decoder.tokenizer.batch_decode(batch.ids, skip_special_tokens=True)]
    assert all(any(text == e.prompt.strip() for e in examples) for text in texts)


def test_15_rows_of_a_batch_exit_each_at_their_own_depth(opt: Decoder) -> None:
    """Defect 15: the whole batch left when its first row did."""
    ids, mask = ragged_prompts(rows=8)
    out = generate(
        opt, methods.create("calm(threshold=0.05,decay=none)"), ids, mask, max_new_tokens=12, stop_at_eos=False
    )
    depths = out.trace.layers[:, 1:].sum(2)
    assert any(len(set(column.tolist())) > 1 for column in depths.T)
    # The step ends with its last row: the batch computes as deep as the deepest one.
    assert torch.equal(out.trace.computed[1:].sum(1), depths.max(0).values)


def test_16_time_per_token_does_not_depend_on_how_much_is_generated() -> None:
    """Defect 16: "latency" was the total time of the test set, whatever the length of the outputs."""
    short, long = cell(SKIP, step_s=(0.004,) * 3), cell(SKIP, step_s=(0.004,) * 30)
    per_token = [rows(full_speed(), one)["Skip", 1]["tpot_ms"] for one in (short, long)]
    assert per_token[0] == pytest.approx(per_token[1])


def test_arms_take_turns_and_go_first_equally_often(timed: dict[str, Any]) -> None:
    """Order effects (a warm cache, a hot processor) must not belong to an arm: ABBA."""
    orders = [[run["order"] for run in share["runs"]] for share in timed["found"].values()]
    assert [sum(order) for order in orders] == [len(orders) - 1] * len(orders)


def test_beside_many_arms_the_full_model_is_timed_more_often(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is in every ratio: beside four arms twice a repeat, in both orders, and every other arm once."""
    suite = tiny(checkpoint, methods=["full", *(f"fixed_exit(budget={n})" for n in (1, 2, 3, 4))], prompt_sets=1)
    arms = [{"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": str(checkpoint)} for e in suite.methods]
    prepared, inner = prepare(suite, arms, None), speed.latency.measure

    def measure(make: Any, method: Any, device: torch.device) -> Any:
        timing, output = inner(make, method, device)
        return replace(timing, step_s=[1e-3] * len(timing.step_s)), output

    monkeypatch.setattr(speed.latency, "measure", measure)
    found = speed.speed(suite, prepared["arms"], 2, 0, prepared, None)
    orders = {label: [(run["repeat"], run["order"]) for run in share["runs"]] for label, share in found.items()}
    full = orders.pop("full")
    assert full == [(0, 0), (0, 3), (1, 2), (1, 5)] and all(len(order) == 2 for order in orders.values())


def test_a_method_that_cannot_be_scored_is_timed_and_one_that_raises_there_fails_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One exit with heads of its own took all timed cells of its suite with it."""
    suite = tiny(checkpoint, methods=["full", "fixed_exit(budget=2)", "random_skip(budget=2)"])
    arms = [{"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": str(checkpoint)} for e in suite.methods]
    prepared = prepare(suite, arms, None)
    inner = speed.score

    def score(decoder: Any, method: Any, *given: Any, **named: Any) -> Any:
        if method.name == "random_skip":
            raise ValueError("no such pass")
        return inner(decoder, method, *given, **named)

    monkeypatch.setattr(speed, "score", score)
    monkeypatch.setattr(type(methods.create("fixed_exit(budget=2)")), "cannot_score", "heads of its own")
    found = speed.speed(suite, prepared["arms"], 2, 0, prepared, None)
    status = {label: (share["status"], share["error"]) for label, share in found.items()}
    assert status["full"] == status["fixed_exit(budget=2)"] == ("ok", None)
    assert status["random_skip(budget=2)"][0] == "failed" and "no such pass" in status["random_skip(budget=2)"][1]
    assert found["fixed_exit(budget=2)"]["finite"] and found["fixed_exit(budget=2)"]["runs"]


def test_every_arm_has_a_breakdown_in_its_cell(timed: dict[str, Any]) -> None:
    for label, share in timed["found"].items():
        assert len(share["breakdown"]) == (timed["suite"].repeats if label == "full" else 1)
        for one in share["breakdown"]:
            assert sum(map(sum, one["parts_s"].values())) == pytest.approx(sum(one["step_s"]), rel=1e-3)
            assert sum(one["step_tokens"]) == 2 * (timed["suite"].new_tokens - 1)
        assert share["predicted_step_s"] > 0


def test_prompts_are_drawn_alike_in_every_process_and_known_by_their_hash(checkpoint: Path) -> None:
    suite = tiny(checkpoint)
    from harness.measure.setup import speed_batch, timed_examples

    decoder = setup.load(suite, str(checkpoint))
    hashes = [
        [speed_batch(suite, decoder, timed_examples(suite, decoder, None), 2, s).hash for s in range(2)]
        for _ in range(2)
    ]
    assert hashes[0] == hashes[1] and hashes[0][0] != hashes[0][1]
    other = prompts.pad_left([[3, 4], [5]], 0)
    assert other.hash != prompts.pad_left([[3, 4], [0, 5]], 0).hash
