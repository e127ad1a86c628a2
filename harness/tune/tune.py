"""Choose a method's parameters on validation data, report what they give on test data.

One goal of two: `target_speedup` (among the settings at least so fast, the one that scores best) or `max_loss` (among those
that lose at most so much of the metric against the full model, the fastest); of drafts, whose tokens are the full model's,
the fastest by `predicted` without either. Fast means, as asked for:

* `time`: realised speed-up, decode time of the full model over the setting's, interleaved and paired, at one batch size;
* `layers`: layer ratio, the model's depth over the blocks a generated token ran. Not a speed: nothing is timed.
* `predicted`: of drafts, the passes their scored outputs took, at the full model's pace (`Trials.predicted`); its step is timed
  once. Outputs are then scored at the batch size that is timed, since rows of a batch wait for each other.

The choice is by the measured values themselves, so on the validation data the chosen setting looks better than it is; the test
data, on which nothing was chosen, say what it is worth. Settings that cannot be chosen any more are not scored, or not timed.

    depthbench tune skipdecode --model opt-e2e-mini/skipdecode-700 --task e2e --data DIR --target-speedup 3 --out sd-3x.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from harness import outside
from harness.errors import BadInput, near
from harness.machine import environment
from harness.stats import intervals as stats
from harness.tune.cost import add_costs
from harness.tune.trials import Setup, Trials, settings_of, shown_parameters
from harness.tune.tries import Try, interval_plain, line, score, value_of

Json = dict[str, Any]
MEASURES = ("time", "layers", "predicted")


@dataclass(frozen=True)
class Goal:
    """What is looked for; one of the first two, and neither with `predicted`.

    Attributes:
        target_speedup: at least so fast.
        max_loss: at most so much worse than the full model, in the metric's own points.
        by: `time`, `layers` or `predicted`.
    """

    target_speedup: float | None = None
    max_loss: float | None = None
    by: str = "time"

    def __post_init__(self) -> None:
        given = (self.target_speedup is not None) + (self.max_loss is not None)
        if self.by == "predicted" and given:
            raise BadInput(
                "tune: --by predicted looks for the fastest draft; leave --target-speedup and --max-loss out"
            )
        if self.by != "predicted" and given != 1:
            raise BadInput("tune: give --target-speedup or --max-loss, one of them (or --by predicted, of a draft)")
        if self.target_speedup is not None and not self.target_speedup >= 1:
            raise BadInput(f"target_speedup: {self.target_speedup:g} is out of range; give 1 or more")
        if self.max_loss is not None and not self.max_loss >= 0:
            raise BadInput(f"max_loss: {self.max_loss:g} is out of range; give 0 or more")
        if self.by not in MEASURES:
            raise BadInput(f"by: {self.by!r} is not known; {near(self.by, MEASURES)}")

    def __str__(self) -> str:
        if self.by == "predicted":
            return "the fastest draft, as predicted"
        unit = "faster in time" if self.by == "time" else "fewer layers"
        if self.target_speedup is not None:
            return f"at least {self.target_speedup:g}x {unit}, best score"
        return f"loss of at most {self.max_loss:g}, {'fastest' if self.by == 'time' else 'fewest layers'}"


def tune(
    spec: str,
    setup: Setup,
    goal: Goal,
    *,
    tried: Sequence[str] = (),
    limit: int | None = None,
    test_limit: int | None = None,
    say: Callable[[str], None] = print,
) -> Json:
    """Choose the parameters of a method.

    Args:
        spec: method with the parameters that stay fixed.
        setup: model, task, metric, conditions.
        goal: what is looked for.
        tried: see `settings_of`.
        limit: first so many validation examples.
        test_limit: first so many test examples.
        say: told what happens, a line each.

    Returns:
        The artefact. Its `parameters` are None where no setting reaches the goal; `finding` says how near one came.
    """
    settings, _, depth = settings_of(spec, setup.model, tried, setup.device, setup.dtype)
    predicted = goal.by == "predicted"
    if predicted and settings[0].family != "draft":
        raise BadInput(f"by: {settings[0].name} drafts nothing, so no pass can be counted; give --by time or layers")
    if predicted:
        setup = replace(setup, quality_batch_size=setup.batch_size)
    trials = Trials(setup, settings, "validation", limit)
    tries = [Try(name) for name in trials.names]
    say(f"{spec} on {setup.task} validation ({len(trials.examples)} examples), {len(tries)} settings: {goal}")
    if goal.by == "time" and goal.target_speedup is not None:
        _time(trials, tries, range(len(tries)))
        _drop(tries, goal)
    for number, one in enumerate(tries):
        if not one.note:
            score(trials, number, one, depth)
            one.predicted = trials.predicted(number) if predicted else None
            say(f"  {one.name}: {line(one, setup.metric)}")
    _drop(tries, goal)
    if goal.by == "time" and goal.max_loss is not None:
        _time(trials, tries, [place for place, one in enumerate(tries) if not one.note])
    best = _choose(tries, goal, setup)
    record: Json = {
        "kind": "tuning",
        "method": outside.absolute(settings[0].called),
        "parameters": None if best is None else shown_parameters(settings)[best],
        "checkpoint": setup.model,
        "goal": {**asdict(goal), "metric": setup.metric},
        "data": trials.data(),
        "depth": depth,
        "expected_tokens": trials.expected_tokens,
        "conditions": setup.plain(),
        "full_score": interval_plain(value_of(setup, trials.quality(None))),
        "trace": [one.plain() for one in tries],
        "held_out": None,
        **({"step_parts_s": trials.step_parts_s} if predicted else {}),
    }
    costs = [trials.cost]
    if best is None:
        record["finding"] = _nearest(tries, goal)
    else:
        same = replace(setup, expected_tokens=trials.expected_tokens)
        test = Trials(same, [settings[best]], "test", test_limit)
        held = Try(trials.names[best])
        if goal.by == "time":
            _time(test, [held], [0])
        score(test, 0, held, depth)
        if predicted:
            test.step_parts_s = trials.step_parts_s  # one pace for both splits
            held.predicted = test.predicted(0)
        record["held_out"] = {
            "data": test.data(),
            "full_score": interval_plain(value_of(setup, test.quality(None))),
            **held.plain(),
        }
        record["held_out"]["verdict"] = _verdict(held, goal)
        record["finding"] = f"chosen {trials.names[best]}; on the test split {line(held, setup.metric)}"
        costs.append(test.cost)
    say(f"  {record['finding']}")
    stamp = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": environment.fingerprint()}
    return {**record, "cost": dict(costs[0]), "total_cost": add_costs(costs), **stamp}


def _time(trials: Trials, tries: Sequence[Try], places: Sequence[int]) -> None:
    trials.time(places)
    for place in places:
        tries[place].speedup = trials.timed[place]


def _drop(tries: Sequence[Try], goal: Goal) -> None:
    """Note of every setting that is known to miss the goal why it is out."""
    for one in tries:
        fast, target = one.fast(goal.by), goal.target_speedup
        if target is not None and fast is not None and fast < target:
            one.note = f"below {target:g}x"
        if goal.max_loss is not None and one.loss is not None and not one.loss.value <= goal.max_loss:
            one.note = f"loses more than {goal.max_loss:g}"


def _choose(tries: Sequence[Try], goal: Goal, setup: Setup) -> int | None:
    """Place of the best setting: by score (then speed) for a target speed-up, by speed (then score) for a largest loss."""
    better = 1.0 if setup.scored.better == "higher" else -1.0
    found = []
    for place, one in enumerate(tries):
        fast = one.fast(goal.by)
        if one.note or one.score is None or fast is None:
            continue
        rank = (better * one.score.value, fast)
        found.append((rank if goal.target_speedup is not None else rank[::-1], -place))
    return -max(found)[1] if found else None


def _nearest(tries: Sequence[Try], goal: Goal) -> str:
    if goal.target_speedup is not None:
        known = [(fast, one.name) for one in tries if (fast := one.fast(goal.by)) is not None]
        if known:
            fast, setting = max(known)
            return f"no setting reaches {goal.target_speedup:g}x; the nearest is {setting} with {fast:.2f}x"
        return f"no setting reaches {goal.target_speedup:g}x"
    losses = [(one.loss.value, one.name) for one in tries if one.loss is not None]
    loss, setting = min(losses)
    return f"no setting loses at most {goal.max_loss:g}; the nearest is {setting} with a loss of {loss:.2f}"


def _verdict(held: Try, goal: Goal) -> str:
    """Whether the goal holds on the test split: the interval decides where there is one."""
    if goal.by == "predicted":
        return "nothing was promised"
    if goal.max_loss is not None:
        assert held.loss is not None
        if held.loss.n < stats.MIN_EXAMPLES or not held.loss.known:
            return "inconclusive"
        if held.loss.high <= goal.max_loss:
            return "goal kept"
        return "goal missed" if held.loss.low > goal.max_loss else "inconclusive"
    assert goal.target_speedup is not None
    if goal.by == "layers":
        return "goal kept" if (held.layer_ratio or 0.0) >= goal.target_speedup else "goal missed"
    if held.speedup is None or not held.speedup.known or held.speedup.n < stats.MIN_PAIRS:
        return "inconclusive"
    if held.speedup.low >= goal.target_speedup:
        return "goal kept"
    return "goal missed" if held.speedup.high < goal.target_speedup else "inconclusive"
