"""One decoder layer whose sublayers can be called one by one, and what a pass tells it: positions, masks, columns it runs on.

One class per family derives `Block` (families/), most of them by way of blocks.py. Blocks call torch directly on the loaded
weights: the modules of transformers hold the parameters and are never called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.models.cache import Memory
from harness.models.kernels import linear
from harness.plan import Skip

Operations = Sequence[tuple[int, bool | Skip, bool | Skip]]
"""Blocks of a plan in turn: which, and whether its attention and its feed-forward sublayer run (`LayerPlan.calls`)."""

Around = Callable[[int, Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]
"""Runs a block in place of a plain call: its index, what it computes as a function of its input, and the input."""


@dataclass
class Context:
    """What attention needs to know of the columns being processed, the same for every block.

    Attributes:
        positions: position of every token [B, T].
        mask: bool [B, 1, T, S_max], True where a query may look, or None when nothing held is hidden. A block that holds S
            keys uses the first S columns: prompt columns come first in every block, later ones are never hidden.
        causal: queries and keys are the same columns and each looks back only (prefill without padding).
        furthest: no position is larger; asked of the device where it is needed and the caller did not say.
        cache: what families compute once for all blocks, e.g. rotary tables.
        masks: the same of what depends on the mask.
    """

    positions: torch.Tensor
    mask: torch.Tensor | None = None
    causal: bool = False
    furthest: int | None = None
    cache: dict[Any, Any] = field(default_factory=dict)
    masks: dict[Any, Any] = field(default_factory=dict)

    def forget(self) -> None:
        """Compute anew what was computed once."""
        self.cache.clear()
        self.masks.clear()

    def under(self, mask: torch.Tensor) -> Context:
        """The same columns under another mask."""
        return Context(self.positions, mask, False, self.furthest, self.cache)

    def rows(self, rows: torch.Tensor) -> Context:
        """The same columns of some rows [R] alone."""
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else self.mask[rows]
        return Context(self.positions[rows], mask, self.causal, self.furthest)

    def mask_for(self, keys: int) -> torch.Tensor | None:
        """The mask over the first `keys` keys."""
        return None if self.mask is None else self.mask[..., :keys]

    def reaches(self, window: int) -> bool:
        """Whether a query can have a key `window` or more positions behind it."""
        if self.furthest is None:
            self.furthest = int(self.positions.max())
        return self.furthest >= window


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of a pass that a sublayer runs on, where it does not run on all as they are.

    Attributes:
        take: their states, from those of the pass [B, T, D].
        put: new states of theirs into those of the pass.
        context: of their attention.
        scale: what multiplies the states of the pass [B, T, D]: 1 where the sublayer runs; None: nothing.
    """

    take: Callable[[torch.Tensor], torch.Tensor]
    put: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    context: Context
    scale: torch.Tensor | None = None


Runs = bool | Skip | Columns
"""Whether a sublayer runs: on all columns, on some, or on none and what it does all the same."""


def _scaled(runs: Runs, x: torch.Tensor) -> torch.Tensor:
    """The state that passes a sublayer."""
    scale = runs.scale if isinstance(runs, Columns | Skip) else None
    if isinstance(scale, torch.Tensor):
        return (x * scale).to(x.dtype)
    return x if scale is None or scale == 1 else x * scale


class Block(ABC):
    """One decoder layer: an attention sublayer and a feed-forward sublayer, each with its own residual connection.

    Attributes:
        index: 0-based place in the model.
    """

    def __init__(self, index: int) -> None:
        self.index = index

    @abstractmethod
    def maps(self) -> Sequence[linear.Linear]:
        """The linear maps of this block."""

    @abstractmethod
    def attend(self, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        """Attention sublayer: stores K and V of `x` [B, T, D] in `memory`, returns x with the sublayer's output added."""

    @abstractmethod
    def feed(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        """Feed-forward sublayer: x [B, T, D] to the same shape, residual included.

        `entry` is the block's input at the same columns: blocks whose sublayers run side by side feed on it, others on x.
        """

    @abstractmethod
    def normed(self, sublayer: str, x: torch.Tensor) -> torch.Tensor:
        """Take x [..., D] through the norm that stands before `attention` or `feed`; x itself where none does."""

    @abstractmethod
    def keys_values(self, x: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, T, Hkv, d] this block would store for the states x [B, T, D]; nothing else of it is computed."""

    def fill(self, x: torch.Tensor, memory: Memory, context: Context) -> None:
        """Store the keys and values of the states x [B, T, D] in `memory`: the block is skipped, later positions will look here."""
        memory.write(self.index, *self.keys_values(x, context), context.positions)

    def run(self, attends: Runs, feeds: Runs, memory: Memory, context: Context, x: torch.Tensor) -> torch.Tensor:
        """The sublayers that run, each on its columns of x [B, T, D]; what does not run passes x as `Skip` or `Columns` says."""
        x = _scaled(attends, x)
        y = x
        if isinstance(attends, Columns):
            part = attends.take(x)
            new = self.attend(part, memory, attends.context)
            if feeds is attends:
                return attends.put(self.feed(new, part), x)
            y = attends.put(new, x)
        elif attends:
            y = self.attend(x, memory, context)
        elif isinstance(attends, Skip) and attends.fill:
            self.fill(x, memory, context)
        if isinstance(feeds, Columns):
            return _scaled(feeds, feeds.put(self.feed(feeds.take(y), feeds.take(x)), y))
        return self.feed(y, x) if feeds else _scaled(feeds, y)

    def join(self, blocks: Sequence[Block]) -> None:  # noqa: B027 - a family that chooses block by block needs nothing of it
        """Told once of all blocks of the model, for what is chosen for several of them at a time."""

    def run_plan(
        self,
        blocks: Sequence[Block],
        operations: Operations,
        x: torch.Tensor,
        memory: Memory,
        context: Context,
        entry: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """All of a plan's sublayers at once, for blocks that can be run so; None: one by one.

        `entry` is the input of the first block, where that feeds alone; what the last one reads is put into `kept`.
        """
        return None

    def fill_blocks(
        self, blocks: Sequence[Block], layers: Sequence[int], x: torch.Tensor, memory: Memory, context: Context
    ) -> bool:
        """`fill` of several blocks at once, for blocks that can; False: one by one."""
        return False

    def own_threads(self, rows: int) -> AbstractContextManager[None]:
        """See `Decoder.own_threads`."""
        return nullcontext()

    @abstractmethod
    def refresh(self) -> None:
        """Read the weights again from the transformers module (differentiably, when gradients are enabled)."""
