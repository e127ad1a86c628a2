"""The answer in two sentences, drawn from the verdicts and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from harness.stats import intervals
from reports.facts.facts import Arm, Facts
from reports.facts.metrics import MetricInfo
from reports.text import counted, fixed, label, listed, signed, span

KEEPS, LOSES = "keeps quality", "loses quality"
LOSSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Losses a reader may accept, in points of a task's first metric."""


def sentences(facts: Facts) -> tuple[str, ...]:
    """Return the answer: what the best arm gives, then how the others fare."""
    full = facts.baseline
    if full is None:
        return (
            "This run holds no full model, so no arm can be compared; the tables give what "
            "each arm measured on its own.",
        )
    if not facts.others:
        return (f"This run holds the full model alone{_alone(facts, full)}.", "There is nothing to compare it with.")
    if not facts.tasks and not facts.speed:
        return (
            "No cell of this run succeeded, so there is nothing to answer with; the failed cells are listed below.",
        )
    if not facts.tasks:
        return (_speed_only(facts), "No quality was measured in this run, so nothing here says what the speed costs.")
    if facts.headline_batch is None:
        return (_quality_only(facts), "No speed was measured in this run, so nothing here says what the loss buys.")
    best = best_choice(facts)
    return (_best(facts, best) if best else _none(facts), _rest(facts, best))


def quality_verdict(facts: Facts, arm: Arm) -> str:
    """The verdict over all tasks by their first metric: keeps only if it keeps on each, loses if it loses on one."""
    verdicts = {
        q.verdict
        for task, metrics in facts.tasks.items()
        if (q := facts.quality.get((arm.label, task, metrics[0].name)))
    }
    verdicts.discard("")
    if not verdicts:
        return ""
    if LOSES in verdicts:
        return LOSES
    complete = all((arm.label, task, metrics[0].name) in facts.quality for task, metrics in facts.tasks.items())
    return KEEPS if verdicts == {KEEPS} and complete else "inconclusive"


def best_choice(facts: Facts) -> Arm | None:
    """The fastest arm at the headline batch size that keeps quality on every task; None if there is none."""
    batch = facts.headline_batch
    good = [
        (ratio.value, -arm.order, arm)
        for arm in facts.others
        if (ratio := facts.ratio(arm, batch))
        and _speed_verdict(facts, arm) == "faster"
        and quality_verdict(facts, arm) == KEEPS
    ]
    return max(good)[2] if good else None


def best(facts: Facts, loss: float, batch: int) -> Arm | None:
    """The fastest arm at a batch size that is shown to lose at most `loss` on every task and to be faster than full."""
    found = []
    for arm in facts.others:
        timed, ratio = facts.speed.get((arm.label, batch)), facts.ratio(arm, batch)
        if timed and ratio and timed.verdict == "faster" and _within(facts, arm, loss):
            found.append((ratio.value, -arm.order, arm))
    return max(found)[2] if found else None


def _within(facts: Facts, arm: Arm, loss: float) -> bool:
    for task, metrics in facts.tasks.items():
        quality = facts.quality.get((arm.label, task, metrics[0].name))
        if quality is None or quality.difference is None or not quality.difference.known or not quality.verdict:
            return False
        if quality.difference.n < intervals.MIN_EXAMPLES:
            return False
        gap = quality.difference
        worst = -gap.high if metrics[0].better == "lower" else gap.low
        if worst < -loss:
            return False
    return True


def _speed_verdict(facts: Facts, arm: Arm) -> str:
    batch = facts.headline_batch
    timed = facts.speed.get((arm.label, batch)) if batch is not None else None
    return timed.verdict if timed else ""


def _alone(facts: Facts, full: Arm) -> str:
    parts = []
    for task, metrics in facts.tasks.items():
        if quality := facts.quality.get((full.label, task, metrics[0].name)):
            parts.append(f"{metrics[0].title} {fixed(quality.value.value, 1)} on {label(task)}")
    batch = facts.headline_batch
    timed = facts.speed.get((full.label, batch)) if batch is not None else None
    if timed and (rate := timed.number("tokens_per_s")) is not None:
        parts.append(f"{fixed(rate, 0)} tokens per second at batch size {batch}")
    return f": {listed(parts)}" if parts else ""


def _best(facts: Facts, arm: Arm) -> str:
    batch, ratio = facts.headline_batch, facts.ratio(arm, facts.headline_batch)
    assert ratio is not None
    scores = [text for task, metrics in facts.tasks.items() if (text := _score(facts, arm, task, metrics[0]))]
    interval = span(ratio.low, ratio.high)
    speed = (
        f"decodes {fixed(ratio.value)} times as fast as the full model at batch size {batch} (95% interval {interval})"
    )
    last = facts.batch_sizes[-1]
    more = facts.ratio(arm, last) if last != batch else None
    also = f" and {fixed(more.value)} times at batch size {last}" if more else ""
    margin = fixed(facts.margin, 1)
    return f"{arm.short} {speed}{also} and keeps its quality: {listed(scores, 3)}, within the margin of {margin}."


