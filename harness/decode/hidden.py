"""Which positions a row may look at where a skipped attention leaves its position hidden in that block (`Gate.kv`)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from harness.models.block import Context


class Seen:
    """What every block's memory holds that rows may look at.

    Args:
        layers: blocks whose attention some position may skip.
        width: positions that the other blocks hold, and these before they are told of any.
        real: bool [B or 1, width], those that are no padding; None: all.

    Attributes:
        held: for each block in which something is hidden bool [B, S], what of its S positions rows may look at.
    """

    def __init__(self, layers: Iterable[int], width: int = 0, real: torch.Tensor | None = None) -> None:
        self.layers = frozenset(layers)
        self.held: dict[int, torch.Tensor] = {}
        self._counts: dict[int, int] = {}
        self._width, self._real = width, real

    def continued(self, width: int, real: torch.Tensor | None, owners: torch.Tensor | None = None) -> Seen:
        """After prompts of this width: row n continues the prompt row `owners[n]`, or row n if there are no owners."""
        found = Seen(self.layers, width, real)
        found._counts = dict(self._counts)
        found.held = {layer: held if owners is None else held[owners] for layer, held in self.held.items()}
        return found

    def skip(self, layer: int, rows: int, device: torch.device) -> None:
        """No position at hand attends: the block stores none of them."""
        if self._counts.setdefault(layer, self._width) == 0 and layer not in self.held:
            self.held[layer] = torch.zeros(rows, 0, dtype=torch.bool, device=device)

    def context(self, layer: int, context: Context, shape: tuple[int, int], seen: torch.Tensor | None) -> Context:
        """The context of B x T positions that a block stores; later ones may look at those of `seen` [B, T] (None: all).

        Every position sees itself: what one that skips the attention computes there is thrown away.
        """
        count = self._counts.get(layer, self._width)
        self._counts[layer] = count + shape[1]
        if seen is None and layer not in self.held:
            return context
        rows, columns = shape
        device = context.positions.device
        before = self.held.get(layer)
        if before is None:
            before = torch.ones(rows, count, dtype=torch.bool, device=device)
            if self._real is not None:
                before[:, : self._width] = self._real
        now = torch.ones(shape, dtype=torch.bool, device=device) if seen is None else seen
        self.held[layer] = torch.cat((before, now), dim=1)
        if columns == 1:
            own = now.new_ones(rows, 1, 1)
        else:
            square = torch.ones(columns, columns, dtype=torch.bool, device=device)
            own = (square.tril() & now.unsqueeze(1)) | torch.eye(columns, dtype=torch.bool, device=device)
        return context.under(torch.cat((before.unsqueeze(1).expand(-1, columns, -1), own), dim=2).unsqueeze(1))
