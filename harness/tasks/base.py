"""What every task offers: prompts with references in a fixed order, and the metrics its outputs are scored with."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.errors import BadInput, near
from harness.tasks.files import Source
from harness.tasks.metrics import Metric

SPLITS = ("train", "validation", "test")

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[([^\[\]]*)\]\s*")


@dataclass(frozen=True)
class Example:
    """One prompt and every reference that belongs to it.

    Attributes:
        id: unique within task and split, stable between runs.
        prompt: the text the model continues; for meaning representations the white space is collapsed and a line feed
            ends it.
        references: at least one accepted output, white space collapsed.
        slots: (slot, value) pairs the output must state; empty for tasks without meaning representations.
        cut: characters of the prompt, first and end, that may be shortened from their end where it is too long; None: none.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    slots: tuple[tuple[str, str], ...] = ()
    cut: tuple[int, int] | None = None


class Task(ABC):
    """A data set with its metrics; one subclass per file of this package.

    Args:
        data: the folder the user passed as ``--data``, or None. A task that reads files looks in ``<data>/<name>/``
            first and in ``<data>/`` itself next; a task that needs no files ignores it.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    source: ClassVar[str]
    """Licence and citation of the data."""
    max_new_tokens: ClassVar[int]
    """Tokens a run may generate per example, end of sequence included."""
    max_prompt_tokens: ClassVar[int | None] = None
    """Tokens a prompt may have; longer ones are shortened where `Example.cut` allows it. None: prompts stay as they are."""
    rows_from: ClassVar[Source | None] = None
    """Files and hub data set; None: the task needs neither."""
    planned_examples: ClassVar[dict[str, int]] = {}
    """Examples of each split, for plans made without the data; a task with `rows_from` gives them."""
    planned_tokens: ClassVar[tuple[int, int]] = (50, 30)
    """About how many tokens a prompt and a reference have, likewise."""

    def __init__(self, data: Path | None = None) -> None:
        self.data = data

    @abstractmethod
    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Return the examples of ``split`` (train, validation or test) in a fixed order, the first ``limit`` of them.

        Raises:
            BadInput: unknown split, a limit below 1, or data that is missing or malformed.
        """

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics outputs are scored with, the main one first."""

    def extra_metrics(self) -> tuple[Metric, ...]:
        """Return metrics that are computed only where a suite names them, because they need more than this package."""
        return ()

    def chosen_metrics(self, names: Sequence[str] | None) -> tuple[Metric, ...]:
        """Return the metrics of these names in their order, the first one the main one; None: `metrics()`.

        Raises:
            BadInput: the task has no metric of a name.
        """
        if names is None:
            return self.metrics()
        known = {metric.name: metric for metric in (*self.metrics(), *self.extra_metrics())}
        for name in names:
            if name not in known:
                raise BadInput(f"metrics: task {self.name} has no metric {name!r}; {near(name, known)}")
        return tuple(known[name] for name in names)


def data_hash(examples: Iterable[Example]) -> str:
    """16 hexadecimal digits that identify examples: ids, prompts and references, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.id, example.prompt, list(example.references)]).encode())
    return digest.hexdigest()[:16]


def check_request(split: str, limit: int | None) -> None:
    """Raise BadInput unless ``split`` is a known split and ``limit`` is None or at least 1."""
    if split not in SPLITS:
        raise BadInput(f"split: {split!r} is not known; {near(split, SPLITS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit: {limit} is out of range; use 1 or more, or leave it out for the whole split")


def collapse(text: str) -> str:
    """Return ``text`` with each run of white space turned into one space and none at its ends."""
    return " ".join(text.split())


def format_mr(slots: Iterable[tuple[str, str]]) -> str:
    """Return the meaning representation ``slot[value], slot[value]`` of the pairs, in their order."""
    return ", ".join(f"{slot}[{value}]" for slot, value in slots)


def parse_mr(mr: str) -> tuple[tuple[str, str], ...]:
    """Return the (slot, value) pairs of ``slot[value], slot[value]``, in their order.

    Raises:
        ValueError: the text has another form; the message says at which character it goes wrong.
    """
    pairs: list[tuple[str, str]] = []
    at = 0
    while True:
        found = _SLOT.match(mr, at)
        if found is None:
            raise ValueError(f"no slot[value] at character {at + 1} of {mr!r}")
        pairs.append((found[1], collapse(found[2])))
        at = found.end()
        if at == len(mr):
            return tuple(pairs)
        if mr[at] != ",":
            raise ValueError(f"no comma at character {at + 1} of {mr!r}")
        at += 1
