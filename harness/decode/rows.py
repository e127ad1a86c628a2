"""The rows of a generation: the tokens they got, how they are chosen, and when a row ends."""

from __future__ import annotations

import torch

from harness.decode.sampling import Sampling, StopStrings


class Rows:
    """What the rows of one batch have generated.

    Args:
        count: B.
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
        count: int,
        most: int,
        spare: int,
        sampling: Sampling,
        stops: StopStrings,
        eos: tuple[int, ...],
        pad: int,
        device: torch.device,
    ) -> None:
        self.most, self.pad = most, pad
        self.tokens = torch.full((count, most + spare), pad, device=device)
        self.counts = torch.zeros(count, dtype=torch.long, device=device)
        self.lengths = torch.full((count,), most, device=device)
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)
        self.generated = 0
        self.done = False
        self._numbers = torch.arange(count, device=device)
        self._sampling, self._stops = sampling, stops
        self._eos = torch.tensor(eos, device=device) if eos else None

    @property
    def newest(self) -> torch.Tensor:
        """The newest token of every row [B, 1]."""
        return self.tokens.gather(1, (self.counts - 1).unsqueeze(1))

    @property
    def left(self) -> torch.Tensor:
        """How many tokens every row may still get [B]."""
        return self.most - self.counts

    def pick(self, logits: torch.Tensor, ahead: int) -> torch.Tensor:
        """The token [B] that follows from logits [B, V], `ahead` places after the next one."""
        return self._sampling.pick(logits, self._numbers, self.counts + ahead)

    def pick_columns(self, logits: torch.Tensor) -> torch.Tensor:
        """The tokens [B, T] that follow from logits [B, T, V], the next one and those after it."""
        rows, count, _ = logits.shape
        places = self.counts.unsqueeze(1) + torch.arange(count, device=logits.device)
        chosen = self._sampling.pick(logits.flatten(0, 1), self._numbers.repeat_interleave(count), places.flatten())
        return chosen.view(rows, count)

    def emit(self, logits: torch.Tensor) -> int:
        """Give every row its next token from logits [B, V]; returns how many rows had not ended."""
        n = self.generated
        tokens = self._sampling.pick(logits, self._numbers, self.counts)
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

    def take(self, chosen: torch.Tensor, agreed: torch.Tensor) -> torch.Tensor:
        """Give every row the first `agreed` [B] and one more of the tokens `chosen` [B, T]; returns how many it got [B]."""
        count = chosen.shape[1]
        columns = torch.arange(count, device=chosen.device)
        got = torch.minimum(agreed + 1, self.left)
        got = torch.where(self.ended, 0, got)
        if self._eos is not None:
            ends = torch.isin(chosen, self._eos)
            first = torch.where(ends.any(1), ends.long().argmax(1) + 1, count + 1)
            self.ended = self.ended | (first <= got)
            got = torch.minimum(got, first)
        taken = columns < got.unsqueeze(1)
        self.tokens.scatter_(1, self.counts.unsqueeze(1) + columns, torch.where(taken, chosen, self.pad))
        self.counts = self.counts + got
        self._stop(got)
        self.lengths = torch.where(self.ended, self.counts, self.most)
        self.generated = int(self.counts.max())
        self.done = bool((self.ended | (self.counts == self.most)).all())
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
