"""A decoder whose blocks (block.py) and sublayers can be called one by one, over weights that transformers loaded.

One class per family derives `Decoder` (families/).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from harness.errors import BadInput
from harness.models.block import Around, Block, Context, Operations, Runs
from harness.models.cache import KVCache, Memory
from harness.models.checks import ignored
from harness.models.kernels import linear
from harness.models.precision import state_dtype, widened
from harness.models.watch import Watch


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
class Decoder(ABC):
    """A loaded model: embedding, blocks, head, tokenizer, and what is known of its weights.

    Threads may share one: its steps take turns (`lock`). Weights that are changed in place are read again by the next generation or
    score, wherever torch counts the change (an optimiser's step, `copy_`, `load_state_dict`, another Parameter); after writing
    through `.data`, call `refresh()`. Modules that are added or replaced after loading (adapters) are refused.

    Attributes:
        name: what it was loaded as, e.g. `opt-e2e-mini/skipdecode-700`.
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
    def output_matrix(self) -> torch.Tensor:
        """Weight of the output projection [V, D]; D may be narrower than the blocks are."""
        return self.source.get_output_embeddings().weight  # type: ignore[no-any-return]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters, shared ones once."""
        return sum(p.numel() * p.element_size() for p in self.source.parameters())

    @abstractmethod
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Token ids [B, T] at positions [B, T] to the first block's input [B, T, D]."""

    @abstractmethod
    def head(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """Final norm and output projection: [..., D] to logits [..., V].

        `output` is a matrix of the shape of `output_matrix` in its place, its bias left out.
        """

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

    def run_stretch(
        self, operations: Operations, x: torch.Tensor, entry: torch.Tensor, memory: Memory, context: Context
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sublayers in turn that stand between two questions of a gate.

        Args:
            operations: as in `run_plan`, without `Skip`; the first may be the feed of a block that attended before.
            x: the state before them [B, T, D].
            entry: the input of the block that x lies in, or that x comes from.
            memory: gets the keys and values.
            context: of the columns.

        Returns:
            The state after them, and the input of the last of their blocks.
        """
        first, attends, _ = operations[0]
        kept = torch.empty_like(x) if len(operations) > 1 else None
        found = self.blocks[first].run_plan(self.blocks, operations, x, memory, context, entry, kept)
        if found is not None:
            return found, kept if kept is not None else x if attends else entry
        for layer, attends, feeds in operations:
            block = self.blocks[layer]
            if attends:
                entry, x = x, block.attend(x, memory, context)
            if feeds:
                x = block.feed(x, entry)
        return x, entry

    def run_blocks(
        self,
        operations: Iterable[tuple[int, Runs, Runs]],
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
