"""How a token is chosen from logits, and which texts end a row.

Sampling is a function of the logits, the seed, the row's stream and the token's place alone (the Gumbel-max trick with noise from
a counter): it draws from the same distribution as sampling with a generator, gives the same tokens on every device, whatever
order tokens are computed in, and lets a draft be verified token for token. A row's stream is that of its prompt (`streams`), so
neither the size of a batch nor the other rows change what is drawn for it, and equal prompts get samples of their own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import BadInput
from harness.models.kernels.linear import argmax

_MIX = (-4658895280553007687, -7723592293110705685)  # the multipliers of splitmix64, as signed 64-bit integers
_STEP = -7046029254386353131


@dataclass(frozen=True)
class Sampling:
    """Greedy by default.

    Attributes:
        temperature: logits are divided by it; 0 is greedy.
        top_k: only the k most likely tokens; None: all.
        top_p: only the most likely tokens that together reach this probability; None: all.
        seed: of the noise.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, right in (
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not fits:
                raise BadInput(f"sampling: {name}={getattr(self, name)} is out of range; give {right}")

    def pick(self, logits: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Tokens [R] from logits [R, V]; `rows` and `places` [R] are the row's stream and the index of the generated token."""
        if self.temperature == 0:
            return argmax(logits)
        kept = self.keep(logits.float() / self.temperature)
        return (kept + self._gumbel(logits.shape[-1], rows, places)).argmax(-1)

    def keep(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits [R, V] with minus infinity where top-k, then top-p, leave a token out."""
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = logits.sort(descending=True, dim=-1)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            out = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= self.top_p)
            logits = logits.masked_fill(out, -torch.inf)
        return logits

    def _gumbel(self, size: int, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Gumbel noise [R, size]: splitmix64 of (seed, stream, place, token), its upper 53 bits as a uniform number."""
        start = torch.tensor(self.seed, dtype=torch.long, device=rows.device)
        for part in (rows.long(), places.long()):
            start = _mixed(start + part * _STEP)
        bits = _mixed(start.unsqueeze(1) + torch.arange(1, size + 1, device=rows.device) * _STEP)
        uniform = (((bits >> 11) & ((1 << 53) - 1)).double() + 0.5) / (1 << 53)
        return -(-uniform.log()).log()


GREEDY = Sampling()


def streams(prompts: Iterable[Sequence[int]]) -> list[int]:
    """The stream of noise of each prompt, a number of 63 bits: of its tokens, and of how many equal prompts stand before it.

    Several samples of one prompt are that prompt several times over: their streams are those of its first, second, ... sample.
    """
    seen: Counter[bytes] = Counter()
    found = []
    for prompt in prompts:
        tokens = array("q", prompt).tobytes()
        digest = hashlib.sha256(tokens + array("q", (seen[tokens],)).tobytes()).digest()
        seen[tokens] += 1
        found.append(int.from_bytes(digest[:8], "big") >> 1)
    return found


def noise_of_rows(
    sampling: Sampling, ids: torch.Tensor, mask: torch.Tensor | None, given: Sequence[int] | None
) -> torch.Tensor:
    """The stream of every row [B] of prompts `ids` [B, P] whose real tokens `mask` names: those given, else the prompts' own.

    A greedy choice has no noise; zeros stand for it.
    """
    rows = ids.shape[0]
    if given is not None and len(given) != rows:
        raise BadInput(f"noise: {len(given)} streams; give one for each of the {rows} rows")
    if sampling.temperature == 0:
        return torch.zeros(rows, dtype=torch.long, device=ids.device)
    if given is None:
        real = (
            [row.tolist() for row in ids]
            if mask is None
            else [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        )
        given = streams(real)
    return torch.tensor(given, dtype=torch.long, device=ids.device)


def _mixed(z: torch.Tensor) -> torch.Tensor:
    """Splitmix64's finaliser; products wrap around."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX[0]
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX[1]
    return z ^ ((z >> 31) & ((1 << 33) - 1))


class StopStrings:
    """Texts that end a row as soon as its generated text contains one, however the tokens divide it.

    Args:
        strings: the texts, none of them empty.
        tokenizer: of the model.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        if any(not text for text in strings):
            raise BadInput("stop_strings: an empty string would stop everything; leave it out")
        if strings and tokenizer is None:
            raise BadInput("stop_strings: the model has no tokenizer to find them with; give one to load_model")
        self._strings = tuple(strings)
        self._tokenizer = tokenizer
        # Every token holds a byte at least, so a stop text lies within so many tokens of its end.
        self._reach = max((len(text.encode()) for text in strings), default=0) + 4

    def __bool__(self) -> bool:
        return bool(self._strings)

    def first_end(self, tokens: Sequence[int], new: int) -> int | None:
        """How many of `tokens` there are when a stop text is complete; only the last `new` of them are looked at."""
        for count in range(len(tokens) - new + 1, len(tokens) + 1):
            # Special tokens too: tasks give the texts of some as stop texts.
            tail = self._tokenizer.decode(tokens[max(0, count - self._reach) : count], skip_special_tokens=False)
            if any(text in tail for text in self._strings):
                return count
        return None
