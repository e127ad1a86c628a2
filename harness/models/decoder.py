"""A decoder whose blocks and sublayers can be called one by one, over weights that transformers loaded.

One class per family derives `Block` and `Decoder` (opt.py, ...), most of them by way of blocks.py. Blocks call torch directly
on the loaded weights: the modules of transformers hold the parameters and are never called.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from harness.errors import BadInput
from harness.models.cache import KVCache, Memory
from harness.models.checks import ignored
from harness.models.kernels import linear, pages
from harness.models.precision import state_dtype, widened
from harness.models.watch import Watch
from harness.plan import Skip

Operations = Sequence[tuple[int, bool | Skip, bool | Skip]]
"""Blocks of a plan in turn: which, and whether its attention and its feed-forward sublayer run (`LayerPlan.calls`)."""

Around = Callable[[int, Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]
"""Runs a block in place of a plain call: its index, what it computes as a function of its input, and the input."""


@dataclass(frozen=True)
class Geometry:
    """Sizes that costs are computed from.

    Attributes:
        depth: number of blocks, L.
        width: hidden size, D.
        heads: attention heads.
        kv_heads: key/value heads.
        head_dim: size of one head.
        vocabulary: rows of the output projection, V.
        max_positions: positions the model can encode, prompt and generated tokens together.
        attention_weights: elements of the query, key, value and output matrices of one block.
        kv_weights: those of the key and value matrices alone.
        feed_weights: elements of the feed-forward matrices of one block.
        head_weights: elements of the output projection (with any matrix between the last block and it).
        embed_weights: elements of matrices between the embedding and the first block (OPT-350m); 0 elsewhere.
        block_vectors: elements of one block's norms and biases.
    """

    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    attention_weights: int
    kv_weights: int
    feed_weights: int
    head_weights: int
    embed_weights: int = 0
    block_vectors: int = 0


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
    """

    positions: torch.Tensor
    mask: torch.Tensor | None = None
    causal: bool = False
    furthest: int | None = None
    cache: dict[Any, Any] = field(default_factory=dict)

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
Decided = Callable[[torch.Tensor], "bool | Columns"]
"""Which columns a feed-forward sublayer runs on, decided when the state [B, T, D] before it is known."""


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
    def keys_values(self, x: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, T, Hkv, d] this block would store for the states x [B, T, D]; nothing else of it is computed."""

    def fill(self, x: torch.Tensor, memory: Memory, context: Context) -> None:
        """Store the keys and values of the states x [B, T, D] in `memory`: the block is skipped, later positions will look here."""
        memory.write(self.index, *self.keys_values(x, context), context.positions)

    def run(
        self, attends: Runs, feeds: Runs | Decided, memory: Memory, context: Context, x: torch.Tensor
    ) -> torch.Tensor:
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
        if callable(feeds):
            feeds = feeds(y)
        if isinstance(feeds, Columns):
            return _scaled(feeds, feeds.put(self.feed(feeds.take(y), feeds.take(x)), y))
        return self.feed(y, x) if feeds else _scaled(feeds, y)

    def join(self, blocks: Sequence[Block]) -> None:  # noqa: B027 - a family that chooses block by block needs nothing of it
        """Told once of all blocks of the model, for what is chosen for several of them at a time."""

    def run_plan(
        self, blocks: Sequence[Block], operations: Operations, x: torch.Tensor, memory: Memory, context: Context
    ) -> torch.Tensor | None:
        """All of a plan's sublayers at once, for blocks that can be run so; None: one by one."""
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


