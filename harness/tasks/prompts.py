"""Batches of prompts: the same for every arm, and known by their hash."""

from __future__ import annotations

import hashlib
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.errors import BadInput
from harness.tasks.base import Example, Task

# Prompts whose references give the median length: all of a small training set, enough of a large one.
_SAMPLE = 20_000


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


def drawn(examples: Sequence[Example], prompt_set: int, seed: int) -> list[int]:
    """The order in which the speed runs of a prompt set take the examples; longer batches begin again."""
    return random.Random(f"{seed}-{prompt_set}").sample(range(len(examples)), len(examples))


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

    With `prompt_tokens` every prompt has exactly that many tokens: the drawn prompts one after the other, cut to length. Each
    row begins as the tokenizer begins a text, with a start token where it has one.
    """
    order = drawn(examples, prompt_set, seed)
    texts = [examples[order[i % len(order)]].prompt for i in range(batch_size)]
    rows = tokenizer(texts).input_ids if prompt_tokens is None else []
    if prompt_tokens is not None:
        start = beginning(tokenizer)[:prompt_tokens]
        inside = prompt_tokens - len(start)
        stream = [t for i in order for t in tokenizer(examples[i].prompt, add_special_tokens=False).input_ids]
        if inside and not stream:
            raise BadInput(
                "prompt_tokens: the first task's prompts are empty; put a task with prompts first, or leave tasks out"
            )
        while len(stream) < inside * batch_size:
            stream += stream
        rows = [start + stream[b * inside : (b + 1) * inside] for b in range(batch_size)]
    return pad_left(rows, pad)


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text; none for most."""
    whole, plain = (list(tokenizer("a", add_special_tokens=added).input_ids) for added in (True, False))
    places = range(len(whole) - len(plain) + 1)
    return whole[: next((at for at in places if whole[at : at + len(plain)] == plain), 0)]


def fit(examples: Sequence[Example], tokenizer: Any, limit: int | None, task: str) -> tuple[list[Example], int]:
    """Shorten the prompts of more than `limit` tokens at their `Example.cut`, by whole words; the rest of a prompt stays.

    Returns:
        The examples, and how many of them were shortened. The shortened text is what is run and stored.

    Raises:
        BadInput: a prompt is too long and nothing of it may be cut, or not enough.
    """
    if limit is None:
        return list(examples), 0
    lengths = list(map(len, tokenizer([e.prompt for e in examples]).input_ids)) if examples else []
    fitted = [
        example if length <= limit else _shorten(example, tokenizer, limit, task)
        for example, length in zip(examples, lengths, strict=True)
    ]
    return fitted, sum(length > limit for length in lengths)


def _shorten(example: Example, tokenizer: Any, limit: int, task: str) -> Example:
    """The example with the most words that fit, found by bisection: tokens do not add up over pieces of a text."""
    first, end = example.cut or (0, 0)
    ends = [first, *(first + found.end() for found in re.finditer(r"\S+", example.prompt[first:end]))]
    before, after = example.prompt[:first], example.prompt[end:]

    def text(words: int) -> str:
        return before + example.prompt[first : ends[words]] + after

    low, high = 0, len(ends) - 1  # as many words fit, for certain; at most so many may fit
    if len(tokenizer(text(0)).input_ids) > limit:
        raise BadInput(
            f"max_prompt_tokens: {limit} is too few for the prompt of {example.id} (task {task}), of which "
            f"{'nothing may be cut' if example.cut is None else 'not enough may be cut'}; give more, or null"
        )
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer(text(middle)).input_ids) <= limit:
            low = middle
        else:
            high = middle - 1
    return replace(example, prompt=text(low), cut=(first, ends[low]))


def expected_tokens(task: Task, tokenizer: Any) -> int:
    """Median number of tokens of a training reference, end token included: what schedules take as their horizon.

    Falls back to the validation split where there is no training data at hand.
    """
    for split in ("train", "validation"):
        try:
            examples = task.examples(split, _SAMPLE)
        except BadInput:
            continue
        texts = [text for example in examples for text in example.references]
        return int(statistics.median(len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False).input_ids))
    raise BadInput(
        f"expected_tokens: task {task.name} has no training or validation references here to take the median of; "
        "give expected_tokens in the suite"
    )
