"""Settings of a method at given executed budgets, chosen on validation data: what puts methods at equal budgets into one table.

A budget is the share of the blocks' weight bytes that a generated token runs, counted by the engine on the validation outputs
(`harness.measure.probes.layers.executed_share`). Of the settings within two points of it (half a block, where
that is more: sets of whole blocks come no nearer) the one that scores best is chosen. Where there is none, numbers between those of
two settings on either side of it are tried, halving `MOST_HALVED` times at most; where that does not help, nothing is chosen, and
the artefact says what came nearest. All budgets share the trials and stand in one artefact.

    depthbench tune calm --budget 0.75 --budget 0.5 --model opt-e2e-mini/calm-700 --task e2e --data DIR --out calm.json

A suite takes one of them by `{tuned: calm.json, at: 0.5}`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from harness import outside
from harness.errors import BadInput
from harness.machine import environment
from harness.method import Method
from harness.tune.cost import add_costs
from harness.tune.trials import Setup, Trials, settings_of, shown_parameters
from harness.tune.tries import Try, interval_plain, line, score, value_of

Json = dict[str, Any]

TOLERANCE = 0.02
"""Farther from the budget a setting does not stand for it, unless half a block is more."""

MOST_HALVED = 8
"""Settings tried for one budget between two others at most."""


def check(budgets: Sequence[float]) -> None:
    """BadInput for a budget that no setting can have, or one given twice."""
    for budget in budgets:
        if not 0 < budget <= 1:
            raise BadInput(f"budget: {budget:g} is out of range; a share above 0 and up to 1, such as 0.5")
    if len(set(budgets)) < len(budgets):
        raise BadInput("budget: one is given twice; give each once")


def at_budgets(
    spec: str,
    setup: Setup,
    budgets: Sequence[float],
    *,
    tried: Sequence[str] = (),
    limit: int | None = None,
    test_limit: int | None = None,
    say: Callable[[str], None] = print,
) -> Json:
    """Choose a method's parameters for each budget.

    Args:
        spec: method with the parameters that stay fixed.
        setup: model, task, metric, conditions; nothing is timed.
        budgets: shares, above 0 and up to 1.
        tried: see `settings_of`.
        limit: first so many validation examples.
        test_limit: first so many test examples.
        say: told what happens, a line each.

    Returns:
        The artefact. Of its `choices`, one for each budget, `parameters` are None where no setting comes near, and `finding` says
        how near one came.
    """
    check(budgets)
    settings, _, depth = settings_of(spec, setup.model, tried, setup.device, setup.dtype)
    trials = Trials(setup, settings, "validation", limit)
    tries = [Try(name) for name in trials.names]
    shares = ", ".join(f"{100 * budget:g} %" for budget in budgets)
    say(
        f"{spec} on {setup.task} validation ({len(trials.examples)} examples), {len(tries)} settings: {shares} of the blocks"
    )
    for number, one in enumerate(tries):
        score(trials, number, one, depth)
        say(f"  {one.name}: {line(one, setup.metric)}")
    for budget in budgets:
        for _, places in sorted(_alike(trials.settings).items()):
            _halve(trials, tries, places, budget, depth, say)
    found = [choose(tries, budget, depth, setup.scored.better) for budget in budgets]
    test = Trials(replace(setup, expected_tokens=trials.expected_tokens), trials.settings, "test", test_limit)
    choices: list[Json] = []
    for budget, place in zip(budgets, found, strict=True):
        choice: Json = {"budget": budget, "parameters": None, "held_out": None, "finding": _missed(tries, budget)}
        if place is not None:
            held = Try(trials.names[place])
            score(test, place, held, depth)
            choice["parameters"] = shown_parameters(trials.settings)[place]
            choice["held_out"] = {"data": test.data(), **held.plain()}
            choice["finding"] = (
                f"chosen {held.name} for {100 * budget:g} %; on the test split {line(held, setup.metric)}"
            )
        say(f"  {choice['finding']}")
        choices.append(choice)
    return {
        "kind": "budgets",
        "method": outside.absolute(settings[0].called),
        "choices": choices,
        "checkpoint": setup.model,
        "goal": {"metric": setup.metric},
        "data": trials.data(),
        "depth": depth,
        "expected_tokens": trials.expected_tokens,
        "conditions": setup.plain(),
        "full_score": interval_plain(value_of(setup, trials.quality(None))),
        "trace": [one.plain() for one in tries],
        "cost": dict(trials.cost),
        "total_cost": add_costs([trials.cost, test.cost]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment.fingerprint(),
    }


def choose(tries: Sequence[Try], budget: float, depth: int, better: str) -> int | None:
    """Place of the setting that stands for a budget, see the module's docstring; None where none comes near."""
    away = {
        place: abs(one.executed_share - budget) for place, one in enumerate(tries) if one.executed_share is not None
    }
    sign = 1.0 if better == "higher" else -1.0
    close = [place for place, distance in away.items() if distance <= _near(depth)]
    return max(close, key=lambda place: (sign * _value(tries[place]), -away[place], -place), default=None)


