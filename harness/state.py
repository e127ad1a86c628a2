"""What a gate may look at while a step runs, and the meter of what looking costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from harness.errors import BadInput


class GateState:
    """What a gate may look at at one step, and the meter of what looking costs.

    Attributes:
        step: decode step index k, an int, or a tensor [R] when many positions are scored at once.
        expected_tokens: as in `Step`.
        previous: state [R, D] before the block that just ran: asked before a feed-forward sublayer, that is its own block.
        extras: trained tensors beside the model's own weights, by name.
        memory: what the method's `begin` returned; None where positions are scored.
        scratch: whatever a test leaves for a later one of the same step, tensors with a row for each of the R.
    """

    def __init__(
        self,
        head: Callable[..., torch.Tensor],
        extras: Mapping[str, torch.Tensor],
        step: int | torch.Tensor,
        expected_tokens: int,
        memory: Any = None,
    ) -> None:
        self.step = step
        self.memory = memory
        self.scratch: dict[str, torch.Tensor] = {}
        self.expected_tokens = expected_tokens
        self.extras = extras
        self.previous: torch.Tensor | None = None
        self.test_heads = self.test_reads = 0
        self.test_flops = 0
        self.last_logits: torch.Tensor | None = None
        self._head = head

    def advance(self, previous: torch.Tensor) -> None:
        """Come to the next test: remember the input of the block it is about and forget the logits of the test before."""
        self.previous = previous
        self.last_logits = None

    def logits(self, hidden: torch.Tensor, head: str = "") -> torch.Tensor:
        """Logits [R, V] of the hidden states [R, D] through the model's own final norm and head; charged per row.

        `head` names an output matrix among the extras, of the shape of the model's, to stand in its place (`head.weight`). A row
        that leaves here has its token from these logits, whichever they are.
        """
        self.test_heads += hidden.shape[0]
        self.test_reads += 1
        self.last_logits = self._head(hidden, self.extras[f"{head}.weight"]) if head else self._head(hidden)
        return self.last_logits

    def cosine(self, hidden: torch.Tensor) -> torch.Tensor:
        """Cosine [R] of the hidden states with the input of the block that just ran; charged 6 D FLOPs per row."""
        if self.previous is None:
            raise BadInput("exit state: no block ran before this test, so there is nothing to compare with")
        self.test_flops += 6 * hidden.numel()
        return torch.nn.functional.cosine_similarity(hidden.float(), self.previous.float(), dim=-1)

    def probe(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """Sigmoid of the linear probe `name` (`name.weight` [1, D], `name.bias` [1]) at each row [R]; charged 2 D a row."""
        self.test_flops += 2 * hidden.numel()
        weight, bias = self.extras[f"{name}.weight"], self.extras[f"{name}.bias"]
        return torch.sigmoid(torch.nn.functional.linear(hidden, weight, bias).squeeze(-1).float())


def largest_probability(logits: torch.Tensor) -> torch.Tensor:
    """How sure a prediction is: the largest probability of logits [R, V], [R]."""
    logits = logits.float()
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()