def _score(facts: Facts, arm: Arm, task: str, metric: MetricInfo) -> str:
    mine = facts.quality.get((arm.label, task, metric.name))
    full = facts.baseline
    theirs = facts.quality.get((full.label, task, metric.name)) if full else None
    if not mine or not theirs or not mine.difference:
        return ""
    gap = mine.difference
    return (
        f"{metric.title} {fixed(mine.value.value, 1)} against {fixed(theirs.value.value, 1)} on {label(task)} "
        f"(difference {signed(gap.value)}, 95% interval {span(gap.low, gap.high, 1, plus=True)})"
    )


def _none(facts: Facts) -> str:
    batch = facts.headline_batch
    keeping = [arm for arm in facts.others if quality_verdict(facts, arm) == KEEPS]
    if keeping:
        return (
            f"No arm is both faster than the full model at batch size {batch} and shown to keep its quality within "
            f"{fixed(facts.margin, 1)}: {_named(keeping)} {'keeps' if len(keeping) == 1 else 'keep'} it "
            "without being shown to be faster."
        )
    margin = fixed(facts.margin, 1)
    return f"No arm is shown to keep the full model's quality within the margin of {margin}{_for_more(facts)}."


def _for_more(facts: Facts) -> str:
    """What the smallest loss above the margin buys for which any arm can be recommended."""
    batch = facts.headline_batch
    for loss in LOSSES if batch is not None else ():
        arm = best(facts, loss, batch) if loss > facts.margin and batch is not None else None
        ratio = facts.ratio(arm, batch) if arm else None
        if arm and ratio:
            return (
                f"; for a loss of at most {loss:g} points the fastest is {arm.short}, {fixed(ratio.value)} times the full "
                f"model's speed at batch size {batch} (95% interval {span(ratio.low, ratio.high)})"
            )
    return ", at whatever speed"


def _rest(facts: Facts, best: Arm | None) -> str:
    batch = facts.headline_batch
    groups: dict[tuple[int, str], list[Arm]] = {}
    for arm in facts.others:
        if arm is best:
            continue
        quality, speed = quality_verdict(facts, arm), _speed_verdict(facts, arm)
        if not quality or not speed:
            rank, what = 5, "{be} not fully measured"
        elif quality == LOSES:
            rank, what = 4, "{lose} quality"
        elif quality != KEEPS:
            rank, what = 3, "{leave} the quality question open"
        elif speed == "faster":
            rank, what = 0, "{keep} quality and {be} faster, though less so"
        elif speed == "slower":
            rank, what = 2, f"{{keep}} quality but {{be}} slower at batch size {batch}"
        else:
            rank, what = 1, f"{{keep}} quality but {{be}} not shown to be faster at batch size {batch}"
        groups.setdefault((rank, what), []).append(arm)
    if not groups:
        return "No other arm was run."
    parts = [f"{len(arms)} {_verbs(what, len(arms))} ({_named(arms)})" for (_, what), arms in sorted(groups.items())]
    total = sum(map(len, groups.values()))
    if total == 1:
        ((_, what),) = groups
        (arm,) = groups[next(iter(groups))]
        return f"{'The other arm' if best else 'The only other arm'}, {_named([arm])}, {_verbs(what, 1)}."
    return f"Of {'the other' if best else 'the'} {counted(total, 'arm')}, {listed(parts)}."


def _verbs(text: str, n: int) -> str:
    one = {"be": "is", "lose": "loses", "leave": "leaves", "keep": "keeps"}
    return text.format(**(one if n == 1 else {verb: verb for verb in one} | {"be": "are"}))


def _named(arms: Iterable[Arm]) -> str:
    return listed([f"“{arm.short}”" if "," in arm.short else arm.short for arm in arms], 4)


def _speed_only(facts: Facts) -> str:
    batch = facts.headline_batch
    ratios = [(ratio.value, -arm.order, arm, ratio) for arm in facts.others if (ratio := facts.ratio(arm, batch))]
    if not ratios:
        return "No speed-up over the full model could be measured in this run."
    _, _, arm, ratio = max(ratios)
    return (
        f"The fastest arm at batch size {batch} is {arm.short}: {fixed(ratio.value)} times the "
        "decode speed of the full model "
        f"(95% interval {span(ratio.low, ratio.high)})."
    )


def _quality_only(facts: Facts) -> str:
    keeping = [arm for arm in facts.others if quality_verdict(facts, arm) == KEEPS]
    if not keeping:
        return f"No arm is shown to keep the full model's quality within {fixed(facts.margin, 1)}."
    return (
        f"{len(keeping)} of {counted(len(facts.others), 'arm')} "
        f"{'keeps' if len(keeping) == 1 else 'keep'} the full model's quality "
        f"within {fixed(facts.margin, 1)}: {_named(keeping)}."
    )
