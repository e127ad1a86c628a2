"""The answer in a sentence for each batch size, drawn from the verdicts and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.limits import BASELINE
from reports.facts import judge
from reports.facts.arms import Arm
from reports.facts.facts import Facts
from reports.text import counted, fixed, label, listed, span
from reports.view.cells import lost

LOSS = 2.0
"""The loss the answer speaks of, in points of every metric; where nothing is within it, the next larger of LOSSES."""
LOSSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Losses a reader may accept, in points."""
MOST = 4
"""Batch sizes the answer speaks of; of more, the first and the last."""
READING = (
    "Times as fast: the full model's decode time per token over the method's, at the same batch size. Within so many points: on "
    "every metric, even at the worse end of the 95% interval of the loss. Brackets hold such intervals."
)


def sentences(facts: Facts) -> tuple[str, ...]:
    """Return the answer: for each batch size the fastest arm that loses little, then how many arms fare how."""
    full = facts.baseline
    if full is None:
        return (
            "This run holds no full model, so no arm can be compared; the tables give what each arm measured on its own.",
        )
    if not facts.others:
        return (f"This run holds the full model alone{_alone(facts, full)}.", "There is nothing to compare it with.")
    if not facts.tasks and not facts.speed:
        return (
            "No cell of this run succeeded, so there is nothing to answer with; the failed cells are listed below.",
        )
    sizes = timed(facts)
    if not sizes:
        return (_tally(facts), "No speed was measured in this run, so nothing here says what the loss buys.")
    if not facts.tasks:
        told = tuple(_fastest(facts, batch) for batch in few(sizes))
        return (*told, "No quality was measured in this run, so nothing here says what the speed costs.")
    if not judge.informative(facts):
        told = tuple(_fastest(facts, batch) for batch in few(sizes))
        return (*told, "On no task of this run does the full model do better than guessing, so no loss can be shown.")
    return tuple(_best(facts, batch) for batch in few(sizes))


def small(facts: Facts) -> tuple[str, ...]:
    """Return what stands smaller under the answer: how many arms fare how, and what its words mean."""
    if facts.baseline is None or not facts.others or not judge.informative(facts) or not timed(facts):
        return ()
    return _tally(facts), READING


def timed(facts: Facts) -> tuple[int, ...]:
    """The batch sizes at which anything was timed."""
    return tuple(b for b in facts.batch_sizes if any((arm.label, b) in facts.speed for arm in facts.arms))


def few(batches: Sequence[int]) -> Sequence[int]:
    """All batch sizes if there are few, else the first and the last; the others have tables of their own."""
    return batches if len(batches) <= MOST else (batches[0], batches[-1])


def best(facts: Facts, loss: float, batch: int) -> Arm | None:
    """The fastest arm at a batch size that is shown to lose at most `loss` on every metric and to be faster than full."""
    found = []
    for arm in facts.others:
        cell, ratio = facts.speed.get((arm.label, batch)), facts.ratio(arm, batch)
        if arm.method == BASELINE or not cell or not ratio or cell.verdict != "faster":
            continue
        if judge.within(facts, arm, loss):
            found.append((ratio.value, -arm.order, arm))
    return max(found)[2] if found else None


def choice(facts: Facts, batch: int) -> tuple[float, Arm | None]:
    """The loss the answer speaks of at a batch size, and the arm it names: the smallest loss from LOSS on that buys anything."""
    for loss in LOSSES:
        if loss >= LOSS and (arm := best(facts, loss, batch)):
            return loss, arm
    return LOSSES[-1], None


