"""What runs where: the plan of one position, the step it belongs to, and the trace of a whole generation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch

from harness.errors import BadInput


@dataclass(frozen=True)
class Skip:
    """What a sublayer that does not run does all the same: the state is multiplied by `scale`, then its keys and values stored.

    Attributes:
        scale: factor of the state, a number or a tensor that multiplies [B, T, D].
        fill: the block stores keys and values of the state (attention alone).
    """

    scale: float | torch.Tensor = 1.0
    fill: bool = False

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class LayerPlan:
    """The sublayers that run at one position; not an exit index, so skipping below and exiting above are one type.

    Attributes:
        attention: for each of the L blocks, whether its attention sublayer runs.
        feed: for each of the L blocks, whether its feed-forward sublayer runs.
        fill: for each of the L blocks, whether it stores the keys and values of the state that passes it though its attention
            does not run, so that later positions may look there; empty: none does.
        scale: for each of the 2 L sublayers (attention of block 0, feed of block 0, attention of block 1, ...) the factor that
            multiplies the state where it does not run; empty: 1, the state passes as it is.
    """

    attention: tuple[bool, ...]
    feed: tuple[bool, ...]
    fill: tuple[bool, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        depth = len(self.attention)
        if depth != len(self.feed):
            raise BadInput(f"plan: {depth} attention flags but {len(self.feed)} feed flags; give one each")
        if self.fill and len(self.fill) != depth:
            raise BadInput(f"plan: {len(self.fill)} fill flags for {depth} blocks; give one each, or none")
        if self.scale and len(self.scale) != 2 * depth:
            raise BadInput(f"plan: {len(self.scale)} scales for {2 * depth} sublayers; give one each, or none")
        if any(a and f for a, f in zip(self.attention, self.fill, strict=False)):
            raise BadInput("plan: a block is to attend and to fill; attention stores keys and values itself")
        if not all(math.isfinite(factor) for factor in self.scale):
            raise BadInput("plan: a scale is not a finite number")

    @staticmethod
    def full(depth: int) -> LayerPlan:
        """Every sublayer of `depth` blocks."""
        return _whole_blocks(tuple(range(depth)), depth)

    @staticmethod
    def of(blocks: Iterable[int], depth: int) -> LayerPlan:
        """Both sublayers of the given blocks (0-based), nothing of the others."""
        return _whole_blocks(tuple(sorted(set(blocks))), depth)

    @property
    def depth(self) -> int:
        """Number of blocks of the model, L."""
        return len(self.attention)

    @cached_property
    def operations(self) -> tuple[tuple[int, bool, bool], ...]:
        """(block, attention runs, feed runs) for the blocks of which anything runs, from the bottom up."""
        return tuple((i, a, f) for i, (a, f) in enumerate(zip(self.attention, self.feed, strict=True)) if a or f)

    @cached_property
    def calls(self) -> tuple[tuple[int, bool | Skip, bool | Skip], ...]:
        """`operations`, with what a sublayer that does not run does to the state and the cache (`Skip`)."""
        if not self.filled and not any(factor != 1 for factor in self.scale):
            return self.operations
        found: list[tuple[int, bool | Skip, bool | Skip]] = []
        scale = self.scale or (1.0,) * (2 * self.depth)
        for layer in range(self.depth):
            attends = True if self.attention[layer] else Skip(scale[2 * layer], layer in self.filled)
            feeds = True if self.feed[layer] else Skip(scale[2 * layer + 1])
            found.append((layer, attends, feeds))
        return tuple(call for call in found if call[1:] != (Skip(), Skip()))

    @cached_property
    def filled(self) -> tuple[int, ...]:
        """The blocks that store keys and values without attending."""
        return tuple(i for i, fills in enumerate(self.fill) if fills)

    @cached_property
    def stores(self) -> tuple[bool, ...]:
        """For each block, whether it stores the position's keys and values."""
        return tuple(a or i in self.filled for i, a in enumerate(self.attention))

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of which anything runs, from the bottom up."""
        return tuple(i for i, _, _ in self.operations)

    @property
    def budget(self) -> int:
        """How many blocks run."""
        return len(self.operations)


@lru_cache(maxsize=4096)
def _whole_blocks(blocks: tuple[int, ...], depth: int) -> LayerPlan:
    if blocks and not 0 <= blocks[0] <= blocks[-1] < depth:
        raise BadInput(f"plan: blocks {blocks[0]}..{blocks[-1]} do not fit a model of {depth} blocks (0..{depth - 1})")
    flags = tuple(i in blocks for i in range(depth))
    return LayerPlan(flags, flags)


@dataclass(frozen=True)
class Step:
    """One decode step.

    Attributes:
        index: k = 1, 2, ...; step k processes the token at position P+k-1 and yields generated token k.
        expected_tokens: how many tokens the run is expected to generate, fixed before it starts.
    """

    index: int
    expected_tokens: int


@dataclass(frozen=True)
class Pass:
    """One run over some columns inside a step that drafts and verifies.

    Attributes:
        plan: the sublayers that ran.
        columns: columns of every row.
        keys: keys each attention looked at, itself included.
        head_rows: rows and columns for which the vocabulary projection was computed.
        draft: the pass made a draft; False: it verified one.
        probe: neither: the method learnt from it what to draft next time.
        embeds: it began with token ids; False: with states.
    """

    plan: LayerPlan
    columns: int
    keys: int
    head_rows: int
    draft: bool
    probe: bool = False
    embeds: bool = True


@dataclass
class StepTrace:
    """What one decode step really did, as the engine saw it. B rows, L blocks.

    Attributes:
        plan: the sublayers computed for the batch column.
        ran: bool [B, 2, L], for each row the attention and the feed-forward sublayers that took part in its newest state, or None
            when every row ran the plan.
        filled: blocks that wrote K and V for all rows from a state that passed their attention.
        test_heads: vocabulary projections computed for exit tests, summed over rows.
        test_reads: how often exit tests read the vocabulary projection, each time for all rows they looked at.
        test_flops: other matrix and vector work of exit tests, in FLOPs, summed over rows.
        head_rows: rows for which the final vocabulary projection was computed.
        passes: what a step that drafts and verifies ran, in order; `plan` is then that of the tokens it yielded. Where tokens
            are computed again with a later one, the one pass over them all.
        drafted: tokens drafted for each row [B], in such a step.
        rows: rows (at the prompt: positions) that attention and feed of each block of the plan were computed for, where some were
            left out; None: all.
        fill_rows: rows times blocks that wrote K and V only, beside rows that attended.
        yielded: tokens each row got from the step [B]; None: one each.
    """

    plan: LayerPlan
    ran: torch.Tensor | None = None
    filled: tuple[int, ...] = ()
    test_heads: int = 0
    test_flops: int = 0
    head_rows: int = 0
    passes: tuple[Pass, ...] = ()
    drafted: torch.Tensor | None = None
    yielded: torch.Tensor | None = None
    rows: tuple[tuple[int, int], ...] | None = None
    fill_rows: int = 0
    test_reads: int = 0

    def runs(self, sublayer: str) -> list[int]:
        """How many columns of a row `attention` or `feed` of each block was computed for [L]."""
        passes = self.passes or (Pass(self.plan, 1, 0, 0, False),)
        flags = [(p.columns, getattr(p.plan, sublayer)) for p in passes]
        return [sum(columns for columns, ran in flags if ran[layer]) for layer in range(self.plan.depth)]


@dataclass
class Trace:
    """Which sublayers ran at every position of a generation; built from the engine's own step records.

    Index n of every tensor is the generated token: n = 0 came from prefill, n >= 1 from decode step n
    (where steps draft and verify, from the step that yielded it).
    Rows that ended (EOS) keep being computed; use the output's `lengths` to leave those positions out.

    Attributes:
        batch_size: B.
        depth: L.
        prompt_width: columns of the padded prompt, P.
        steps: one record per decode step.
    """

    batch_size: int
    depth: int
    prompt_width: int
    prefill: StepTrace
    steps: list[StepTrace] = field(default_factory=list)

    @property
    def attention(self) -> torch.Tensor:
        """Bool [B, N, L]: the attention sublayer of block l took part in the position that yielded token n."""
        return self._flags("attention")

    @property
    def feed(self) -> torch.Tensor:
        """Bool [B, N, L]: the same for the feed-forward sublayer."""
        return self._flags("feed")

    @property
    def layers(self) -> torch.Tensor:
        """Bool [B, N, L]: anything of block l ran at the position that yielded token n."""
        return self.attention | self.feed

    @property
    def computed(self) -> torch.Tensor:
        """Bool [N, L]: block l was computed for the batch column, also where some rows had exited (the batch tax)."""
        rows = [step.plan for step in (self.prefill, *self.steps)]
        return torch.tensor([[a or f for a, f in zip(p.attention, p.feed, strict=True)] for p in rows])

    @property
    def drafts(self) -> bool:
        """Whether the steps drafted and verified, so that rows may have got several tokens from one."""
        return bool(self.steps) and self.steps[0].yielded is not None

    def _flags(self, sublayer: str) -> torch.Tensor:
        if self.drafts:
            # Every token that was yielded is the full model's own: all blocks ran at its position.
            got = torch.stack([s.yielded for s in self.steps if s.yielded is not None]).sum(0)
            return torch.ones(self.batch_size, 1 + int(got.max()), self.depth, dtype=torch.bool)
        records = (self.prefill, *self.steps)
        column = torch.tensor([getattr(step.plan, sublayer) for step in records])  # [N, L]
        flags = column.unsqueeze(0).expand(self.batch_size, -1, -1).clone()
        for n, step in enumerate(records):
            if step.ran is not None:
                flags[:, n] = step.ran[:, 0 if sublayer == "attention" else 1].cpu()
        return flags
