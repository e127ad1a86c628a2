"""Tuning and calibration on the bundled model: the choice, the trace, the artefact, and the suite that uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import methods
from harness.errors import BadInput
from harness.measure import speed
from harness.models.load import load_model
from harness.run import costs
from harness.stats import intervals
from harness.suites import artefact
from harness.suites import suite as config
from harness.tune import budgets, calibrate, tries, tune
from harness.tune.trials import Setup, Trials, make_setup, names_of, settings_of


def setup(model: str = "opt-e2e-mini/calm-700", **more: object) -> Setup:
    more = {
        "quality_batch_size": 24,
        "max_new_tokens": 12,
        "expected_tokens": 24,
        "threads": 1,
        "new_tokens": 4,
        "repeats": 2,
        **more,
    }
    return make_setup("restaurants", model, more.pop("metric", "rougeL"), None, None, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tuned() -> dict[str, object]:
    lines: list[str] = []
    goal = tune.Goal(target_speedup=1.5, by="layers")
    tried = ["budget=20,16,4,12"]
    return tune.tune("fixed_exit", setup(), goal, tried=tried, limit=24, test_limit=20, say=lines.append) | {
        "said": lines
    }


def test_tuning_takes_the_best_of_those_fast_enough(tuned: dict) -> None:
    by_name = {one["setting"]: one for one in tuned["trace"]}
    assert list(by_name) == [f"fixed_exit(budget={b})" for b in (20, 16, 4, 12)]
    assert by_name["fixed_exit(budget=20)"]["note"] == "below 1.5x"
    fast = {name: one["score"]["value"] for name, one in by_name.items() if not one["note"]}
    assert set(fast) == {f"fixed_exit(budget={b})" for b in (16, 4, 12)}
    best = max(fast, key=lambda name: fast[name])
    assert f"fixed_exit(budget={tuned['parameters']['budget']})" == best
    for one in by_name.values():
        assert one["layer_ratio"] == pytest.approx(24 / one["layers_per_token"])
        assert one["score"]["value"] + one["loss"]["value"] == pytest.approx(tuned["full_score"]["value"])


def test_tuning_reports_on_data_it_did_not_choose_on(tuned: dict) -> None:
    held = tuned["held_out"]
    assert (tuned["data"]["split"], held["data"]["split"]) == ("validation", "test")
    assert held["data"]["examples"] == 20 and held["data"]["hash"] != tuned["data"]["hash"]
    assert held["verdict"] == "goal kept" and held["loss"]["n"] == 20
    assert tuned["cost"]["trials"] == 5 and tuned["total_cost"]["trials"] == 7
    assert tuned["cost"]["scored_examples"] == 5 * 24 and tuned["cost"]["generated_tokens"] > 5 * 24
    assert tuned["cost"]["seconds"] > 0 and tuned["cost"]["cpu_seconds"] > 0
    assert len(tuned["said"]) == 6 and "chosen fixed_exit" in tuned["said"][-1]
    table = tries.table(tuned)
    assert len(table) == 5 and table[1][-1] == "below 1.5x"


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take a millisecond per block, so that nothing depends on what else the machine does."""
    inner = speed.speed

    def timed(*arguments: Any) -> Any:
        cells = inner(*arguments)
        for cell in cells.values():
            for run in cell["runs"]:
                run["step_s"] = [cell["layers_per_token"] * 1e-3] * len(run["step_s"])
        return cells

    monkeypatch.setattr(speed, "speed", timed)


def test_a_largest_loss_takes_the_fastest_and_times_only_what_can_be_chosen(steady: None) -> None:
    goal = tune.Goal(max_loss=100.0, by="time")
    record = tune.tune("fixed_exit", setup(), goal, tried=["budget=6,2"], limit=4, test_limit=4, say=lambda _: None)
    timed = [one["speedup"] for one in record["trace"]]
    assert [(one["n"], one["value"]) for one in timed] == [(2, pytest.approx(4)), (2, pytest.approx(12))]
    assert record["cost"]["timed"] == 2
    assert record["parameters"]["budget"] == 2 and record["held_out"]["verdict"] == "inconclusive"
    goal = tune.Goal(max_loss=0.0, by="layers")
    record = tune.tune("random_skip", setup(), goal, tried=["budget=3"], limit=6, say=lambda _: None)
    assert record["parameters"] is None and record["held_out"] is None
    assert "no setting loses at most 0; the nearest is random_skip(budget=3)" in record["finding"]


