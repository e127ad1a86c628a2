"""Columns of a cache that are written anew: drafts taken back, tokens that are computed again."""

from __future__ import annotations

import torch

from harness.models.block import Context
from harness.models.cache import KVCache
from harness.models.decoder import Decoder


class CacheColumns:
    """Where in the cache the tokens of each row stand.

    Args:
        decoder: the model.
        cache: holds the prompts.
        width: columns of the prompts.
        mask: bool [B, P], False for padding on their left; None without.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, width: int, mask: torch.Tensor | None) -> None:
        self._cache, self._width, self._mask = cache, width, mask
        self._padding = None if mask is None else (mask.sum(1) - width).unsqueeze(1)
        self._furthest, self._device = decoder.geometry.max_positions - 1, decoder.device

    def at(self, counts: list[int], ahead: int, count: int) -> tuple[Context, int]:
        """Context of `count` columns of every row, the cache made to write there; and the keys seen.

        The first of them is that of a row's newest token when it had `counts` [B] tokens, or so many columns ahead of it.
        """
        lowest = self._width + min(counts) - 1 + ahead
        level = min(counts) == max(counts)
        column = torch.tensor([self._width + c - 1 + ahead for c in counts], device=self._device)
        held = self._cache.seek(lowest if level else column, count)
        positions = self.positions(column, count)
        if level and count == 1 and self._mask is None:
            return Context(positions), held
        columns = column.unsqueeze(1) + torch.arange(count, device=column.device)
        seen = torch.arange(held, device=column.device) <= columns.unsqueeze(2)
        return Context(positions, self.visible(seen).unsqueeze(1)), held

    def positions(self, column: torch.Tensor, count: int) -> torch.Tensor:
        """Positions [B, count] of the columns from `column` [B] on."""
        columns = column.unsqueeze(1) + torch.arange(count, device=column.device)
        # Rows that are done are computed along; what lies beyond the last position is theirs, or will be thrown away.
        positions = columns if self._padding is None else columns + self._padding
        return positions.clamp(0, self._furthest)

    def visible(self, seen: torch.Tensor) -> torch.Tensor:
        """A mask [B, T, S] over cache columns, with padding hidden."""
        if self._mask is None:
            return seen
        real = self._mask[:, : seen.shape[2]]
        later = real.new_ones(real.shape[0], seen.shape[2] - real.shape[1])
        return seen & torch.cat((real, later), dim=1).unsqueeze(1)
