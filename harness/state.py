"""What a gate may look at while positions go up the blocks, and the meter of what looking costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from harness.errors import BadInput

Norm = Callable[[int, str, torch.Tensor], torch.Tensor]
"""The model's own norm before a sublayer: block, `attention` or `feed`, states [R, D]."""


def _no_norm(layer: int, sublayer: str, x: torch.Tensor) -> torch.Tensor:
    return x


class GateState:
    """What a gate may look at, and the meter of what looking costs.

    R positions are asked at once: those of a decode step's rows, or many positions of a prompt or of given tokens.

    Attributes:
        step: decode step index k, an int, or a tensor [R] when many positions are scored at once; 0 at the prompt.
        expected_tokens: as in `Step`.
        previous: state [R, D] before the block that just ran: asked before a feed-forward sublayer, that is its own block.
        extras: trained tensors beside the model's own weights, by name.
        memory: what the method's `begin` returned for the prompts at hand.
        scratch: whatever a question leaves for a later one about the same positions, tensors with a row for each of the R.
        openness: what `runs` may leave beside its answer: how open the gate is, [R] or [R, D], see `Gate.weighs`. In a training
            pass it is differentiated.
        training: the pass is differentiated: a gate that trains by its openness leaves it, and may draw noise.
    """

    def __init__(
        self,
        head: Callable[[torch.Tensor], torch.Tensor],
        extras: Mapping[str, torch.Tensor],
        step: int | torch.Tensor,
        expected_tokens: int,
        memory: Any = None,
        *,
        norm: Norm = _no_norm,
        rows: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        training: bool = False,
    ) -> None:
        self.step = step
        self.memory = memory
        self.scratch: dict[str, torch.Tensor] = {}
        self.expected_tokens = expected_tokens
        self.extras = extras
        self.training = training
        self.openness: torch.Tensor | None = None
        self.previous: torch.Tensor | None = None
        self.test_heads = self.test_reads = 0
        self.test_flops = 0
        self.last_logits: torch.Tensor | None = None
        self._head, self._norm = head, norm
        self._rows, self._positions = rows, positions
        self.picked: torch.Tensor | None = None
        """Which of the positions are asked now, where not all are; kept by whoever asks."""

    def advance(self, previous: torch.Tensor) -> None:
        """Come to the next question: remember the input of the block it is about and forget what the one before left."""
        self.previous = previous
        self.last_logits = self.openness = None

    @property
    def rows(self) -> torch.Tensor:
        """The row of the batch (as in `Start`) that each position belongs to [R]; `memory` may have a row for each."""
        return self._of_picked(self._rows, "rows")

    @property
    def positions(self) -> torch.Tensor:
        """The place of each position in its own sequence, from 0, padding left out [R]."""
        return self._of_picked(self._positions, "positions")

    def _of_picked(self, whole: torch.Tensor | None, name: str) -> torch.Tensor:
        if whole is None:
            raise BadInput(f"state.{name}: not known here")
        whole = whole.flatten()
        return whole if self.picked is None else whole[self.picked]

    @property
    def at_prompt(self) -> bool:
        """The positions are those of the prompts: all of them, at once."""
        return isinstance(self.step, int) and self.step == 0

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """At the prompt the mean of x [R, D] over all positions of a row, for each of them [R, D]; elsewhere x itself."""
        if not self.at_prompt:
            return x
        rows = self.rows
        count = int(rows.max()) + 1
        sums = x.new_zeros(count, x.shape[1]).index_add(0, rows, x)
        return (sums / torch.bincount(rows, minlength=count).clamp_min(1).unsqueeze(1))[rows]

    def normed(self, layer: int, sublayer: str, x: torch.Tensor) -> torch.Tensor:
        """States x [R, D] through the model's own norm before a sublayer; x where the model has none there."""
        return self._norm(layer, sublayer, x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of the hidden states [R, D] through the model's own final norm and head; charged per row."""
        self.test_heads += hidden.shape[0]
        self.test_reads += 1
        self.last_logits = self._head(hidden)
        return self.last_logits

    def cosine(self, hidden: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Cosine [R] of states with others, or the input of the block that just ran; charged 6 D FLOPs per row."""
        other = self.previous if other is None else other
        if other is None:
            raise BadInput("exit state: no block ran before this test, so there is nothing to compare with")
        self.test_flops += 6 * hidden.numel()
        return F.cosine_similarity(hidden.float(), other.float(), dim=-1)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The map `name` (`name.weight` [O, I], `name.bias` [O] where there is one) of x [R, I], [R, O]; charged 2 I O a row."""
        weight = self.extras[f"{name}.weight"]
        self.test_flops += 2 * x.shape[0] * weight.numel()
        return F.linear(x, weight, self.extras.get(f"{name}.bias"))

    def rms_norm(self, name: str, x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
        """States x [R, I] over their root mean square, times `name.weight` [I]; not charged, as no norm is."""
        return F.rms_norm(x, x.shape[-1:], self.extras[f"{name}.weight"], eps)

    def probe(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """Sigmoid of the linear probe `name` (`name.weight` [1, D], `name.bias` [1]) at each row [R]; charged 2 D a row."""
        return torch.sigmoid(self.linear(name, hidden).squeeze(-1).float())


def largest_probability(logits: torch.Tensor) -> torch.Tensor:
    """How sure a prediction is: the largest probability of logits [R, V], [R]."""
    logits = logits.float()
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()