@dataclass
class Decoder(ABC):
    """A loaded model: embedding, blocks, head, tokenizer, and what is known of its weights.

    Threads may share one: its steps take turns (`lock`). Weights that are changed in place are read again by the next generation or
    score, wherever torch counts the change (an optimiser's step, `copy_`, `load_state_dict`, another Parameter); after writing
    through `.data`, call `refresh()`. Modules that are added or replaced after loading (adapters) are refused.

    Attributes:
        name: what it was loaded as, e.g. `opt-e2e-mini/skipdecode`.
        source: the transformers model that holds the parameters.
        tokenizer: transformers tokenizer, or None for a model object given without one.
        extras: trained tensors beside the model's own weights (CALM's probe), by name.
        card: facts about the checkpoint (`trained_for`, `expected_tokens`, ...), empty when it says nothing.
    """

    name: str
    source: Any
    tokenizer: Any = None
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    blocks: Sequence[Block] = field(init=False)
    geometry: Geometry = field(init=False)
    static_steps: dict[Any, Any] = field(init=False, default_factory=dict, repr=False)
    """Buffers and graphs of `harness.decode.static`, which hold on to the weights as they are."""
    lock: threading.RLock = field(init=False, default_factory=threading.RLock, repr=False, compare=False)
    """Held by every step and score: kernels are chosen, and buffers used, by one thread at a time."""
    needs_key_positions: bool = field(init=False, default=False)
    """Attention depends on the distance between positions, so the cache keeps them; set by `build`."""

    def __post_init__(self) -> None:
        self.build()
        for block in self.blocks:
            block.join(self.blocks)
        self.refresh()

    @classmethod
    def check(cls, config: Any) -> None:
        """BadInput for a transformers config of this family that the blocks would not compute exactly."""
        if getattr(config, "quantization_config", None) is not None:
            raise BadInput("model: quantization_config is set; only weights of one floating-point type are supported")
        if getattr(config, "is_heterogeneous", False):
            raise BadInput("model: per_layer_config is set; only layers of one shape are supported")

    @abstractmethod
    def build(self) -> None:
        """Set `blocks` and `geometry` from `source`."""

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return self.geometry.depth

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.source.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def state_dtype(self) -> torch.dtype:
        """Type of states, keys and values (precision.py)."""
        return state_dtype(self.dtype, self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.source.parameters()).device  # type: ignore[no-any-return]

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence, as the checkpoint's generation settings say."""
        eos = self.source.generation_config.eos_token_id
        if eos is None:
            eos = self.source.config.eos_token_id
        return () if eos is None else tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)

    @property
    def pad_token_id(self) -> int:
        """Token that fills rows which ended; falls back to the end token, then to 0."""
        pad = self.source.config.pad_token_id
        if pad is not None:
            return int(pad)
        return self.eos_token_ids[0] if self.eos_token_ids else 0

    @property
    def ignored(self) -> dict[str, Any]:
        """What the checkpoint's generation settings ask for and is not done: decoding is greedy, without penalties or beams."""
        return ignored(self.source.generation_config)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters, shared ones once."""
        return sum(p.numel() * p.element_size() for p in self.source.parameters())

    @abstractmethod
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T] at positions [B, T] to the first block's input [B, T, D]."""

    @abstractmethod
    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Final norm and output projection: [..., D] to logits [..., V]."""

    @abstractmethod
    def refresh_ends(self) -> Sequence[linear.Linear]:
        """Read the weights around the blocks again; returns the linear maps among them."""

    def refresh(self) -> None:
        """Read all fused weights again from the transformers modules."""
        self.static_steps.clear()
        for block in self.blocks:
            block.refresh()
        maps = [*(m for block in self.blocks for m in block.maps()), *self.refresh_ends()]
        group = linear.Group(self.kind, maps)
        for m in maps:
            m.group = group
        self._watch = Watch(self.source)
        pages.give_back(self.source.parameters())

    def renew(self) -> None:
        """Read the weights again if they were changed since; BadInput if modules were added or replaced."""
        if self._watch.modules_changed():
            raise BadInput(
                f"model: {self.name}: modules were added or replaced after loading; what they do when called is not used here: "
                "merge adapters into the weights (peft: merge_and_unload), then load the model again"
            )
        if self._watch.weights_changed():
            with torch.inference_mode():
                self.refresh()

    @property
    def kind(self) -> str:
        """What models share whose steps take the same time: architecture, sizes, and the weights' type unless it is float32."""
        g = self.geometry
        family = type(self).__name__.removesuffix("Decoder").lower()
        sizes = f"{g.depth} x {g.width}, {g.heads}/{g.kv_heads}x{g.head_dim}, {g.feed_weights}, {g.head_weights}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{family} {sizes}" if dtype == "float32" else f"{family} {sizes}, {dtype}"

    def own_threads(self, rows: int) -> AbstractContextManager[None]:
        """What prompts and steps of a generation of so many rows run in, from embedding to choice of tokens: whose threads work."""
        return self.blocks[0].own_threads(rows)

    def run_plan(self, operations: Operations, x: torch.Tensor, memory: Memory, context: Context) -> torch.Tensor:
        """Sublayers of blocks in turn over x [B, T, D]; the memory gets the keys and values of those whose attention runs."""
        if not operations:
            return x
        found = self.blocks[operations[0][0]].run_plan(self.blocks, operations, x, memory, context)
        if found is not None:
            return found
        return self.run_blocks(operations, x, memory, context)

    def run_blocks(
        self,
        operations: Iterable[tuple[int, Runs, Runs | Decided]],
        x: torch.Tensor,
        memory: Memory,
        context: Context,
        around: Around | None = None,
    ) -> torch.Tensor:
        """The loop over blocks, one by one: a plan's, or those of a pass whose sublayers run on some columns of x [B, T, D].

        Args:
            operations: asked for one block at a time, so that what a block gave may decide what runs next.
            x: input of the first block.
            memory: gets the keys and values.
            context: of the columns where a sublayer runs on all of them.
            around: runs each block; None: they are called.
        """
        for layer, attends, feeds in operations:
            block = self.blocks[layer]
            if around is None:
                x = block.run(attends, feeds, memory, context, x)
            else:
                # Bound now: a call on the way back must not meet the loop's last block.
                x = around(layer, partial(block.run, attends, feeds, memory, context), x)
        return x

    def fill(self, layers: Sequence[int], x: torch.Tensor, memory: Memory, context: Context) -> None:
        """Store the keys and values of x [B, T, D] in blocks that are skipped: later positions will look there."""
        if not layers or self.blocks[layers[0]].fill_blocks(self.blocks, layers, x, memory, context):
            return
        for layer in layers:
            self.blocks[layer].fill(x, memory, context)

    def new_cache(self, batch_size: int, capacities: Sequence[int]) -> KVCache:
        """An empty cache of `batch_size` rows with room for `capacities[l]` positions in block l."""
        g = self.geometry
        keep = self.needs_key_positions
        return KVCache(capacities, batch_size, g.kv_heads, g.head_dim, self.state_dtype, self.device, keep)


def layer_norm(x: torch.Tensor, module: Any) -> torch.Tensor:
    """What a `torch.nn.LayerNorm` holding these weights computes."""
    bias = None if module.bias is None else widened(module.bias)
    return torch.layer_norm(x, module.normalized_shape, widened(module.weight), bias, module.eps)


def embedding(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rows of a table [V, D] as states: ids [...] to [..., D]."""
    return widened(F.embedding(ids, table))
