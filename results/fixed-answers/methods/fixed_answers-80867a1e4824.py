"""Methods whose answers are fixed: what the engine takes for a question or a refused draft, with no rule behind it.

Used by the suite `fixed-answers`, by their places (`harness.suites.fixed_answers:AskedGate(...)`). None is a method of anybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import override

from harness.method import Draft, Exit, Gate, Schedule
from harness.plan import LayerPlan, Step
from harness.state import GateState

Sublayers = Literal["blocks", "feeds"]


@dataclass(frozen=True)
class LeftOut(Schedule):
    """Blocks, or their feed-forward sublayers alone, left out at every decode step.

    Parameters:
        what: `blocks` or `feeds`.
        first: block that is left out first, 0-based.
        count: of them.
    """

    name: ClassVar[str] = "left_out"
    title: ClassVar[str] = "Left out"
    paper: ClassVar[str] = "control"

    what: Sublayers = "feeds"
    first: int = 3
    count: int = 6

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        kept = tuple(not self.first <= layer < self.first + self.count for layer in range(depth))
        return LayerPlan(kept if self.what == "blocks" else (True,) * depth, kept)

    @override
    def no_skip(self, depth: int) -> LeftOut:
        return replace(self, count=0)


@dataclass(frozen=True)
class AskedGate(Gate):
    """A gate that is asked, and says what `LeftOut` does.

    Parameters:
        asked: before which sublayers, `feeds` or `all`.
        what, first, count: as of `LeftOut`; 0: nothing is skipped.
    """

    name: ClassVar[str] = "asked_gate"
    title: ClassVar[str] = "Asked"
    paper: ClassVar[str] = "control"

    asked: Literal["feeds", "all"] = "feeds"
    what: Sublayers = "feeds"
    first: int = 3
    count: int = 6

    def __post_init__(self) -> None:
        fits = self.asked == "all" or self.what == "feeds" or not self.count
        self._require("asked", fits, "all, where blocks are skipped")

    @override
    def no_skip(self, depth: int) -> AskedGate:
        return replace(self, count=0)

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.asked == "all" or sublayer == "feed"

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        within = self.first <= layer < self.first + self.count
        skips = within and (self.what == "blocks" or sublayer == "feed")
        return x.new_full(x.shape[:1], not skips, dtype=torch.bool)


@dataclass(frozen=True)
class AskedExit(Exit):
    """An exit that is asked after every block, and leaves after so many.

    Parameters:
        blocks: that run; as many as the model has, or more: none is left out.
    """

    name: ClassVar[str] = "asked_exit"
    title: ClassVar[str] = "Asked exit"
    paper: ClassVar[str] = "control"

    blocks: int = 6

    @override
    def no_skip(self, depth: int) -> AskedExit:
        return replace(self, blocks=depth)

    @override
    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        return hidden.new_full(hidden.shape[:1], layer + 1 >= self.blocks, dtype=torch.bool)


@dataclass(frozen=True)
class Refused(Draft):
    """Drafts of one token that the model is not expected to say, so that every pass yields one token.

    Parameters:
        draft_tokens: drafted per step.
        token: the id that is drafted.
    """

    name: ClassVar[str] = "refused"
    title: ClassVar[str] = "Refused drafts"
    paper: ClassVar[str] = "control"
    skipped_kv: ClassVar[str] = "nothing is skipped: drafts come from nowhere"

    draft_tokens: int = 10
    token: int = 0

    def __post_init__(self) -> None:
        self._require("draft_tokens", self.draft_tokens >= 1, "1 or more")

    @override
    def propose(self, new: Sequence[Sequence[int]], memory: Any) -> list[list[int]]:
        return [[self.token] * self.draft_tokens for _ in new]