def test_too_slow_settings_are_not_scored(steady: None) -> None:
    goal = tune.Goal(target_speedup=50.0, by="time")
    record = tune.tune("fixed_exit", setup(), goal, tried=["budget=22,23"], limit=4, say=lambda _: None)
    assert record["parameters"] is None and "no setting reaches 50x" in record["finding"]
    assert all(one["score"] is None and one["note"] == "below 50x" for one in record["trace"])


@pytest.fixture(scope="module")
def budgeted() -> dict:
    tried = ["budget=18,17,12,2"]
    return budgets.at_budgets(
        "fixed_exit", setup(), [0.75, 0.5, 0.3], tried=tried, limit=8, test_limit=6, say=lambda _: None
    )


def test_settings_at_budgets_are_chosen_on_validation_data(budgeted: dict) -> None:
    """Shares are counted, and what comes nowhere near chooses nothing; the trials are shared."""
    wide, half, none = budgeted["choices"]
    shares = [one["executed_share"] for one in budgeted["trace"]]
    assert shares == pytest.approx([18 / 24, 17 / 24, 12 / 24, 2 / 24])
    assert wide["parameters"]["budget"] == 18 and half["parameters"]["budget"] == 12
    assert half["held_out"]["executed_share"] == pytest.approx(0.5) and half["held_out"]["data"]["split"] == "test"
    assert none["parameters"] is None and none["held_out"] is None
    assert "no setting is near 30 %; the nearest is fixed_exit(budget=12) with 50 %" in none["finding"]
    assert budgeted["cost"]["trials"] == 5 and budgeted["total_cost"]["trials"] == 8
    assert tries.table(budgeted)[3][5] == "50 %"


def test_a_suite_names_the_budget_it_takes(budgeted: dict, tmp_path: Path) -> None:
    path = artefact.write(tmp_path / "exits.json", budgeted)
    found = artefact.entry(path, 0.5)
    assert found["parameters"] == {"budget": 12} and found["tuned"]["goal"] == {"budget": 0.5, "metric": "rougeL"}
    suite = """
model: opt-e2e-mini/calm-700
methods: [full, {tuned: exits.json, at: 0.75, label: Exit 75 %}]
batch_sizes: [1]
tasks: [restaurants]
"""
    (tmp_path / "mine.yaml").write_text(suite)
    arm = config.load_suite(tmp_path / "mine.yaml").methods[1]
    assert (arm.title, arm.parameters, arm.checkpoint) == ("Exit 75 %", {"budget": 18}, "opt-e2e-mini/calm-700")
    for old, new, said in (
        ("at: 0.75, ", "", "has a choice for each of the budgets 0.75, 0.5, 0.3; say which with at"),
        ("at: 0.75", "at: 0.7", "has no choice for 0.7; it has 0.75, 0.5, 0.3"),
        ("at: 0.75", "at: half", "'half' is no share"),
        ("at: 0.75", "at: 0.3", "chose nothing: no setting is near 30 %"),
    ):
        (tmp_path / "mine.yaml").write_text(suite.replace(old, new))
        with pytest.raises(BadInput, match=said):
            config.load_suite(tmp_path / "mine.yaml")


