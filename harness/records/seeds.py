"""Two runs that differ in a seed alone: which differences from the full model are larger than what the seed does. Torch-free.

How far a score moves from one seed to another is taken from all arms together: with changes d_i of k arms, the variance of one
score between seeds is the mean of d_i^2 / 2. A difference of an arm from the full model, as the mean of both runs, then has that
variance too (two scores, two seeds each), and its interval is that of Student's t. Arms on the same weights move together, so the
degrees of freedom are the different checkpoints, not the arms. Left out are tasks that the full model cannot do, arms that generate
what the full model does (exact on its weights), and arms whose weights are the same in both runs while others were trained anew:
that they did not move says nothing about a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import measures, readings, standing
from harness.records.run import Run
from harness.stats import paired

MAY_DIFFER = ("seed", "model", "prompts_hash")
"""Conditions that another seed may change: what is drawn, and the name of weights trained with it."""

LARGER, WITHIN, STILL = "larger than the seed's", "within the seed's", "the seed changes nothing"


@dataclass(frozen=True)
class Beside:
    """An arm's difference from the full model beside what the seed does.

    Attributes:
        label: of the arm.
        metric: `task/metric`.
        before: difference in the first run, in the metric's own points.
        after: in the second.
        half: half of the 95 % interval around their mean that the seed explains.
        verdict: LARGER, WITHIN, or STILL where no score moved at all.
    """

    label: str
    metric: str
    before: float
    after: float
    half: float
    verdict: str

    @property
    def mean(self) -> float:
        """Of both runs."""
        return (self.before + self.after) / 2


def beside_seed(before: Run, after: Run) -> list[Beside]:
    """Return every arm's differences from the full model beside what the seed does, metric by metric."""
    silent = {task for run in (before, after) for task, why in standing.of_run(run).items() if why}
    tables = [_scores(run) for run in (before, after)]
    full = [None if run.full is None else str(run.full["label"]) for run in (before, after)]
    if None in full or full[0] != full[1]:
        return []
    base = str(full[0])
    weights, anew = _weights(before), _weights(after)
    exact = {str(arm["label"]) for arm in before.arms if arm.get("exact")}
    as_full = {name for name in exact if weights[name] == weights[base]} - {base}
    same = {name for name, digest in weights.items() if anew.get(name) == digest}
    left_out = as_full | (same if {*weights} & {*anew} - same else set())
    found: list[Beside] = []
    for metric in tables[0]:
        ours, theirs = tables[0][metric], tables[1].get(metric, {})
        labels = [name for name in ours if name in theirs and name not in left_out]
        if metric.rpartition("/")[0] in silent or base not in ours or base not in theirs or {*labels} <= {base}:
            continue
        changes = [theirs[name] - ours[name] for name in labels]
        spread = math.sqrt(sum(change * change for change in changes) / 2 / len(changes))
        half = paired.student(len({weights.get(name) for name in labels}), 0.95) * spread
        for name in (one for one in labels if one != base):
            gaps = ours[name] - ours[base], theirs[name] - theirs[base]
            shown = LARGER if abs(sum(gaps) / 2) > half else WITHIN
            found.append(Beside(name, metric, *gaps, half, shown if spread else STILL))
    return found


def _weights(run: Run) -> dict[str, str]:
    """Label -> digest of the arm's weights; of a record without digests what its checkpoint is called."""
    return {str(arm["label"]): str(arm.get("weights") or arm.get("checkpoint")) for arm in run.arms}


def _scores(run: Run) -> dict[str, dict[str, float]]:
    """Every score of a run: `task/metric` -> label -> value; agreement with the full model is none."""
    found: dict[str, dict[str, float]] = {}
    for cell in run.quality:
        examples = {str(example["id"]): example for example in cell.get("examples") or []}
        for name in dict.fromkeys(name for example in examples.values() for name in example.get("stats") or {}):
            how, rows = readings.reading(name), measures.statistics_of(examples, examples, name)
            if how is None or rows is None or name == readings.AGREEMENT:
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                value = measures.real(float(how.combine(np.asarray(rows, dtype=np.float64).sum(0))))
            if value is not None:
                found.setdefault(f"{cell['task']}/{name}", {})[str(cell["arm"]["label"])] = value
    return found


def table(found: Sequence[Beside]) -> list[tuple[str, ...]]:
    """The rows as text, the header first."""
    rows: list[tuple[str, ...]] = [("label", "what", "from full, before", "after", "seed's share [95 %]", "verdict")]
    for one in found:
        values = (f"{one.before:+.2f}", f"{one.after:+.2f}", f"+-{one.half:.2f}")
        rows.append((one.label, one.metric, *values, one.verdict))
    return rows
