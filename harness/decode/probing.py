"""What a draft may compute after a verification to draft better next time: all of it charged, none of it kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.errors import BadInput
from harness.models.block import Context
from harness.models.cache import KVCache
from harness.plan import LayerPlan, Pass

if TYPE_CHECKING:
    from harness.decode.drafting import DraftSteps


class Probes:
    """A verification as `harness.method.Verification` describes it.

    Args:
        steps: the generation's, whose rows have the new tokens already.
        tokens: ids of the columns [B, T].
        logits: of the full model [B, T, V].
        chosen: tokens that follow from them [B, T].
        drafted: tokens drafted for each row [B].
        agreed: how many of them agreed.
        states: after every sublayer [B, T, D], the first one's input before them; empty where they were not kept.
        counts: tokens of each row before.

    Attributes:
        passes: what was computed.
    """

    def __init__(
        self,
        steps: DraftSteps,
        tokens: torch.Tensor,
        logits: torch.Tensor,
        chosen: torch.Tensor,
        drafted: torch.Tensor,
        agreed: Sequence[int],
        states: Sequence[torch.Tensor],
        counts: Sequence[int],
    ) -> None:
        self.tokens, self.logits, self.chosen, self.states = tokens, logits, chosen, states
        self.drafted = drafted
        self.passes: list[Pass] = []
        self._steps, self._counts = steps, counts
        self._agreed = agreed

    @cached_property
    def agreed(self) -> torch.Tensor:
        """See `Verification.agreed`."""
        return torch.tensor(self._agreed, device=self.logits.device)

    @property
    def known(self) -> int:
        """See `Verification.known`."""
        return int(self._steps.rows.counts.min())

    def try_plan(self, plan: LayerPlan, columns: int) -> torch.Tensor:
        """See `Verification.try_plan`."""
        if not 1 <= columns <= self.known:
            raise BadInput(
                f"try_plan: {columns} columns; every row has generated {self.known} tokens, give at most those"
            )
        steps, decoder = self._steps, self._steps.decoder
        # The token of a column is the one before the token it predicts: the first generated one is predicted by the prompt.
        known = torch.cat((steps.ids, steps.rows.tokens), dim=1)
        end = steps.width + steps.rows.counts
        first = end - columns - 1
        span = torch.arange(columns + 1, device=first.device)
        ids = known.gather(1, first.unsqueeze(1) + span)
        start = int(first.max())
        seen = torch.arange(start, device=first.device) < first[:, None, None]
        x = decoder.embed(ids[:, :-1], steps.columns.positions(first, columns))
        context = self._context(seen.expand(-1, columns, -1), steps.columns.positions(first, columns), causal=True)
        memory = _Beside(steps.cache, start)
        x = decoder.run_blocks(plan.calls, x, memory, context)
        logits = decoder.head(x)
        rows = x.shape[0]
        self.passes.append(Pass(plan, columns, start + columns, rows * columns, True, probe=True))
        return logits.argmax(-1) == ids[:, 1:]

    def branch(self, layer: int, sublayer: str, x: torch.Tensor, entry: torch.Tensor | None = None) -> torch.Tensor:
        """See `Verification.branch`."""
        steps, depth = self._steps, self._steps.decoder.depth
        block = steps.decoder.blocks[layer]
        at = steps.width - 1 + self.agreed + torch.tensor(self._counts, device=x.device)
        start, count = int(at.max()), x.shape[1]
        flags = tuple(i == layer for i in range(depth))
        none = (False,) * depth
        if sublayer == "feed":
            self.passes.append(Pass(LayerPlan(none, flags), count, 0, 0, True, probe=True, embeds=False))
            return block.feed(x, x if entry is None else entry)
        seen = torch.arange(start, device=at.device) < at[:, None, None]
        positions = steps.columns.positions(at, 1).expand(-1, count)
        context = self._context(seen.expand(-1, count, -1), positions, causal=False)
        self.passes.append(Pass(LayerPlan(flags, none), count, start + count, 0, True, probe=True, embeds=False))
        return block.attend(x, _Beside(steps.cache, start), context)

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        """See `Verification.heads`."""
        depth = self._steps.decoder.depth
        heads = states[..., 0].numel()
        self.passes.append(Pass(LayerPlan.of((), depth), 1, 0, heads, True, probe=True, embeds=False))
        return self._steps.decoder.head(states)

    def _context(self, seen: torch.Tensor, positions: torch.Tensor, causal: bool) -> Context:
        """Columns that look at cache columns `seen` [B, T, S] and, of each other, at those before them or at none."""
        count = seen.shape[1]
        own = torch.ones(count, count, dtype=torch.bool, device=seen.device)
        own = own.tril() if causal else torch.eye(count, dtype=torch.bool, device=seen.device)
        mask = torch.cat((self._steps.columns.visible(seen), own.expand(seen.shape[0], -1, -1)), dim=2)
        return Context(positions, mask.unsqueeze(1))


class _Beside:
    """Columns that look at the first `held` columns of a cache and at each other, and are kept nowhere."""

    def __init__(self, cache: KVCache, held: int) -> None:
        self._cache, self._held = cache, held
        self._positions: torch.Tensor | None = None

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Memory.extend`."""
        before = self._cache.whole(layer)
        self._positions = positions
        own = keys.transpose(1, 2), values.transpose(1, 2)
        joined = [torch.cat((b[:, :, : self._held], o), dim=2) for b, o in zip(before, own, strict=True)]
        return joined[0], joined[1]

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """See `Memory.write`; nobody looks here later."""

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`."""
        assert self._positions is not None, "asked after keys were given"
        return torch.cat((self._cache.whole_positions(layer)[:, : self._held], self._positions), dim=1)
