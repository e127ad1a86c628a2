"""The rows of a generation: the tokens they got, how they are chosen, and when a row ends."""

from __future__ import annotations

import torch

from harness.decode.sampling import Sampling, StopStrings


class Rows:
    """What the rows of one batch have generated.

    Args:
        noise: the stream of noise each row is sampled with [B], see `harness.decode.sampling`.
        most: tokens each row gets at most.
        spare: further columns that may be written beyond them (drafted tokens that are not kept).
        sampling: how tokens are chosen.
        stops: texts that end a row.
        eos: tokens that end a row; none: rows get `most` tokens.
        pad: token of a row that ended.
        device: of the model.

    Attributes:
        tokens: [B, most + spare].
        counts: tokens of each row [B]; where rows progress together, padding is counted too.
        ended: bool [B].
        lengths: tokens of each row [B], the end token counted, as far as it is known.
        done: nothing is left to generate.
    """

    def __init__(
        self,
        noise: torch.Tensor,
        most: int,
        spare: int,
        sampling: Sampling,
        stops: StopStrings,
        eos: tuple[int, ...],
        pad: int,
        device: torch.device,
    ) -> None:
        self.most, self.pad = most, pad
        count = noise.shape[0]
        self.tokens = torch.full((count, most + spare), pad, device=device)
        self.counts = torch.zeros(count, dtype=torch.long, device=device)
        self.lengths = torch.full((count,), most, device=device)
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)
        self.generated = 0
        self.done = False
        self._noise = noise
        self._sampling, self._stops = sampling, stops
        self._eos = torch.tensor(eos, device=device) if eos else None
        self._ends_at = frozenset(eos)

    @property
    def newest(self) -> torch.Tensor:
        """The newest token of every row [B, 1]."""
        return self.tokens.gather(1, (self.counts - 1).unsqueeze(1))

    def pick(self, logits: torch.Tensor, ahead: int) -> torch.Tensor:
        """The token [B] that follows from logits [B, V], `ahead` places after the next one."""
        return self._sampling.pick(logits, self._noise, self.counts + ahead)

    def pick_columns(self, logits: torch.Tensor) -> torch.Tensor:
        """The tokens [B, T] that follow from logits [B, T, V], the next one and those after it."""
        if self._sampling.temperature == 0:
            return logits.argmax(-1)
        rows, count, _ = logits.shape
        places = self.counts.unsqueeze(1) + torch.arange(count, device=logits.device)
        chosen = self._sampling.pick(logits.flatten(0, 1), self._noise.repeat_interleave(count), places.flatten())
        return chosen.view(rows, count)

    def emit(self, logits: torch.Tensor) -> int:
        """Give every row its next token from logits [B, V]; returns how many rows had not ended."""
        n = self.generated
        tokens = self._sampling.pick(logits, self._noise, self.counts)
        yielded = tokens.shape[0]
        self.generated = n + 1
        if self._eos is None and not self._stops:
            self.tokens[:, n] = tokens
            self.counts = self.counts + 1
            self.done = self.generated == self.most
            return yielded
        tokens = torch.where(self.ended, self.pad, tokens)
        self.tokens[:, n] = tokens
        running = ~self.ended
        yielded = int(running.sum())
        if self._eos is not None:
            self.ended = self.ended | torch.isin(tokens, self._eos)
        # Aligned rows count their padding too: the place of the next token is the same for all.
        self.counts = self.counts + 1
        self._stop(running.long())
        self.lengths = torch.where(self.ended & running, n + 1, self.lengths)
        self.done = self.generated == self.most or bool(self.ended.all())
        return yielded

    def take(self, chosen: list[list[int]], agreed: list[int]) -> list[list[int]]:
        """Give every row the first `agreed` [B] and one more of the tokens `chosen` [B][T]; returns those it got.

        On the host throughout, where the tokens must come anyway: a device is asked once a step.
        """
        counts, ended = self.counts.tolist(), self.ended.tolist()
        got = []
        for row, (tokens, count) in enumerate(zip(chosen, counts, strict=True)):
            most = 0 if ended[row] else min(agreed[row] + 1, self.most - count)
            end = next((i + 1 for i in range(most) if tokens[i] in self._ends_at), None)
            ended[row] = ended[row] or end is not None
            got.append(tokens[: most if end is None else end])
        width = max(map(len, got))
        device = self.tokens.device
        new = torch.tensor([tokens + [self.pad] * (width - len(tokens)) for tokens in got], device=device)
        if width:
            places = self.counts.unsqueeze(1) + torch.arange(width, device=device)
            self.tokens.scatter_(1, places, new)
        self.counts = torch.tensor([c + len(t) for c, t in zip(counts, got, strict=True)], device=device)
        self.ended = torch.tensor(ended, device=device)
        if self._stops:
            kept = torch.tensor([len(tokens) for tokens in got])
            self._stop(kept)
            got = [tokens[:count] for tokens, count in zip(got, kept.tolist(), strict=True)]
            counts, ended = self.counts.tolist(), self.ended.tolist()
        else:
            counts = [c + len(t) for c, t in zip(counts, got, strict=True)]
        self.lengths = torch.tensor([c if e else self.most for c, e in zip(counts, ended, strict=True)], device=device)
        self.generated = max(counts)
        self.done = all(e or c == self.most for c, e in zip(counts, ended, strict=True))
        return got

    def _stop(self, new: torch.Tensor) -> None:
        """End the rows whose newest tokens (`new` [B] of them) complete a stop text; later tokens are taken back."""
        if not self._stops:
            return
        for row, count in enumerate(new.tolist()):
            if not count:
                continue
            total = int(self.counts[row])
            end = self._stops.first_end(self.tokens[row, :total].tolist(), count)
            if end is not None:
                self.ended[row] = True
                if end < total:
                    self.tokens[row, end:total] = self.pad
                    self.counts[row] = end
                    new[row] -= total - end
