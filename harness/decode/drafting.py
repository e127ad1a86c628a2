"""Steps that draft and verify: tokens are drafted, the full model runs over all of them at once, and what agrees is kept.

The model drafts one token after the other with some of its own sublayers, or the method proposes tokens that come from elsewhere.
Rows accept different numbers of tokens, so every row has a column of its own in the cache from which it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.decode.columns import CacheColumns
from harness.decode.probing import Probes
from harness.decode.rows import Rows
from harness.errors import BadInput
from harness.method import Draft
from harness.models.block import Context, Operations
from harness.models.cache import KVCache
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Pass, StepTrace


@dataclass
class _Drafts:
    """What a step drafted.

    Attributes:
        tokens: [B, T], the newest token of every row and the drafted ones after it.
        lengths: how many of them are drafts of each row's own.
        states: after the shared blocks, [B, 1, D] of every column that ran them.
        below: where all states are kept, those of every column after each sublayer of the shared blocks, the first one's
            input before them.
        passes: what was run.
    """

    tokens: torch.Tensor
    lengths: list[int]
    states: list[torch.Tensor] = field(default_factory=list)
    below: list[list[torch.Tensor]] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)


class DraftSteps:
    """The steps of one generation under a draft.

    Args:
        decoder: the model.
        method: drafts.
        memory: of the generation, from `Draft.begin`.
        cache: holds the prompts.
        rows: of the generation.
        ids: prompts [B, P], left-padded.
        mask: bool [B, P], False for padding; None without.
    """

    def __init__(
        self,
        decoder: Decoder,
        method: Draft,
        memory: Any,
        cache: KVCache,
        rows: Rows,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> None:
        self.decoder, self.cache, self.rows, self.ids = decoder, cache, rows, ids
        self._method, self._memory = method, memory
        self.width = ids.shape[1]
        self._new: list[list[int]] | None = None
        self.columns = CacheColumns(decoder, cache, self.width, mask)

    def step(self) -> tuple[torch.Tensor, StepTrace]:
        """Logits [B, T, V] of all columns that were verified, and what ran; the rows have their tokens then."""
        decoder, depth, method, rows = self.decoder, self.decoder.depth, self._method, self.rows
        counts = rows.counts.tolist()
        if self._new is None:
            self._new = rows.tokens[:, :1].tolist()
        most = min(method.draft_tokens, rows.most - min(counts) - 1)
        keeps = method.keeps_states(self._memory)
        proposed = method.propose(self._new, self._memory)
        shared = 0
        if proposed is None:
            plan = method.draft_plan(depth, self._memory)
            # Leading blocks that the draft runs whole compute what the full model computes there: their output is kept.
            whole = [a and f for a, f in zip(plan.attention, plan.feed, strict=True)]
            shared = whole.index(False) if False in whole else depth
            drafts = self._drafted(plan, shared, most, keeps, counts)
        else:
            drafts = self._proposed(proposed, most)
        tokens = drafts.tokens
        count = tokens.shape[1]
        context, held = self.columns.at(counts, 0, count)
        x = torch.cat(drafts.states, dim=1) if shared else decoder.embed(tokens, context.positions)
        kept = [torch.cat(columns, dim=1) for columns in zip(*drafts.below, strict=True)] or [x]
        x = self._run(_whole(shared, depth), x, context, kept if keeps else None)
        logits = decoder.head(x)
        passes = drafts.passes
        passes.append(
            Pass(LayerPlan.of(range(shared, depth), depth), count, held, tokens.numel(), False, embeds=not shared)
        )
        chosen = rows.pick_columns(logits)
        said, drafted = chosen.tolist(), drafts.lengths
        asked = tokens[:, 1:].tolist()
        agreed = [
            next((i for i in range(length) if ours[i] != theirs[i]), length)
            for ours, theirs, length in zip(said, asked, drafted, strict=True)
        ]
        self._new = rows.take(said, agreed)
        lengths = torch.tensor(drafted)
        if not rows.done:
            learned = Probes(self, tokens, logits, chosen, lengths, agreed, kept if keeps else [], counts)
            method.verified(learned, self._memory)
            passes += learned.passes
        yielded = torch.tensor([len(got) for got in self._new])
        return logits, StepTrace(LayerPlan.full(depth), passes=tuple(passes), drafted=lengths, yielded=yielded)

    def _proposed(self, proposed: Sequence[Sequence[int]], most: int) -> _Drafts:
        """Drafts that the method brought, at most so many for each row."""
        own = [list(tokens)[:most] for tokens in proposed]
        if len(own) != self.ids.shape[0]:
            raise BadInput(
                f"{self._method.name}: propose() gives {len(own)} rows of tokens for {self.ids.shape[0]} rows"
            )
        width, vocabulary = max(map(len, own)), self.decoder.geometry.vocabulary
        if any(not 0 <= token < vocabulary for tokens in own for token in tokens):
            raise BadInput(f"{self._method.name}: propose() gives a token outside the vocabulary 0..{vocabulary - 1}")
        padded = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in own], dtype=torch.long)
        newest = self.rows.newest
        tokens = torch.cat((newest, padded.to(newest.device)), 1) if width else newest
        return _Drafts(tokens, [len(tokens) for tokens in own])

    def _drafted(self, plan: LayerPlan, shared: int, most: int, keeps: bool, counts: list[int]) -> _Drafts:
        """At most so many tokens, one after the other, under a plan whose first `shared` blocks are whole."""
        decoder, depth = self.decoder, self.decoder.depth
        rows = self.ids.shape[0]
        token = self.rows.newest
        tokens, drafts = [token], _Drafts(token, [0] * rows)
        drafting = [True] * rows
        below, above = _whole(0, shared), tuple(call for call in plan.calls if call[0] >= shared)

        def share(context: Context) -> torch.Tensor:
            """The shared blocks over the newest token; what they give is kept."""
            x = decoder.embed(token, context.positions)
            if keeps and shared:
                drafts.below.append([x])
            x = self._run(below, x, context, drafts.below[-1] if keeps and shared else None)
            drafts.states.append(x)
            return x

        for i in range(most):
            context, held = self.columns.at(counts, i, 1)
            x = share(context)
            logits = decoder.head(self._run(above, x, context)[:, 0])
            drafts.passes.append(Pass(plan, 1, held, rows, True))
            token = self.rows.pick(logits, i).unsqueeze(1)
            tokens.append(token)
            drafts.lengths = [length + goes for length, goes in zip(drafts.lengths, drafting, strict=True)]
            more = self._method.goes_on(logits, self._memory)
            if more is not None:
                drafting = [goes and on for goes, on in zip(drafting, more.tolist(), strict=True)]
                if not any(drafting):
                    break
        if shared:
            context, held = self.columns.at(counts, len(tokens) - 1, 1)
            share(context)
            drafts.passes.append(Pass(LayerPlan.of(range(shared), depth), 1, held, 0, len(tokens) > 1))
        drafts.tokens = torch.cat(tokens, 1)
        return drafts

    def _run(
        self, calls: Operations, x: torch.Tensor, context: Context, states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Calls over x; of whole blocks `states` gets what each sublayer gave."""
        if states is None:
            return self.decoder.run_plan(calls, x, self.cache, context)
        for layer, _, _ in calls:
            block = self.decoder.blocks[layer]
            y = block.attend(x, self.cache, context)
            x = block.feed(y, x)
            states += [y, x]
        return x


def _whole(first: int, end: int) -> Operations:
    """Blocks `first` .. `end` - 1."""
    return tuple((layer, True, True) for layer in range(first, end))
