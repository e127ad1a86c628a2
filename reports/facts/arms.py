"""The arms of a run as its records describe them, and the curves they make: one method at several settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.records.arms import cost_said, rests_on
from harness.records.limits import BASELINE
from harness.records.run import Run
from reports.text import label, real

CONTROL = "control"
"""What stands in place of a paper where a method is there to be compared with."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm of the run as its records describe it."""

    label: str
    method: str
    family: str
    spec: str
    checkpoint: str
    trained: str
    exact: bool
    target: float | None
    baseline: bool
    order: int
    params: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    title: str = ""
    training: str = ""
    """What its weights cost beyond those they started from, as `training: 1.1 M tokens, 12 min`; empty where nobody says."""
    trained_on: str = ""
    """The device that was done on."""
    learned: str = ""
    """What its parameters were learned by before the run and what that cost, as `profile, 19 s`; empty where nothing was."""
    shallower: bool = False
    """Whether its model has fewer blocks than the run's."""

    @property
    def control(self) -> bool:
        """Whether it is run to be compared with, not to be used: the full model and what its author calls a control."""
        return self.method == BASELINE or self.paper == CONTROL

    @property
    def short(self) -> str:
        """The label in at most 60 printable characters."""
        return label(self.label)

    @property
    def untrained(self) -> bool:
        """Whether the method runs on weights that were not trained for it, though it asks for that."""
        return self.trained in ("schedule only", "untrained")


def arms_of(data: Run) -> tuple[Arm, ...]:
    """Return the arms in the order of the run."""
    return tuple(
        Arm(
            label=str(r.get("label")),
            method=str(r.get("method", "")),
            family=str(r.get("family", "")),
            spec=str(r.get("spec", "")),
            checkpoint=str(r.get("checkpoint", "")),
            trained=str(r.get("trained") or ""),
            exact=bool(r.get("exact")),
            target=real((r.get("params") or {}).get("speedup")),
            baseline=r is data.full,
            order=i,
            params=r.get("params") or {},
            paper=str(r.get("paper") or ""),
            title=str(r.get("title") or r.get("method") or ""),
            training=_cost(r.get("training")),
            trained_on=label(str((r.get("training") or {}).get("device") or "")),
            learned=label(cost_said(*rests_on(r))),
            shallower=bool(r.get("of_blocks")),
        )
        for i, r in enumerate(data.arms)
    )


def _cost(training: object) -> str:
    told = training if isinstance(training, Mapping) else {}
    tokens, seconds = real(told.get("tokens")), real(told.get("seconds"))
    parts = []
    if tokens is not None:
        parts.append(f"{tokens / 1e6:.2f} M tokens" if tokens >= 1e5 else f"{tokens:,.0f} tokens")
    if seconds is not None:
        parts.append(f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min")
    return f"training: {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Curve:
    """Arms that are one method at several settings: what they have in common is the name, the rest of each label its setting."""

    name: str
    arms: tuple[Arm, ...]
    settings: tuple[str, ...]


def curves(arms: Sequence[Arm]) -> tuple[Curve, ...]:
    """Return the arms as curves: same method, same training, same words among the parameters; numbers make the settings."""
    groups: dict[tuple[Any, ...], list[Arm]] = {}
    for arm in arms:
        words = tuple((k, str(v)) for k, v in arm.params.items() if isinstance(v, (str, bool)))
        groups.setdefault((arm.method, arm.baseline, arm.trained, arm.checkpoint, words), []).append(arm)
    found = []
    for group in groups.values():
        varied = [k for k in group[0].params if len({str(arm.params.get(k)) for arm in group}) > 1]
        group.sort(key=lambda arm: [n for k in varied if (n := real(arm.params.get(k))) is not None] or [arm.order])
        name, rest = parted([arm.short for arm in group])
        found.append(Curve(name or label(group[0].title), tuple(group), rest))
    return tuple(found)


def parted(labels: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return what labels have in common, whole words at their ends, and the rest of each; a single one is all name.

    A percent sign stays with its number.
    """
    if len(labels) < 2:
        return (labels[0] if labels else ""), ("",) * len(labels)
    words = [one.split() for one in labels]
    most = min(map(len, words)) - 1
    head = next((i for i in range(most) if len({tuple(w[: i + 1]) for w in words}) > 1), max(most, 0))
    tail = next(
        (i for i in range(most - head) if len({tuple(w[len(w) - 1 - i :]) for w in words}) > 1), max(most - head, 0)
    )
    while tail and words[0][len(words[0]) - tail] == "%":
        tail -= 1
    common = [*words[0][:head], *words[0][len(words[0]) - tail :]]
    return " ".join(common).rstrip(",:"), tuple(" ".join(w[head : len(w) - tail]).strip(",:") for w in words)