def _near(depth: int) -> float:
    return max(TOLERANCE, 0.5 / depth) + 1e-9


def _varied(settings: Sequence[Method]) -> str | None:
    """The number with a fraction in which settings differ; None where there is none, or more than one."""
    held = {name: [one.params[name] for one in settings] for name in settings[0].params}
    numbers = [
        name
        for name, values in held.items()
        if len(set(map(repr, values))) > 1
        and any(isinstance(value, float) for value in values)
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    ]
    return numbers[0] if len(numbers) == 1 else None


def _alike(settings: Sequence[Method]) -> dict[str, list[int]]:
    """Places of the settings that differ in that number alone, by what they share."""
    varied, found = _varied(settings), dict[str, list[int]]()
    for place, one in enumerate(settings if varied else ()):
        found.setdefault(repr({k: v for k, v in one.params.items() if k != varied}), []).append(place)
    return found


def _halve(
    trials: Trials, tries: list[Try], places: list[int], budget: float, depth: int, say: Callable[[str], None]
) -> None:
    """Try numbers between those of two settings, one above the budget and one below it, until one is near."""
    varied = _varied(trials.settings)
    assert varied is not None, "settings that are alike differ in a number"
    for _ in range(MOST_HALVED):
        known = [
            (share, trials.settings[place]) for place in places if (share := tries[place].executed_share) is not None
        ]
        above = [one for one in known if one[0] > budget]
        below = [one for one in known if one[0] <= budget]
        if not above or not below or min(abs(share - budget) for share, _ in known) <= _near(depth):
            return
        # Of settings that execute the same those whose numbers are closest: what lies between others may be known.
        pairs = itertools.product(above, below)
        a, b = min(pairs, key=lambda p: (p[0][0] - p[1][0], abs(p[0][1].params[varied] - p[1][1].params[varied])))
        between = float(f"{(a[1].params[varied] + b[1].params[varied]) / 2:.6g}")
        if between in {one.params[varied] for _, one in known}:
            return
        place = trials.add(replace(b[1], **{varied: between}))
        places.append(place)
        tries.append(Try(trials.names[place]))
        score(trials, place, tries[-1], depth)
        say(f"  {tries[-1].name}: {line(tries[-1], trials.setup.metric)}")


def _value(one: Try) -> float:
    return one.score.value if one.score is not None else float("-inf")


def _missed(tries: Sequence[Try], budget: float) -> str:
    known = [(abs(one.executed_share - budget), one) for one in tries if one.executed_share is not None]
    if not known:
        return f"no setting is near {100 * budget:g} %: none could be counted"
    _, one = min(known, key=lambda pair: pair[0])
    return (
        f"no setting is near {100 * budget:g} %; the nearest is {one.name} with {100 * (one.executed_share or 0):.0f} %"
    )
