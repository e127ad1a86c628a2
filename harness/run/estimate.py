"""How long the rest of a run will take: from the full model's step, timed beforehand, and from the jobs that are done.

A job starts a process and decodes: its seconds are a start and so many steps at the pace of the full model, times what jobs of its
kind took over that so far. Jobs like it (same kind and batch size, same task) say more than its kind, its kind more than the pace
alone. lm-eval spends most of a task outside the decoder: its tasks are taken to last as long as those before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.measure.turns import of_base
from harness.records.arms import Contest
from harness.suites.entries import TaskEntry
from harness.suites.suite import Suite

_EXAMPLES = 500
"""Examples that a task without a limit is taken to have."""
_PROMPT = 48
"""Tokens of a prompt where the suite does not say, and of an output of a task."""
_BESIDE = 16
"""Rows that make a step cost as much again as one row does, where it was not timed."""
_MANY = 64
_TOGETHER = 0.5
"""What a token of a prompt costs, of its share of a step of many rows: all tokens of a prompt are computed together."""


class Pace:
    """What a step of the full model takes, by the rows decoded together, and a token of a prompt.

    Args:
        step_s: seconds of a step by number of rows; one at least.
        timed: they were measured; else they say only how steps relate.
    """

    def __init__(self, step_s: Mapping[int, float], *, timed: bool = True) -> None:
        self._points, self.timed = sorted(step_s.items()), timed
        self.token_s = _TOGETHER * min(seconds / rows for rows, seconds in self._points)

    @classmethod
    def of_one_row(cls, seconds: float = 1.0, *, timed: bool = False) -> Pace:
        """The pace where a step of one row takes `seconds`, and every sixteen further rows as long again."""
        return cls({rows: seconds * (1 + rows / _BESIDE) for rows in (1, _MANY)}, timed=timed)

    @classmethod
    def measured(cls, contests: Sequence[Contest]) -> Pace:
        """The pace that was found when the kernels were timed; where they were not, that of `of_one_row`."""
        chosen = {one["rows"]: one["native_s"] if one["chosen"] == "native" else one.get("torch_s") for one in contests}
        found = {rows: min(seconds) for rows, seconds in chosen.items() if seconds}
        return cls(found) if found else cls.of_one_row()

    def step_s(self, rows: int) -> float:
        """Seconds of a step of so many rows: on the line through the two measured numbers of rows around it."""
        at = next((i for i, (known, _) in enumerate(self._points) if rows <= known), len(self._points) - 1)
        (a, low), (b, high) = self._points[max(at - 1, 0)], self._points[max(at, min(1, len(self._points) - 1))]
        return low if a == b else max(low + (rows - a) * (high - low) / (b - a), low * min(rows / a, 1.0))


@dataclass(frozen=True)
class Work:
    """A job's share of a run.

    Attributes:
        kind: quality, lm_eval, speed, join, memory or energy.
        batch: rows of a step.
        steps: decode steps, roughly.
        cells: how many cells it makes.
        prompts: tokens of prompts, of all rows, roughly.
        window_s: seconds it lasts at least.
        task: what is scored.
    """

    kind: str
    batch: int
    steps: float
    cells: int = 1
    prompts: float = 0.0
    window_s: float = 0.0
    task: str = ""

    def seconds(self, pace: Pace) -> float:
        """What it takes at the pace of the full model, once its process has started."""
        return self.window_s + self.steps * pace.step_s(max(self.batch, 1)) + self.prompts * pace.token_s


def scored(suite: Suite, entry: TaskEntry) -> Work:
    """The work of scoring one arm on a task."""
    examples, rows = entry.limit or _EXAMPLES, suite.quality_batch_size
    if entry.is_lm_eval:
        return Work("lm_eval", rows, 0.0, prompts=examples * _PROMPT, task=entry.name)
    steps = math.ceil(examples / rows) * min(suite.max_new_tokens or _PROMPT, _PROMPT)
    return Work("quality", rows, steps, prompts=examples * _PROMPT, task=entry.name)


def work(suite: Suite, kind: str, batch: int, arms: int) -> Work:
    """The work of one job that is no scoring."""
    prompts = batch * (suite.prompt_tokens or _PROMPT)
    if kind == "speed":
        timed = suite.repeats * (arms - 1 + of_base(arms - 1))
        passes = arms * ((suite.warmup + 1) * suite.prompt_sets + 1) + timed + suite.repeats + 12
        return Work(kind, batch, passes * suite.new_tokens, 0, passes * prompts)
    if kind == "join":
        return Work(kind, batch, 0.0, arms)
    passes = 2 if kind == "memory" else 1
    window_s = (suite.energy_window_s or _WINDOW_S) if kind == "energy" else 0.0
    return Work(kind, batch, passes * suite.new_tokens, prompts=passes * prompts, window_s=window_s)


_WINDOW_S = 5.0
"""Of an energy cell, where the suite leaves it to the counter."""


class Estimate:
    """What jobs will take, the ones that are done in mind.

    Args:
        pace: of the full model.
        prepared_s: seconds that the first process took, which starts, loads the weights and checks everything.
    """

    def __init__(self, pace: Pace, prepared_s: float) -> None:
        self._pace, self._start_s = pace, _OF_PREPARING * prepared_s
        self._done: list[tuple[Work, float]] = []

    def end(self, done: Work, took_s: float) -> None:
        """A job is over."""
        if done.kind != "join":
            self._done.append((done, took_s))
            self._start_s = min(self._start_s, _START * took_s)

    @property
    def begun(self) -> bool:
        """Whether anything is known."""
        return self._pace.timed or bool(self._done)

    def seconds(self, one: Work) -> float:
        """Estimated seconds of a job that is still to be done."""
        if one.kind == "join":
            return 0.0
        kind = [(done, took) for done, took in self._done if done.kind == one.kind]
        alike = [(done, took) for done, took in kind if (done.batch, done.task) == (one.batch, one.task)]
        known = alike or kind
        if known and (alike or one.kind == "lm_eval"):
            return sum(took for _, took in known) / len(known)
        alone = one.seconds(self._pace)
        if known and self._pace.timed and one.kind in _MOSTLY_START:
            begun = [took - done.seconds(self._pace) for done, took in known]
            return max(sum(begun) / len(begun), self._start_s) + alone
        if not known and not self._pace.timed:
            known = self._done
        expected = sum(done.seconds(self._pace) for done, _ in known)
        spent = sum(max(took - self._start_s, 0.1 * took) for _, took in known)
        if self._pace.timed:  # what a few short jobs took over the pace says little of a long one
            expected, spent = expected + alone, spent + alone
        return self._start_s + (alone * spent / expected if expected else alone)


_MOSTLY_START = ("memory", "energy")
"""Jobs that decode for a shorter time than they take to begin."""
_OF_PREPARING, _START = 0.25, 0.4
"""How much a start is taken to be of the first process, and at most of the shortest job."""
