"""How the numbers of a run came about, in sentences that stand once, and what the run does not hold."""

from __future__ import annotations

from reports.facts.facts import Facts
from reports.view import tables
from reports.view.settings import quality_setting, speed_setting


def setting(facts: Facts) -> tuple[str, ...]:
    """How speed and quality were measured; every caption of a page refers to it."""
    return tuple(filter(None, (speed_setting(facts), *(quality_setting(facts, task) for task in facts.tasks))))


def absent(facts: Facts) -> str:
    """What was not measured, in one sentence; empty where all was."""
    energy = any(tables.energy(facts, arm, batch) is not None for arm in facts.arms for batch in facts.batch_sizes)
    there = {"speed": facts.speed, "quality": facts.tasks, "memory": facts.memory, "energy": energy}
    missing = [name for name, found in there.items() if not found]
    sizes = {batch for _, batch in facts.speed}
    more = ["speed against batch size (one was timed)"] if len(sizes) == 1 else []
    return f"Not in this run: {', '.join([*missing, *more])}." if missing or more else ""