def test_within_half_a_block_the_score_decides() -> None:
    def one(share: float | None, value: float) -> tries.Try:
        return tries.Try(str(share), score=intervals.Interval(value, value, value, 30), executed_share=share)

    asked = [one(0.5, 60.0), one(0.52, 65.0), one(0.49, 62.0), one(0.3, 99.0), one(None, 99.0)]
    assert budgets.choose(asked, 0.5, 24, "higher") == 1
    assert budgets.choose(asked, 0.5, 24, "lower") == 0
    assert budgets.choose(asked, 0.32, 24, "higher") == 3
    assert budgets.choose(asked, 0.34, 24, "higher") is None, "two points away at most"
    assert budgets.choose(asked, 0.34, 8, "higher") == 3, "sets of whole blocks come no nearer than half of one"
    with pytest.raises(BadInput, match="budget: 50 is out of range"):
        budgets.check([50])
    with pytest.raises(BadInput, match="given twice"):
        budgets.check([0.5, 0.5])


def test_between_settings_that_execute_the_same_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 and 0.25 both execute everything: what lies between 0 and 0.5 is known, what lies between 0.25 and 0.5 is not."""

    class Counted:
        setup, names = setup(), ["0.0", "0.25", "0.5", "1.0"]
        settings = [methods.create(f"calm(confidence=softmax, threshold={name})") for name in names]

        def add(self, method: Any) -> int:
            self.settings.append(method)
            self.names.append(f"{method.params['threshold']:g}")
            return len(self.names) - 1

    def scored(trials: Any, place: int, one: tries.Try, depth: int) -> None:
        one.executed_share = 1.0 if trials.settings[place].params["threshold"] < 0.45 else 0.4

    monkeypatch.setattr(budgets, "score", scored)
    monkeypatch.setattr(budgets, "line", lambda one, metric: "")
    trials, found = Counted(), [tries.Try(name) for name in Counted.names]
    for place, one in enumerate(found):
        scored(trials, place, one, 24)
    budgets._halve(trials, found, [0, 1, 2, 3], 0.75, 24, lambda _: None)  # type: ignore[arg-type]
    assert trials.names[4:6] == ["0.375", "0.4375"] and len(set(trials.names)) == len(trials.names) > 6


def test_losses_are_those_of_the_texts() -> None:
    trials = Trials(setup(), [methods.create("fixed_exit(budget=4)")], "validation", 6)
    full, early = trials.quality(None)["examples"], trials.quality(0)["examples"]
    textual = calibrate.Losses([trials], "textual")(0)
    metric = trials.setup.scored
    for loss, mine, theirs, example in zip(textual, early, full, trials.examples, strict=True):
        from dataclasses import replace

        against = metric.example(mine["output"], replace(example, references=(theirs["output"],)))
        want = 0.0 if mine["output"] == theirs["output"] else 1 - against[0] / 100
        assert loss == pytest.approx(want)
    risk = calibrate.Losses([trials], "risk")(0)
    drop = [(f["stats"]["rougeL"][0] - e["stats"]["rougeL"][0]) / 100 for f, e in zip(full, early, strict=True)]
    assert risk == pytest.approx(np.maximum(drop, 0))
    assert textual.max() > 0 and trials.cost["trials"] == 2


@pytest.fixture(scope="module")
def calibrated() -> list[dict]:
    goals = [calibrate.Goal(0.4), calibrate.Goal(0.01, consistency="risk")]
    tried = ["threshold=0.95,0.5,0.0"]
    return calibrate.calibrate(
        "calm(confidence=classifier)", setup(), goals, tried=tried, limit=40, splits=20, draws=60, say=lambda _: None
    )


def test_calibration_follows_the_sequence(calibrated: list[dict]) -> None:
    for record in calibrated:
        kept = [one["rejected"] for one in record["trace"]]
        assert kept == sorted(kept, reverse=True) and sum(not k for k in kept) <= 1
        count = sum(kept)
        want = [0.95, 0.5, 0.0][count - 1] if count else 1.0
        assert record["parameters"]["threshold"] == want and record["parameters"]["confidence"] == "classifier"
        assert record["cost_shared_by"] == 2 and record["cost"]["trials"] >= 2
        for one in record["trace"]:
            assert one["n"] == 40 and one["rejected"] == (one["p_value"] <= 0.05)
    strict = calibrated[1]  # 40 examples can never show a risk of 1 %
    assert strict["parameters"]["threshold"] == 1.0 and strict["held_out"]["risk"] == 0
    assert strict["check"]["splits"]["chosen"] == {"full depth": 20}


def test_the_promise_is_checked_on_splits(calibrated: list[dict]) -> None:
    check = calibrated[0]["check"]
    assert check["examples"] == 80 and sum(check["splits"]["chosen"].values()) == 20
    assert len(check["splits"]["each"]) == 20 and check["draws"]["n"] == 60
    assert check["holds"] and check["draws"]["share_low"] <= 0.05
    assert {part["split"] for part in check["pool"]} == {"validation", "test"}


def test_a_suite_uses_an_artefact(tuned: dict, tmp_path: Path) -> None:
    record = {key: value for key, value in tuned.items() if key != "said"}
    artefact.write(tmp_path / "exit.json", record)
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "model: opt-e2e-mini/full\nmethods:\n  - full\n  - {tuned: exit.json, label: Tuned}\nbatch_sizes: [1]\n"
        "tasks: [restaurants]\n"
    )
    loaded = config.load_suite(suite)
    entry = loaded.methods[1]
    assert (entry.name, entry.title, loaded.checkpoint(entry)) == ("fixed_exit", "Tuned", "opt-e2e-mini/calm-700")
    assert methods.create(entry.spec) == methods.create("fixed_exit", **tuned["parameters"])
    assert entry.tuned is not None and entry.tuned["data"] == tuned["data"] and entry.tuned["cost"] == tuned["cost"]
    (tmp_path / "exit.json").unlink()  # the suite as resolved stands on its own
    assert config.Suite.model_validate(loaded.plain()).plain() == loaded.plain()


def test_bad_artefacts_are_refused(tuned: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(BadInput, match="cannot be read"):
        artefact.entry(path)
    for text, wrong in (
        ("{", "not valid JSON"),
        ('{"kind": "tuning", "kind": "x"}', "the key 'kind' is given twice"),
        ("{}", "not an artefact"),
        (json.dumps({"kind": "tuning", "parameters": {}, "artefact_version": 9}), "version 9"),
        (json.dumps({"kind": "tuning", "parameters": None, "artefact_version": 1, "finding": "x"}), "chose nothing: x"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=wrong):
            artefact.entry(path)
    with pytest.raises(BadInput, match="is there already"):
        artefact.write(path, {})
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "model: m\nmethods: [full, {tuned: a.json, threshold: 1}]\nbatch_sizes: [1]\ntasks: [restaurants]\n"
    )
    with pytest.raises(BadInput, match="threshold stands beside tuned"):
        config.load_suite(suite)


@pytest.mark.parametrize("name", methods.names())
def test_proposed_settings_fit_the_model(name: str) -> None:
    """What a method proposes resolves, rises in nothing twice, and never is the setting without skipping."""
    decoder = load_model("opt-e2e-mini/calm-700")
    method = methods.create(name)
    settings = list(method.candidates(decoder.depth))
    for setting in settings:
        setting.resolve(decoder.depth, costs.AnyTensor(decoder.geometry.width))
    assert len(set(map(str, settings))) == len(settings)
    if settings:
        assert len(set(names_of(settings))) == len(settings)


def test_bad_input_is_named(tmp_path: Path) -> None:
    for goal, wrong in (
        ({}, "one of them"),
        ({"target_speedup": 2.0, "max_loss": 1.0}, "one of them"),
        ({"target_speedup": 0.5}, "target_speedup: 0.5"),
        ({"max_loss": -1.0}, "max_loss: -1"),
        ({"max_loss": 1.0, "by": "flops"}, "by: 'flops'"),
    ):
        with pytest.raises(BadInput, match=wrong):
            tune.Goal(**goal)
    with pytest.raises(BadInput, match="metric: 'rogue' is not a metric of task restaurants"):
        setup(metric="rogue")
    for spec, tried, wrong in (
        ("full", (), "proposes nothing to try"),
        ("fixed_exit", ("budget",), "write name=value"),
        ("fixed_exit", ("budget=99",), "no setting fits"),
        ("fixed_exit", ("budget=3,99",), "budget=99 is out of range"),
        ("fixed_exit", ("budgett=3",), "did you mean 'budget'"),
    ):
        with pytest.raises(BadInput, match=wrong):
            settings_of(spec, "opt-e2e-mini/full", tried, "cpu", "float32")
    for text in ("textual", "textual:x", "0.1"):
        with pytest.raises(BadInput, match="write textual:0.1"):
            calibrate.goal_of(text, 0.05)
    with pytest.raises(BadInput, match="consistency: 'semantic'"):
        calibrate.goal_of("semantic:0.1", 0.05)
    with pytest.raises(BadInput, match="given twice"):
        artefact.places(tmp_path, ["risk:0.1", "risk:0.1"])
    assert intervals.MIN_EXAMPLES > 6  # what the tests above call inconclusive


def test_numbers_between_two_settings_reach_a_budget() -> None:
    """Two thresholds far from the budget on either side of it: what lies between is tried until one is near."""
    said: list[str] = []
    tried = ["threshold=0.95,0.3"]
    record = budgets.at_budgets("calm", setup(), [0.4, 0.02], tried=tried, limit=6, test_limit=2, say=said.append)
    first, second, *more = [one["setting"] for one in record["trace"]]
    assert (first, second) == ("calm(threshold=0.95)", "calm(threshold=0.3)")
    wide, narrow = (one["executed_share"] for one in record["trace"][:2])
    assert wide > 0.4 + 0.03 and narrow < 0.4 - 0.03, "or there is nothing to halve"
    assert 1 <= len(more) <= budgets.MOST_HALVED and len(set(more)) == len(more)
    assert record["cost"]["trials"] == 3 + len(more)
    met, missed = record["choices"]
    chosen = next(one for one in record["trace"] if one["setting"] == met["held_out"]["setting"])
    assert 0.3 < met["parameters"]["threshold"] < 0.95 and abs(chosen["executed_share"] - 0.4) < 0.022
    assert missed["parameters"] is None and "no setting is near 2 %" in missed["finding"]


def test_the_fastest_draft_by_the_passes_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass costs is the full model's step; how many there were is counted on validation outputs, one row at a time."""
    inner = speed.speed

    def timed(suite: Any, arms: Any, *more: Any) -> Any:
        assert [arm["method"] for arm in arms] == ["full"], "nothing else is timed"
        cells = inner(suite, arms, *more)
        cells["full"] |= {"predicted_full_step_s": 30.0, "step_parts_s": {"attention": 0.4, "feed": 0.6}}
        return cells

    monkeypatch.setattr(speed, "speed", timed)
    goal, tried = tune.Goal(by="predicted"), ["exit_layer=4,20", "draft_tokens=2"]
    record = tune.tune("layerskip", setup(), goal, tried=tried, limit=4, test_limit=2, say=lambda _: None)
    cheap, dear = (one["predicted"] for one in record["trace"])
    assert cheap > dear > 0 and record["parameters"]["exit_layer"] == 4
    assert record["conditions"]["quality_batch_size"] == 1 and record["held_out"]["predicted"] > 0
    assert record["step_parts_s"] == {"step": 30.0, "attention": 0.4, "feed": 0.6}
    assert all(abs(one["loss"]["value"]) < 1e-9 for one in record["trace"])
    # Two drafts and a verification that yields three tokens at most: 3 heads, 2 * 4 + 20 blocks.
    assert cheap <= 30 / ((3 * 6 + 4 * 3 + 20) / 3) + 1e-6
    with pytest.raises(BadInput, match="fixed_exit drafts nothing"):
        tune.tune("fixed_exit", setup(), goal, limit=2, say=lambda _: None)
    with pytest.raises(BadInput, match="leave --target-speedup and --max-loss out"):
        tune.Goal(max_loss=0.0, by="predicted")
