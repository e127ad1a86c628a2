"""The teacher-forced pass under a gate: all positions of continuations at once, each running what it chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from harness.method import Gate
from harness.models.block import Columns, Context
from harness.models.decoder import Decoder
from harness.state import GateState


class GatedColumns:
    """The positions of continuations, sublayer by sublayer, under a gate; x [N, T, D] is their first input.

    A position that skips attention stores its own keys and values: attention takes all of them. The feed-forward sublayer is a
    function of each position alone: those that run it compute it.

    Attributes:
        layers: bool [N, T, L], anything of block l ran at the position.
    """

    def __init__(self, decoder: Decoder, gate: Gate, context: Context, x: torch.Tensor, expected_tokens: int) -> None:
        n, t, _ = x.shape
        self._gate, self._depth, self._context = gate, decoder.depth, context
        self._entry = self._x = x
        step = torch.arange(1, t + 1, device=x.device).expand(n, t).flatten()
        self._state = GateState(decoder.head, decoder.extras, step, expected_tokens)
        self._open = torch.ones(n * t, dtype=torch.bool, device=x.device)
        self.layers = torch.zeros(n, t, decoder.depth, dtype=torch.bool)

    def operations(
        self,
    ) -> Iterator[tuple[int, bool | Columns, bool | Columns | Callable[[torch.Tensor], bool | Columns]]]:
        """The next block, as long as a position may run something of it."""
        gate = self._gate
        for layer in range(self._depth):
            attends = self._asked(layer, "attention", self._entry, self._x)
            if not gate.reopens and not bool(attends.any()):
                return
            self.layers[:, :, layer] = attends.view(self.layers.shape[:2]).cpu()
            if gate.gated(layer, "feed", self._depth):
                yield layer, self._attention(attends), self._decided(layer, attends)
            else:
                feeds = torch.ones_like(attends) if gate.reopens else attends
                self.layers[:, :, layer] |= feeds.view(self.layers.shape[:2]).cpu()
                yield layer, self._attention(attends), self._feed(feeds)

    def after_block(self, x: torch.Tensor) -> None:
        """The states [N, T, D] after the block that just ran."""
        self._entry, self._x = self._x, x

    def _asked(self, layer: int, sublayer: str, entry: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The positions [N * T] that run a sublayer."""
        if not self._gate.gated(layer, sublayer, self._depth):
            return torch.ones_like(self._open) if self._gate.reopens else self._open
        self._state.advance(entry.flatten(0, 1))
        runs = self._gate.runs(layer, sublayer, x.flatten(0, 1), self._state)
        if not self._gate.reopens:
            runs = self._open = self._open & runs
        return runs

    def _decided(self, layer: int, attends: torch.Tensor) -> Callable[[torch.Tensor], bool | Columns]:
        def feeds(y: torch.Tensor) -> bool | Columns:
            runs = self._asked(layer, "feed", self._x, y)
            self.layers[:, :, layer] = (attends | runs).view(self.layers.shape[:2]).cpu()
            return self._feed(runs)

        return feeds

    def _attention(self, runs: torch.Tensor) -> bool | Columns:
        if bool(runs.all()):
            return True
        places = runs.nonzero().squeeze(1)
        return Columns(lambda x: x, lambda new, old: _into(places, new.flatten(0, 1)[places], old), self._context)

    def _feed(self, runs: torch.Tensor) -> bool | Columns:
        places = runs.nonzero().squeeze(1)
        if len(places) in (0, len(runs)):
            return bool(len(places))
        return Columns(
            lambda x: x.flatten(0, 1)[places].unsqueeze(0), lambda new, old: _into(places, new[0], old), self._context
        )


def _into(places: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return old.flatten(0, 1).index_copy(0, places, new).view_as(old)
