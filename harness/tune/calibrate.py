"""Learn-then-Test calibration of a method: the boldest setting that keeps a promise about its outputs (CALM, Section 4).

The promise, with probability 1 - epsilon over the calibration data: the expected loss is at most delta. Losses in [0, 1]:

* `textual`: 1 - metric(output, the full model's output);
* `risk`: max(0, metric(full) - metric(output)), both against the references; what is promised of it holds for the plain
  difference too, which is never larger.

Settings are tried in the method's own order (`Method.candidates`) and only until the first that fails.

    depthbench calibrate calm --model opt-e2e-mini/calm-700 --task e2e --data DIR --promise textual:0.1 --out calm-0.1.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from harness import outside
from harness.errors import BadInput, near
from harness.machine import environment
from harness.stats import ltt
from harness.stats.intervals import bootstrap_metric
from harness.tasks.base import Example
from harness.tune.cost import add_costs
from harness.tune.trials import Setup, Trials, settings_of, shown_parameters

Json = dict[str, Any]
CONSISTENCIES = ("textual", "risk")


@dataclass(frozen=True)
class Goal:
    """What is promised.

    Attributes:
        delta: expected loss at most.
        epsilon: the promise fails with this probability at most.
        consistency: `textual` or `risk`.
    """

    delta: float
    epsilon: float = 0.05
    consistency: str = "textual"

    def __post_init__(self) -> None:
        ltt.check_levels(self.delta, self.epsilon)
        if self.consistency not in CONSISTENCIES:
            raise BadInput(f"consistency: {self.consistency!r} is not known; {near(self.consistency, CONSISTENCIES)}")


class Losses:
    """Losses [n] of the settings on one or several splits together, each worked out when it is asked for."""

    def __init__(self, trials: Sequence[Trials], consistency: str) -> None:
        self.trials, self._consistency = trials, consistency
        self._known: dict[int, ltt.Array] = {}

    def __call__(self, place: int) -> ltt.Array:
        """Losses of the setting at a place of the sequence."""
        if place not in self._known:
            parts = [part for trials in self.trials for part in self._of(trials, place)]
            self._known[place] = np.array(parts, dtype=np.float64)
        return self._known[place]

    def _of(self, trials: Trials, place: int) -> list[float]:
        cell, full = trials.quality(place), trials.quality(None)
        rows = zip(trials.examples, cell["examples"], full["examples"], strict=True)
        if self._consistency == "textual":
            return [
                self._unlike(trials, example, mine["output"] or "", theirs["output"] or "")
                for example, mine, theirs in rows
            ]
        metric = trials.setup.scored
        goodness = [[self._good(trials, row["stats"][metric.name]) for row in pair] for _, *pair in rows]
        return [max(0.0, theirs - mine) for mine, theirs in goodness]

    def _unlike(self, trials: Trials, example: Example, output: str, full: str) -> float:
        if output == full:  # also where both are empty, which metrics call a miss
            return 0.0
        stats = trials.setup.scored.example(output, replace(example, references=(full,)))
        return 1.0 - self._good(trials, stats)

    def _good(self, trials: Trials, stats: Sequence[float]) -> float:
        """A metric of one example as a number from 0 (bad) to 1 (good)."""
        metric = trials.setup.scored
        value = float(metric.combine(np.asarray(stats, dtype=np.float64))) / 100
        if not np.isfinite(value):
            raise BadInput(f"metric: {metric.name} has no value for single examples of this task; choose another")
        return min(max(value if metric.better == "higher" else 1.0 - value, 0.0), 1.0)


def calibrate(
    spec: str,
    setup: Setup,
    goals: Sequence[Goal],
    *,
    tried: Sequence[str] = (),
    limit: int | None = None,
    splits: int = 0,
    draws: int = 2000,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[Json]:
    """Calibrate on validation data, look at the promise on test data; one record per goal, outputs shared among them.

    Args:
        spec: method with the parameters that stay fixed, e.g. `calm(confidence=state)`.
        setup: model, task, metric, conditions.
        goals: promises, each calibrated on its own.
        tried: see `settings_of`.
        limit: first so many examples of each split.
        splits: also check the promise on so many random 80/20 splits of validation and test data together, and on `draws`
            samples of them with replacement; 0: not.
        draws: see there.
        seed: of the splits and draws.
        say: told what happens, a line each.

    Returns:
        Artefacts as `harness.suites.artefact.write` takes them. Where not even the most cautious setting passes, the parameters are
        those of full depth.
    """
    settings, full, depth = settings_of(spec, setup.model, tried, setup.device, setup.dtype)
    validation = Trials(setup, settings, "validation", limit)
    test = Trials(replace(setup, expected_tokens=validation.expected_tokens), settings, "test", limit)
    by_kind = {kind: Losses([validation], kind) for kind in CONSISTENCIES}
    held_out = {kind: Losses([test], kind) for kind in CONSISTENCIES}
    pooled = {kind: Losses([validation, test], kind) for kind in CONSISTENCIES}
    records = []
    for goal in goals:
        kind = goal.consistency
        say(f"{spec}: {kind} consistency of {setup.metric}, delta {goal.delta:g}, epsilon {goal.epsilon:g}")
        tested = ltt.fixed_sequence(by_kind[kind], len(settings), goal.delta, goal.epsilon)
        for setting, found in zip(validation.names, tested, strict=False):
            word = "kept" if found.rejected else "not shown, stop"
            say(f"  {setting}: mean loss {found.risk:.4f} over {found.n}, p = {found.p_value:.3g}: {word}")
        place = ltt.chosen(tested)
        record: Json = {
            "kind": "calibration",
            "method": outside.absolute((full if place is None else settings[place]).called),
            "parameters": full.given if place is None else shown_parameters(settings)[place],
            "checkpoint": setup.model,
            "goal": {**asdict(goal), "metric": setup.metric},
            "procedure": "Learn then Test: fixed sequence, Hoeffding-Bentkus p-values",
            "data": validation.data(),
            "depth": depth,
            "expected_tokens": validation.expected_tokens,
            "conditions": setup.plain(),
            "trace": [
                {"setting": s, **asdict(t), "layers_per_token": validation.quality(i)["layers_per_token"]}
                for i, (s, t) in enumerate(zip(validation.names, tested, strict=False))
            ],
            "held_out": _held_out(test, held_out[kind], place, goal),
        }
        if splits:
            record["check"] = _check(pooled[kind], validation.names, goal, splits, draws, seed)
            _tell(record["check"], goal, say)
        record["finding"] = _finding(record, validation.names, place)
        say(f"  {record['finding']}")
        records.append(record)
    shared: Json = {
        "cost": dict(validation.cost),
        "total_cost": add_costs([validation.cost, test.cost]),
        "cost_shared_by": len(goals),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment.fingerprint(),
    }
    return [{**record, **shared} for record in records]


def goal_of(promise: str, epsilon: float) -> Goal:
    """The goal that `kind:delta` stands for, as in `textual:0.1`."""
    kind, colon, delta = promise.partition(":")
    try:
        value = float(delta)
    except ValueError:
        colon = ""
    if not colon:
        raise BadInput(f"promise: {promise!r} cannot be read; write textual:0.1 or risk:0.05")
    return Goal(value, epsilon, kind.strip())


def _held_out(test: Trials, losses: Losses, place: int | None, goal: Goal) -> Json:
    """The chosen setting on data it was not chosen on: mean loss with its interval, layers."""
    if place is None:
        full = test.quality(None)
        return {
            "data": test.data(),
            "risk": 0.0,
            "low": None,
            "high": None,
            "layers_per_token": full["layers_per_token"],
        }
    values = losses(place)
    interval = bootstrap_metric(np.stack([values, np.ones_like(values)], axis=1), lambda t: t[..., 0] / t[..., 1])
    return {
        "data": test.data(),
        "risk": interval.value,
        "low": interval.low if interval.known else None,
        "high": interval.high if interval.known else None,
        "within_delta": interval.value <= goal.delta,
        "layers_per_token": test.quality(place)["layers_per_token"],
    }


def _check(losses: Losses, names: Sequence[str], goal: Goal, splits: int, draws: int, seed: int) -> Json:
    """The promise put to the test on the pooled splits, see `harness.stats.ltt`."""
    count = len(names)
    parts = ltt.split_check(losses, count, goal.delta, goal.epsilon, splits, seed=seed)
    drawn = ltt.draw_check(losses, count, goal.delta, goal.epsilon, draws, seed=seed)
    broken = sum(draw.pool_risk > goal.delta for draw in drawn)
    low, high = ltt.share_interval(broken, len(drawn))
    # Of settings the sequence never reached nothing is known, and nothing was spent on them.
    reached = [i for i in range(count) if i in losses._known]
    return {
        "pool": [trials.data() for trials in losses.trials],
        "examples": int(losses(0).size),
        "seed": seed,
        "pool_risk": {names[i]: float(losses(i).mean()) for i in reached},
        "splits": {
            "share": 0.8,
            "n": len(parts),
            "test_risk_above_delta": sum((part.test_risk or 0.0) > goal.delta for part in parts),
            "pool_risk_above_delta": sum(part.pool_risk > goal.delta for part in parts),
            "mean_test_risk": float(np.mean([part.test_risk or 0.0 for part in parts])),
            "largest_test_risk": max(part.test_risk or 0.0 for part in parts),
            "chosen": _counts(parts, names),
            "each": [[part.chosen, part.calibration_risk, part.test_risk] for part in parts],
        },
        "draws": {
            "n": len(drawn),
            "size": int(losses(0).size),
            "risk_above_delta": broken,
            "share": broken / len(drawn),
            "share_low": low,
            "share_high": high,
            "promised_share": goal.epsilon,
            "chosen": _counts(drawn, names),
        },
        "holds": low <= goal.epsilon,
    }


def _counts(drawn: Sequence[ltt.Drawn], names: Sequence[str]) -> dict[str, int]:
    places = [draw.chosen for draw in drawn]
    found = {names[i]: places.count(i) for i in sorted({p for p in places if p is not None})}
    return ({"full depth": places.count(None)} if None in places else {}) | found


def _tell(check: Json, goal: Goal, say: Callable[[str], None]) -> None:
    parts, drawn = check["splits"], check["draws"]
    say(
        f"  {parts['n']} splits of {check['examples']} examples: test part above delta in {parts['test_risk_above_delta']}, "
        f"all data in {parts['pool_risk_above_delta']}; mean test loss {parts['mean_test_risk']:.4f}"
    )
    say(
        f"  {drawn['n']} samples with replacement: above delta in {100 * drawn['share']:.1f} % "
        f"[{100 * drawn['share_low']:.1f}, {100 * drawn['share_high']:.1f}], promised at most {100 * goal.epsilon:g} %"
    )


def _finding(record: Json, names: Sequence[str], place: int | None) -> str:
    held = record["held_out"]
    layers = f"{held['layers_per_token']:.1f} of {record['depth']} layers per token on the test split"
    if place is None:
        return f"no setting is shown to keep the promise, so the choice is full depth: {layers}"
    ends = "" if held["low"] is None else f" [{held['low']:.4f}, {held['high']:.4f}]"
    return f"chosen {names[place]}: {layers}, mean loss there {held['risk']:.4f}{ends}"
