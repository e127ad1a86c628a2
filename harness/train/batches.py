"""The data of a training: pairs of prompt and references as token ids, and batches of them."""

from __future__ import annotations

import hashlib
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness import tasks
from harness.errors import BadInput
from harness.models.decoder import Decoder
from harness.tasks.prompts import fit
from harness.train.recipes import DataSource


@dataclass(frozen=True)
class Pair:
    """One prompt with some of its references, as token ids; references end with the end token."""

    prompt: list[int]
    targets: list[list[int]]

    @property
    def cost(self) -> int:
        """Length by which batches are grouped: mostly that of the continuations, several of which share one prompt."""
        return len(self.prompt) // 4 + max(map(len, self.targets))

    @property
    def tokens(self) -> int:
        """What the model runs over: the prompt once, and the continuations."""
        return len(self.prompt) + sum(map(len, self.targets))


class Pairs(torch.utils.data.Dataset[Pair]):
    """Pairs of some data, references of one prompt in groups of similar length.

    Args:
        sources: where they come from.
        decoder: the model, for its tokenizer and the positions it has.
        data: local data folder.
        group: continuations that share one prompt in a batch, at most.
        max_tokens: longer pairs are left out and counted in `dropped`; None: what the model can hold.
    """

    def __init__(
        self,
        sources: Sequence[DataSource],
        decoder: Decoder,
        data: Path | None,
        group: int,
        max_tokens: int | None = None,
    ) -> None:
        tokenizer = decoder.tokenizer
        room = min(decoder.geometry.max_positions, (max_tokens or decoder.geometry.max_positions + 1) - 1)
        self.pairs: list[Pair] = []
        self.dropped = 0
        lengths: list[int] = []
        for source in sources:
            task = tasks.create(source.task, data)
            most = None if source.limit is None else source.skip + source.limit
            examples = task.examples(source.split, most)[source.skip :]
            examples, _ = fit(examples, tokenizer, source.max_prompt_tokens or task.max_prompt_tokens, source.task)
            if not examples:
                raise BadInput(
                    f"data: nothing of {source.task} {source.split} is left after skip {source.skip}; give less"
                )
            prompts = tokenizer([e.prompt for e in examples]).input_ids
            # A reference continues its prompt: the start token many tokenizers put before a text has no place there.
            references = [
                tokenizer(list(e.references[: source.references]), add_special_tokens=False).input_ids for e in examples
            ]
            for prompt, texts in zip(prompts, references, strict=True):
                texts = sorted(([*ids, tokenizer.eos_token_id] for ids in texts), key=len)
                fits = [ids for ids in texts if len(prompt) + len(ids) - 1 <= room]
                self.dropped += len(texts) - len(fits)
                lengths.extend(map(len, fits))
                self.pairs.extend(Pair(prompt, fits[i : i + group]) for i in range(0, len(fits), group))
        if not self.pairs:
            raise BadInput(f"data: no pair of prompt and reference fits into {room + 1} tokens; raise max_tokens")
        self.references = len(lengths)
        self.median_tokens = int(statistics.median(lengths))

    @property
    def mean_tokens(self) -> float:
        """Tokens of a group on average."""
        return statistics.fmean(pair.tokens for pair in self.pairs)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify the pairs as token ids."""
        return hashlib.sha256(repr([(p.prompt, p.targets) for p in self.pairs]).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


def collate(pairs: Sequence[Pair], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded prompts [M, P] with their lengths [M], continuations [N, T+1], the prompt row of each, and a batch number."""
    width = max(len(p.prompt) for p in pairs)
    targets = [(row, ids) for row, pair in enumerate(pairs) for ids in pair.targets]
    length = max(len(ids) for _, ids in targets)
    labels = torch.tensor([ids + [pad] * (length - len(ids)) for _, ids in targets])
    return {
        "prompts": torch.tensor([p.prompt + [pad] * (width - len(p.prompt)) for p in pairs]),
        "prompt_lengths": torch.tensor([len(p.prompt) for p in pairs]),
        "owners": torch.tensor([row for row, _ in targets]),
        "labels": labels,
        "real": torch.tensor([[i < len(ids) for i in range(length)] for _, ids in targets]),
        # What a method draws for this batch depends on the batch alone, so a resumed run draws the same.
        "draw": torch.tensor(zlib.crc32(labels.numpy().tobytes())),
    }
