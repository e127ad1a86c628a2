"""Two runs compared: changes are found where they are and not where they are not, and CI is told by the exit status."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import main as cli
from harness.errors import BadInput, CellFailed
from harness.records import compare
from harness.records.compare import AMBIGUOUS, FASTER, SAME, SLOWER, WORSE, difference_verdict, ratio, ratio_verdict
from harness.records.folder import RunStore
from harness.records.run import load
from harness.records.seeds import LARGER, STILL, WITHIN
from harness.stats.intervals import Interval

ARMS = [
    {"label": "Full", "method": "full", "spec": "full", "checkpoint": "m", "params": {}},
    {"label": "Skip", "method": "skipdecode", "spec": "skipdecode", "checkpoint": "m", "params": {}},
]
Json = dict[str, Any]


def make_run(
    folder: Path, skip_ms: float = 5.0, noise: float = 0.02, seed: int = 0, rouge: float = 0.8, **conditions: Any
) -> Path:
    """A run of two arms at one batch size: 3 processes of 6 repeats, 40 examples, log-normal noise."""
    rng = np.random.default_rng(seed)
    store = RunStore(folder)
    store.write_run({"name": "r", "suite": {"batch_sizes": [2], "tasks": [{"name": "restaurants"}]}, "arms": ARMS})
    held = {"cpu": "x", "threads": 2, "torch": "2.13.0", "kernels": f"k{seed}", **conditions}
    for arm, ms in zip(ARMS, (10.0, skip_ms), strict=True):
        runs = [
            {"process": p, "repeat": r, "order": 0, "prompt_set": 0, "ttft_s": 0.1, "step_tokens": [2] * 4,
             "step_s": [ms / 1000 * math.exp(rng.normal(0, noise)) for _ in range(4)]}
            for p in range(3) for r in range(6)
        ]  # fmt: skip
        common = {"status": "ok", "error": None, "arm": arm, "conditions": held, "conditions_hash": "h"}
        store.write_cell({**common, "id": f"speed-{arm['label']}", "kind": "speed", "batch_size": 2, "runs": runs})
        share = 0.8 if arm["label"] == "Full" else rouge
        examples = [
            {"id": f"e{i}", "stats": {"agreement": [round(10 * share) - (i % 2), 10]}} for i in range(40)
        ]  # fmt: skip
        store.write_cell(
            {**common, "id": f"quality-{arm['label']}", "kind": "quality", "task": "restaurants", "examples": examples}
        )
    return folder


def found(before: Path, after: Path, **settings: Any) -> dict[tuple[str, str], compare.Change]:
    return {(c.label, c.metric): c for c in compare.compare(before, after, **settings).changes}


def test_equal_runs_show_no_difference(tmp_path: Path) -> None:
    changes = found(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1))
    assert {change.verdict for change in changes.values()} == {SAME}
    assert set(changes) == {("Full", "tpot"), ("Skip", "tpot"), ("Skip", "speedup"), ("Full", "restaurants/agreement"),
                            ("Skip", "restaurants/agreement")}  # fmt: skip


def trained(folder: Path, scores: dict[str, float], seed: int) -> Path:
    """A run of several arms, each on weights of its own, with 0/1 answers to 200 questions."""
    store = RunStore(folder)
    arms = [
        {"label": name, "method": "full" if name == "Full" else "m", "spec": name, "checkpoint": name, "params": {}}
        for name in scores
    ]
    store.write_run({"name": "r", "suite": {"tasks": [{"name": "t"}]}, "arms": arms})
    for arm in arms:
        held = {"torch": "2", "seed": seed, "prompts_hash": f"p{seed}"}
        examples = [{"id": f"e{i}", "stats": {"acc": [float(i < scores[arm["label"]]), 1.0]}} for i in range(200)]
        informative = {"acc": {"value": 80.0, "chance": 50.0, "informative": True, "reason": ""}}
        store.write_cell(
            {"id": f"q-{arm['label']}", "kind": "quality", "status": "ok", "error": None, "arm": arm, "task": "t",
             "conditions": held, "conditions_hash": "h", "examples": examples, "informative": informative}
        )  # fmt: skip
    return folder


def test_differences_are_set_beside_what_the_seed_does(tmp_path: Path) -> None:
    """Scores move by two points between the seeds: 30 points are larger than that, one is not."""
    one = trained(tmp_path / "a", {"Full": 160, "A": 100, "B": 158, "C": 162}, 0)
    two = trained(tmp_path / "b", {"Full": 164, "A": 96, "B": 162, "C": 158}, 1)
    refused = compare.compare(one, two)
    assert not refused.changes and not refused.seeds and "seed 0 and 1" in refused.refusals[0]
    found_ = {row.label: row for row in compare.compare(one, two, seeds=True).seeds}
    assert set(found_) == {"A", "B", "C"}
    assert (found_["A"].verdict, found_["B"].verdict, found_["C"].verdict) == (LARGER, WITHIN, WITHIN)
    # Every score moved by 2 points; the variance of one is 2^2 / 2, and Student's t has four checkpoints.
    assert found_["A"].half == pytest.approx(2.7764 * math.sqrt(2), rel=1e-3)
    assert (found_["A"].before, found_["A"].after) == (pytest.approx(-30), pytest.approx(-34))
    assert {row.verdict for row in compare.compare(one, one, seeds=True).seeds} == {STILL}


def test_weights_that_were_not_trained_anew_say_nothing_about_a_seed(tmp_path: Path) -> None:
    """D has the weights of the first run, E generates what the full model does: neither narrows what the seed does."""
    folders = [
        trained(tmp_path / name, {"Full": full, "A": 100, "D": 130, "E": full}, seed)
        for seed, (name, full) in enumerate((("a", 160), ("b", 164)))
    ]
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        for arm in record["arms"]:
            arm["weights"] = (
                f"{'Full' if arm['label'] == 'E' else arm['label']}-{'' if arm['label'] == 'D' else folder.name}"
            )
            arm["exact"] = arm["label"] in ("Full", "E")
        (folder / "run.json").write_text(json.dumps(record))
    (row,) = compare.compare(*folders, seeds=True).seeds
    assert row.label == "A" and row.half == pytest.approx(4.3027 * math.sqrt((2**2 + 0) / 2 / 2), rel=1e-3)


def test_a_task_the_full_model_cannot_do_decides_nothing(tmp_path: Path) -> None:
    folders = trained(tmp_path / "a", {"Full": 100, "A": 100}, 0), trained(tmp_path / "b", {"Full": 100, "A": 20}, 0)
    assert found(*folders)["A", "t/acc"].verdict == WORSE
    for path in folders[1].glob("cells/q-Full.json"):
        cell = json.loads(path.read_text())
        cell["informative"]["acc"] |= {"informative": False, "reason": "50 of 100, as a guess"}
        path.write_text(json.dumps(cell))
    compared = compare.compare(*folders, fail_if=["acc drop > 1"], seeds=True)
    assert {change.verdict for change in compared.changes} == {"uninformative"}
    assert not compared.broken and not compared.seeds and "2 uninformative" in compared.headline
    gate = next(g for g in load(folders[1]).gates if g.name == "the full model can do the tasks")
    assert gate.status == "failed" and not gate.counts and "as a guess" in gate.detail
    assert "passed" in {g.status for g in load(folders[0]).gates if g.name == gate.name}


def test_a_slower_method_is_found_with_its_size(tmp_path: Path) -> None:
    changes = found(make_run(tmp_path / "a"), make_run(tmp_path / "b", skip_ms=6.0, seed=1))
    speed, time = changes["Skip", "speedup"], changes["Skip", "tpot"]
    assert speed.verdict == SLOWER and time.verdict == SLOWER
    assert speed.effect.low < 5 / 6 < speed.effect.high and time.effect.low < 6 / 5 < time.effect.high
    assert speed.before == pytest.approx(2, rel=0.02) and time.after == pytest.approx(6, rel=0.02)
    assert changes["Full", "tpot"].verdict == SAME
    headline = compare.compare(tmp_path / "a", tmp_path / "b").headline
    assert headline == "2 slower of 5 quantities compared (3 no difference)"
    back = found(tmp_path / "b", tmp_path / "a")
    assert back["Skip", "speedup"].verdict == FASTER and back["Skip", "tpot"].verdict == FASTER


def test_a_small_change_is_not_spoken_of_and_a_noisy_one_is_ambiguous(tmp_path: Path) -> None:
    """Both are needed: a change that is sure but small is no difference; one that is large but unsure is ambiguous."""
    make_run(tmp_path / "a", noise=0.001)
    assert found(tmp_path / "a", make_run(tmp_path / "b", 5.1, 0.001, 1))["Skip", "speedup"].verdict == SAME
    assert found(tmp_path / "a", make_run(tmp_path / "c", 5.4, 0.3, 1))["Skip", "speedup"].verdict == AMBIGUOUS


def test_what_is_not_usable_or_was_timed_beside_others_is_not_compared(tmp_path: Path) -> None:
    """A machine that was busy in one of the runs must not look like a change of the method."""
    first, noisy = make_run(tmp_path / "a"), make_run(tmp_path / "b", 9.0, 2.0, 1)
    refused = compare.compare(first, noisy).refusals
    assert any("Skip: not usable in the second run: " in line for line in refused)
    busy = RunStore(make_run(tmp_path / "c", 9.0))
    for cell in busy.cells():
        busy.write_cell({**cell, "machine": [{"cpu": {"foreign_share": 0.5, "steal_share": None}}]})
    compared = compare.compare(first, tmp_path / "c")
    assert {change.metric for change in compared.changes} == {"restaurants/agreement"}
    assert "measured beside other programs in the second run" in compared.refusals[0]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.10, 1.02, 1.18), FASTER),
        ((0.90, 0.85, 0.97), SLOWER),
        ((1.01, 0.97, 1.04), SAME),
        ((1.02, 1.01, 1.03), SAME),
        ((1.03, 1.01, 1.07), AMBIGUOUS),
        ((1.10, 0.98, 1.22), AMBIGUOUS),
        ((1.10, math.nan, math.nan), AMBIGUOUS),
    ],
)
def test_verdict_of_a_ratio(interval: tuple[float, float, float], verdict: str) -> None:
    assert ratio_verdict(Interval(*interval, 30), 0.05) == verdict
    assert ratio_verdict(Interval(*interval, 4), 0.05) == AMBIGUOUS, "too few repeats to tell"


def test_verdict_of_a_difference() -> None:
    assert difference_verdict(Interval(-2.0, -3.0, -1.2, 50), 1.0, "higher") == WORSE
    assert difference_verdict(Interval(2.0, 1.2, 3.0, 50), 1.0, "lower") == WORSE
    assert difference_verdict(Interval(-0.2, -0.9, 0.5, 50), 1.0, "higher") == SAME
    assert difference_verdict(Interval(-2.0, -4.0, 0.1, 50), 1.0, "higher") == AMBIGUOUS
    assert difference_verdict(Interval(-2.0, -3.0, -1.2, 5), 1.0, "higher") == AMBIGUOUS


def test_the_interval_of_a_ratio_of_two_runs_covers_as_it_says() -> None:
    """Simulated: two independent log-normal estimates with 95 % intervals; theirs together must cover 95 % as well."""
    rng = np.random.default_rng(3)
    hits, tries, sa, sb = 0, 4000, 0.03, 0.08
    for a, b in np.exp(rng.normal([0.2, -0.1], [sa, sb], (tries, 2))):
        one, two = (Interval(v, v * math.exp(-1.96 * s), v * math.exp(1.96 * s), 30) for v, s in ((a, sa), (b, sb)))
        both = ratio(one, two)
        hits += both.low <= math.exp(0.3) <= both.high
    assert 0.94 < hits / tries < 0.96


def test_rules_for_ci(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", skip_ms=6.0, seed=1, rouge=0.5)
    assert [line.partition(":")[0] for line in compare.compare(a, b, fail_if=["speedup drop > 5%"]).broken] == [
        "speedup drop > 5%"
    ]
    assert not compare.compare(a, b, fail_if=["speedup drop > 30%"]).broken, "significant, but not by so much"
    assert not compare.compare(b, a, fail_if=["speedup drop > 5%", "tpot rise > 5%"]).broken
    assert compare.compare(a, b, fail_if=["tpot rise > 5%"]).broken
    assert compare.compare(a, b, fail_if=["agreement drop > 10"]).broken
    assert compare.compare(a, b, fail_if=["restaurants/agreement drop > 20%"]).broken
    assert not compare.compare(a, b, fail_if=["agreement rise > 0"]).broken


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("speedup < 1", "cannot be read; write e.g."),
        ("speedup drop > 5", "give the amount in percent"),
        ("perplexity rise > 1", "no 'perplexity' in both runs; compared are tpot, speedup, restaurants/agreement"),
    ],
)
def test_a_rule_that_says_nothing_is_bad_input(tmp_path: Path, rule: str, message: str) -> None:
    """A gate that can never fail is worse than none."""
    with pytest.raises(BadInput, match=message):
        compare.compare(make_run(tmp_path / "a"), make_run(tmp_path / "b"), fail_if=[rule])


def test_other_conditions_are_refused_and_named(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", threads=4)
    compared = compare.compare(a, b, fail_if=["speedup drop > 5%"])
    assert not compared.changes
    assert compared.refusals[0] == "speed, batch 2, Full, Skip: measured under other conditions: threads 2 and 4"
    assert compared.broken == ("speedup drop > 5%: cannot be told: " + compared.refusals[0],), "not passed in silence"
    assert len(found(a, b, ignore=["threads"])) == 5
    with pytest.raises(BadInput, match="ignore: no condition 'thread'; did you mean 'threads'"):
        compare.compare(a, b, ignore=["thread"])


def test_a_cell_that_is_gone_or_failed_does_not_pass(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (b / "cells" / "speed-Skip.json").unlink()
    assert "not in the second run" in compare.compare(a, b, fail_if=["speedup drop > 5%"]).broken[0]
    store = RunStore(b)
    store.write_cell({"id": "speed-Skip", "kind": "speed", "status": "failed", "error": "out of memory", "arm": ARMS[1],
                      "batch_size": 2})  # fmt: skip
    assert "failed in the second run (out of memory)" in compare.compare(a, b).refusals[0]


def test_what_an_older_run_kept_elsewhere_is_taken_from_there(tmp_path: Path) -> None:
    """Before conditions held the processor, run.json did: another processor is told all the same."""
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for folder, cpu in ((a, "x"), (b, "y")):
        store = RunStore(folder)
        store.write_run({**store.read_run(), "environment": {"cpu": {"model": cpu}}})
        for cell in store.cells():
            old = copy.deepcopy(cell)
            del old["conditions"]["cpu"]
            store.write_cell(old)
    assert compare.compare(a, b).processors == "processor x and y"


def test_two_processors_are_told_first_and_their_times_are_not_compared(tmp_path: Path) -> None:
    """The same model name on a wider and a narrower processor: ratios and scores are ranked, times are not."""
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    assert compare.compare(a, b).processors == "" and "tpot" in {c.metric for c in compare.compare(a, b).changes}
    for folder, vectors in ((a, "avx512"), (b, "avx2")):
        store = RunStore(folder)
        caches = {"L3": 2**25, "L2": 2**20}
        store.write_run(
            {**store.read_run(), "environment": {"cpu": {"model": "x", "vectors": vectors, "cache_bytes": caches}}}
        )
        for cell in store.cells():
            cell["conditions"]["compiled_kernels"] = f"on: {vectors}, cc 12"
            store.write_cell(cell)
    compared = compare.compare(a, b)
    assert compared.processors == "kernels avx512 and avx2; vectors avx512 and avx2"
    assert not compared.refusals, "what says which processor it was refuses nothing then"
    metrics = {change.metric for change in compared.changes}
    assert "speedup" in metrics and "tpot" not in metrics
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "compare", str(a), str(b)], capture_output=True, text=True
    )
    assert done.stdout.startswith("two processors: kernels avx512 and avx2")


def test_an_unknown_schema_is_refused_by_name(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    text = (b / "run.json").read_text().replace('"schema_version":1', '"schema_version":7')
    (b / "run.json").write_text(text)
    with pytest.raises(BadInput, match="run.json: schema_version 7 is not known, this depthbench reads 1"):
        compare.compare(a, b)


def test_the_verb(tmp_path: Path) -> None:
    a, b = str(make_run(tmp_path / "a")), str(make_run(tmp_path / "b", skip_ms=6.0, seed=1))
    passed = CliRunner().invoke(cli.app, ["compare", a, b])
    assert passed.exit_code == 0 and "slower" in passed.output and "no difference" in passed.output
    failed = CliRunner().invoke(cli.app, ["compare", a, b, "--fail-if", "speedup drop > 5%"])
    assert isinstance(failed.exception, CellFailed)
    with pytest.raises(BadInput, match="threshold"):
        compare.compare(a, b, threshold=1.5)


def test_right_and_wrong_answers_have_the_interval_of_matched_shares(tmp_path: Path) -> None:
    """A bootstrap of answers of which none changed says that the difference is 0 for certain."""
    for folder in ("a", "b"):
        make_run(tmp_path / folder)
        for path in (tmp_path / folder / "cells").glob("quality-*.json"):
            cell = json.loads(path.read_text())
            for place, example in enumerate(cell["examples"]):
                example["stats"] = {"acc": [float(place % 2), 1.0]}
            path.write_text(json.dumps(cell))
    change = found(tmp_path / "a", tmp_path / "b")["Skip", "restaurants/acc"]
    assert change.effect.value == 0 and change.effect.low < -1 < 1 < change.effect.high
    assert change.verdict == AMBIGUOUS
