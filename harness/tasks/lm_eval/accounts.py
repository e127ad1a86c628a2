"""What the answers to lm-eval took: blocks and positions by kind of request, depths of each, tokens that did not fit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """Whose request it is: a task's document."""

    task: str
    document: str

    @staticmethod
    def of(request: Any, documents: Mapping[str, Sequence[int]]) -> Asked:
        """The task and document of an lm-eval `Instance`; which numbers documents by their place among those asked for."""
        task, number = str(request.task_name), request.doc_id
        return Asked(task, str(documents[task][number] if task in documents else number))

    def __str__(self) -> str:
        return f"task {self.task}, document {self.document}"


@dataclass
class Truncation:
    """Requests whose context did not fit the model, and the tokens they lost on the left."""

    requests: int = 0
    tokens: int = 0

    def add(self, lost: int) -> None:
        """Count a request that lost so many tokens."""
        self.requests += 1
        self.tokens += lost


@dataclass
class Work:
    """What the answers took, for one kind of request.

    Attributes:
        requests: answered.
        blocks: block runs that the answers rest on, each request by itself: its context as prompts run, its steps as planned.
        full_blocks: what they would be at full depth.
        positions: positions of all requests, each by itself.
        computed_positions: positions given to the model, padding left out; a shared context counts once.
    """

    requests: int = 0
    blocks: int = 0
    full_blocks: int = 0
    positions: int = 0
    computed_positions: int = 0

    def add(self, depth: int, context: int, layers: Sequence[int]) -> None:
        """Count a request of `context` tokens whose scored or generated tokens ran `layers` blocks each, of `depth`."""
        positions = context + len(layers) - 1
        self.requests += 1
        self.positions += positions
        self.full_blocks += depth * positions
        # The first token stands for the context's last position, which is in the context's share.
        self.blocks += layers[0] * context + sum(layers[1:])

    @property
    def executed_share(self) -> float | None:
        """Block runs over those of the full model."""
        return self.blocks / self.full_blocks if self.full_blocks else None


@dataclass
class Record:
    """Depths of one answer.

    Attributes:
        layers: blocks that ran for each scored or generated token.
        tokens: generated ids, of a generation.
    """

    layers: list[int]
    tokens: list[int] = field(default_factory=list)

    @property
    def mean_layers(self) -> float | None:
        """Blocks per token."""
        return statistics.fmean(self.layers) if self.layers else None