def _best(facts: Facts, batch: int) -> str:
    full = facts.baseline
    here = facts.speed.get((full.label, batch)) if full else None
    if here is None or here.unusable:
        why = here.unusable if here else "it was not timed there"
        return f"Batch {batch}: the full model has no usable time ({label(why, 160)}), so nothing can be compared."
    loss, arm = choice(facts, batch)
    ratio = facts.ratio(arm, batch) if arm else None
    if arm is None or ratio is None:
        return f"Batch {batch}: nothing is shown to be faster and within {loss:g} points of the full model. Use the full model."
    which = f"“{arm.short}”" if "," in arm.short else arm.short
    lead = f"fastest within {loss:g} points of the full model:"
    if loss > LOSS:
        lead = f"nothing faster is shown to be within {LOSS:g} points of the full model; fastest within {loss:g}:"
    control = ", a control" if arm.control else ""
    speed = f"{fixed(ratio.value)} times as fast [{span(ratio.low, ratio.high)}]"
    speed += f" after a {arm.learned}" if arm.learned else ""
    return f"Batch {batch}, {lead} {which}{control}, {speed}. {_cost(facts, arm)}"


def _cost(facts: Facts, arm: Arm) -> str:
    """What it loses on its worst metric."""
    found = judge.biggest(facts, arm)
    if found is None:
        return ""
    if same := facts.same.get(arm.label):
        return f"It gives the full model's own tokens (all of {counted(same, 'row')})."
    _, low, high = found.gain
    ends = (low, high) if found.metric.better != "lower" else (-high, -low)
    where = f" on {label(found.task)}" if len(facts.tasks) > 1 else ""
    return f"Worst metric{where}: {lost(facts, found)} [{span(*ends, 1, plus=True)}]."


def _alone(facts: Facts, full: Arm) -> str:
    parts = []
    for task, metrics in facts.tasks.items():
        if quality := facts.quality.get((full.label, task, metrics[0].name)):
            parts.append(f"{metrics[0].title} {fixed(quality.value.value, 1)} on {label(task)}")
    batch = facts.headline_batch
    cell = facts.speed.get((full.label, batch)) if batch is not None else None
    if cell and (rate := cell.number("tokens_per_s")) is not None:
        parts.append(f"{fixed(rate, 0)} tokens per second at batch size {batch}")
    return f": {listed(parts)}" if parts else ""


_VERBS = {
    judge.BETTER: ("does better", "do better"),
    judge.KEEPS: ("keeps its quality", "keep its quality"),
    judge.SMALL: ("loses a little, within the margin", "lose a little, within the margin"),
    judge.OPEN: (
        "needs more examples before its quality can be judged",
        "need more examples before their quality can be judged",
    ),
    judge.LOSES: ("loses more than the margin", "lose more than the margin"),
}


def _tally(facts: Facts) -> str:
    """How many arms fare how."""
    groups: dict[str, list[Arm]] = {}
    for arm in facts.others:
        found = judge.arm(facts, arm)
        if arm.method != BASELINE and found:
            groups.setdefault(found.state, []).append(arm)
    if not groups:
        return "No other arm was scored beside the full model."
    order = sorted(groups, key=lambda state: -judge.RANK[state])
    if len(groups) == 1:
        (state,) = groups
        arms = groups[state]
        who = _named(arms) if len(arms) == 1 else f"All {len(arms)} arms"
        return f"{who} {_VERBS[state][len(arms) > 1]}; the margin is {fixed(facts.margin, 1)} points."
    parts = [f"{len(groups[s])} {_VERBS[s][len(groups[s]) > 1]} ({_named(groups[s])})" for s in order]
    total = sum(map(len, groups.values()))
    return f"Of {counted(total, 'arm')}, {listed(parts)}; the margin is {fixed(facts.margin, 1)} points."


def _named(arms: Iterable[Arm]) -> str:
    return listed([f"“{arm.short}”" if "," in arm.short else arm.short for arm in arms], 3)


def _fastest(facts: Facts, batch: int) -> str:
    ratios = [(r.value, -a.order, a, r) for a in facts.others if a.method != BASELINE and (r := facts.ratio(a, batch))]
    if not ratios:
        return f"Batch {batch}: no speed-up over the full model could be measured."
    _, _, arm, ratio = max(ratios)
    return f"Batch {batch}: the fastest is {arm.short}, {fixed(ratio.value)} times as fast [{span(ratio.low, ratio.high)}]."
