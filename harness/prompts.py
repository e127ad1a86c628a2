"""Batches of prompts: the same for every arm, and known by their hash."""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import BadInput
from harness.tasks.base import Example, Task


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts: ids [B, P], mask [B, P] (None without padding)."""

    ids: torch.Tensor
    mask: torch.Tensor | None

    @property
    def hash(self) -> str:
        """16 hex digits that identify the prompts, padding included."""
        mask = torch.ones_like(self.ids) if self.mask is None else self.mask.long()
        digest = hashlib.sha256(self.ids.cpu().numpy().tobytes() + mask.cpu().numpy().tobytes())
        digest.update(str(tuple(self.ids.shape)).encode())
        return digest.hexdigest()[:16]


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> Batch:
    """Token id lists to a left-padded batch."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    if all(len(row) == width for row in rows):
        return Batch(ids, None)
    return Batch(ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]))


def speed_batch(
    tokenizer: Any,
    examples: Sequence[Example],
    batch_size: int,
    prompt_set: int,
    prompt_tokens: int | None,
    seed: int,
    pad: int,
) -> Batch:
    """Prompts of the speed runs: `batch_size` examples drawn for `prompt_set`, the same in every process and arm.

    With `prompt_tokens` every prompt has exactly that many tokens: the drawn prompts one after the other, cut to length.
    """
    rng = random.Random(f"{seed}-{prompt_set}")
    order = rng.sample(range(len(examples)), len(examples))
    texts = [examples[order[i % len(order)]].prompt for i in range(batch_size)]
    rows = tokenizer(texts).input_ids
    if prompt_tokens is not None:
        stream = [token for i in order for token in tokenizer(examples[i].prompt).input_ids]
        while len(stream) < prompt_tokens * batch_size:
            stream += stream
        rows = [stream[b * prompt_tokens : (b + 1) * prompt_tokens] for b in range(batch_size)]
    return pad_left(rows, pad)


def expected_tokens(task: Task, tokenizer: Any) -> int:
    """Median number of tokens of a training reference, end token included: what schedules take as their horizon.

    Falls back to the validation split where there is no training data at hand.
    """
    for split in ("train", "validation"):
        try:
            examples = task.examples(split)
        except BadInput:
            continue
        texts = [text for example in examples for text in example.references]
        return int(statistics.median(len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False).input_ids))
    raise BadInput(
        f"expected_tokens: task {task.name} has no training or validation references here to take the median of; "
        "give expected_tokens in the suite"
    )
