"""`depthbench compare --fail-if`: rules about the changes between two runs, such as `speedup drop > 5%`. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import BadInput
from harness.records.standing import UNINFORMATIVE
from harness.stats.intervals import Interval

SPEEDUP, TPOT = "speedup", "tpot"

_RULE = re.compile(r"\s*([\w./-]+)\s+(drop|rise)\s*>\s*(\d+(?:\.\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Change:
    """One quantity of one arm in both runs.

    Attributes:
        label: the arm.
        where: batch size, or task.
        metric: speedup, tpot, or `task/metric`.
        before: value in the first run.
        after: value in the second one.
        effect: after over before for speeds and times, after minus before for scores; with its interval.
        relative: whether `effect` is a ratio.
        verdict: faster, slower, better, worse, no difference, ambiguous, or uninformative (the full model cannot do the task).
    """

    label: str
    where: str
    metric: str
    before: float
    after: float
    effect: Interval
    relative: bool
    verdict: str

    @property
    def name(self) -> str:
        """Arm, place and metric in words."""
        return f"{self.label}, {self.where}: {self.metric}"


@dataclass(frozen=True)
class Refusal:
    """A cell of the first run that has no like in the second: its kind (speed, quality), arm, batch or task, and why."""

    kind: str
    label: str
    where: str
    why: str


@dataclass(frozen=True)
class Rule:
    """`metric drop > amount`: fails where such a change is shown, by interval and by size."""

    text: str
    metric: str
    falls: bool
    amount: float
    percent: bool

    def concerns(self, change: Change) -> bool:
        """Whether the rule speaks of this quantity; `bleu` means that metric on every task."""
        return self.metric in (change.metric, change.metric.rpartition("/")[2])

    def holds(self, change: Change) -> bool:
        """Whether the change is larger than the amount and its interval excludes no change."""
        if change.verdict == UNINFORMATIVE:
            return False
        value, low, high = change.effect.value, change.effect.low, change.effect.high
        if change.relative:
            value, low, high = value - 1, low - 1, high - 1
        elif self.percent:
            if not change.before:
                return False
            value, low, high = (x / abs(change.before) for x in (value, low, high))
        sign = -1 if self.falls else 1
        amount = self.amount / 100 if self.percent else self.amount
        return sign * value > amount and change.effect.known and (high < 0 if self.falls else low > 0)


def rule(text: str) -> Rule:
    """The rule that a text says; BadInput where it cannot be read."""
    found = _RULE.fullmatch(text)
    if not found:
        raise BadInput(f'fail-if: {text!r} cannot be read; write e.g. "speedup drop > 5%" or "bleu drop > 1"')
    metric, way, amount, percent = found.groups()
    if metric in (SPEEDUP, TPOT) and not percent:
        raise BadInput(f"fail-if: {text!r}: {metric} is compared as a ratio; give the amount in percent, as in > 5%")
    return Rule(text.strip(), metric, way == "drop", float(amount), bool(percent))


def broken(rules: Sequence[Rule], changes: Sequence[Change], refused: Sequence[Refusal]) -> list[str]:
    """The rules that hold, one line each; BadInput for one that speaks of nothing both runs measured."""
    found = []
    for each in rules:
        mine = [change for change in changes if each.concerns(change)]
        kind = "speed" if each.metric in (SPEEDUP, TPOT) else "quality"
        lost = [refusal for refusal in refused if refusal.kind == kind]
        if not mine and not lost:
            known = ", ".join(dict.fromkeys(change.metric for change in changes)) or "nothing"
            raise BadInput(f"fail-if: {each.text!r}: no {each.metric!r} in both runs; compared are {known}")
        found += [f"{each.text}: {change.name} {_said(change)}" for change in mine if each.holds(change)]
        # A cell that is gone must not pass as one that did not get worse.
        found += [f"{each.text}: cannot be told: {line}" for line in grouped(lost)]
    return found


def grouped(refused: Sequence[Refusal]) -> list[str]:
    """What could not be compared, cells of one reason in one line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in refused:
        groups.setdefault((one.kind, one.where, one.why), []).append(one.label)
    return [f"{kind}, {where}, {_listed(labels)}: {why}" for (kind, where, why), labels in groups.items()]


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} arms ({labels[0]}, ...)"


def _said(change: Change) -> str:
    return f"{change.before:.4g} to {change.after:.4g}"
