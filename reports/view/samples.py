"""Texts side by side: the examples that changed most against the full model, and some drawn with a fixed seed."""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence

import numpy as np

from harness.records.fields import Example
from reports.facts import judge
from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.facts.metrics import MetricInfo
from reports.facts.scores import statistics
from reports.text import MISSING, clean, fixed, label
from reports.view.cells import swatch
from reports.view.parts import Output, Sample

CHANGED_MOST = 3
AT_RANDOM = 2
OUTPUT_LIMIT = 1200
WORD_LIMIT = 80
REFERENCES = 3


def choose(facts: Facts, task: str) -> tuple[Sample, ...]:
    """Return the samples of one task; empty where no arm has examples."""
    by_arm = {arm: facts.examples[arm.label, task] for arm in facts.arms if (arm.label, task) in facts.examples}
    if not by_arm:
        return ()
    full = facts.baseline if facts.baseline in by_arm else None
    ids = list(by_arm[full] if full else next(iter(by_arm.values())))
    metrics = [m for m in facts.tasks[task] if m.name != "agreement"]
    lead = next((m for m in metrics if m.name == "rougeL"), metrics[0] if metrics else None)
    change = _change(facts, task, ids, lead) if full and lead else {}
    most = sorted(change, key=lambda i: (-change[i][0], ids.index(i)))[:CHANGED_MOST]
    rest = [i for i in ids if i not in most]
    drawn = random.Random(0).sample(rest, min(AT_RANDOM, len(rest)))
    titles = [f"changed most, under {change[i][1].short}" for i in most] + ["drawn at random"] * len(drawn)
    return tuple(_sample(facts, task, i, title, metrics) for i, title in zip([*most, *drawn], titles, strict=True))


def _change(facts: Facts, task: str, ids: Sequence[str], metric: MetricInfo) -> dict[str, tuple[float, Arm]]:
    """How far each example moved, and under which arm; arms that lose quality only count where there is no other."""
    full = facts.baseline
    others = [arm for arm in facts.others if (arm.label, task) in facts.examples]
    contenders = [arm for arm in others if (seen := judge.arm(facts, arm)) and seen.state != judge.LOSES] or others
    theirs = _scores(facts.examples[full.label, task], ids, metric) if full else {}
    found: dict[str, tuple[float, Arm]] = {}
    for arm in contenders:
        for i, score in _scores(facts.examples[arm.label, task], ids, metric).items():
            moved = abs(score - theirs.get(i, score))
            if moved > found.get(i, (0.0, arm))[0]:
                found[i] = (moved, arm)
    return found


def _scores(examples: dict[str, Example], ids: Sequence[str], metric: MetricInfo) -> dict[str, float]:
    """The metric's value of each single example."""
    there = [i for i in ids if i in examples]
    stats = statistics(examples, there, metric.name)
    if stats is None:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        values = metric.combine(stats)
    return {i: float(v) for i, v in zip(there, values, strict=True) if np.isfinite(v)}


def _of_arms(shown: dict[str, Example], metric: MetricInfo) -> dict[str, float]:
    """One example's value under each arm; all at once unless one arm's statistics are not to be read."""
    arms = list(shown)
    return _scores(shown, arms, metric) or {k: v for arm in arms for k, v in _scores(shown, [arm], metric).items()}


def _sample(facts: Facts, task: str, ident: str, title: str, metrics: Sequence[MetricInfo]) -> Sample:
    full = facts.baseline
    by_arm = {a: found for a in facts.arms if (found := facts.examples.get((a.label, task), {}).get(ident)) is not None}
    base = by_arm.get(full) if full else None
    scored = [_of_arms({arm.label: example for arm, example in by_arm.items()}, metric) for metric in metrics]
    outputs = []
    for arm, example in by_arm.items():
        scores = [fixed(values.get(arm.label), 0) for values in scored]
        # What an example of a draft method notes is where its tokens end, not what was computed for them.
        layers = MISSING if arm.family == "draft" else fixed(example.get("layers_per_token"), 1)
        scores += [fixed(example.get("tokens"), 0), layers]
        same = base is not None and not arm.baseline and example.get("output") == base.get("output")
        words = compare(
            str(base.get("output", "")) if base and not arm.baseline else None, str(example.get("output", ""))
        )
        outputs.append(Output(arm.short, swatch(arm), words, tuple(scores), same))
    any_one = base or next(iter(by_arm.values()))
    references = [str(r) for r in any_one.get("references") or []]
    shown = [clean(r, OUTPUT_LIMIT) for r in references[:REFERENCES]]
    if len(references) > REFERENCES:
        shown.append(f"and {len(references) - REFERENCES} more")
    names = (*(m.title for m in metrics), "Tokens", "Layers")
    return Sample(
        f"{label(ident)}: {title}",
        clean(str(any_one.get("prompt", "")).strip(), OUTPUT_LIMIT),
        tuple(shown),
        names,
        tuple(outputs),
    )


def compare(base: str | None, text: str) -> tuple[tuple[str, bool], ...]:
    """Return `text` as runs of words with whether they differ from `base`; one unmarked run where there is no base."""
    text = clean(text, OUTPUT_LIMIT)
    if not text.strip():
        return (("(empty)", False),)
    if base is None:
        return ((text, False),)
    words, theirs = text.split(), clean(base, OUTPUT_LIMIT).split()
    if len(words) > 4 * WORD_LIMIT or len(theirs) > 4 * WORD_LIMIT:
        return ((text, False),)
    runs: list[tuple[str, bool]] = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, theirs, words, autojunk=False).get_opcodes():
        if kind == "delete":
            runs.append((MISSING, True))
        elif end > start:
            runs.append((" ".join(words[start:end]), kind != "equal"))
    return tuple(runs)
