"""Blocks of Llama's kind: RMS norms, rotary positions, groups of heads that share a key head, a gated feed-forward sublayer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from typing_extensions import override

from harness.errors import BadInput
from harness.models.attention import PLAIN, Rule
from harness.models.block import Context
from harness.models.decoder import Decoder, embedding
from harness.models.families.blocks import Function, FusedBlock, activation, check_activation, geometry
from harness.models.fused import Norm, Sublayers
from harness.models.kernels.linear import Joined, Linear
from harness.models.precision import widened
from harness.models.rotary import RMSNorm, Rotary, check_rope, reachable_positions

FULL, SLIDING = "full_attention", "sliding_attention"


class GatedBlock(FusedBlock):
    """A block of this kind."""

    def __init__(self, index: int, module: Any, config: Any, rotary: Rotary, rule: Rule, act: Function) -> None:
        super().__init__(index, module, config.num_attention_heads, config.num_key_value_heads, rule)
        self._eps: float = config.rms_norm_eps
        self._rotary = rotary
        self._act = act

    def norm(self, module: Any) -> RMSNorm:
        """The norm of a transformers module."""
        return RMSNorm(widened(module.weight), self._eps)

    def fused(self) -> tuple[Linear, Linear]:
        """The maps to queries, keys and values, and to gate and up [2 F, D]."""
        attn, mlp = self.module.self_attn, self.module.mlp
        return _joined(attn.q_proj, attn.k_proj, attn.v_proj), _joined(mlp.gate_proj, mlp.up_proj)

    @override
    def refresh(self) -> None:
        qkv, up = self.fused()
        out, down = self.module.self_attn.o_proj, self.module.mlp.down_proj
        self.set_maps(qkv, Linear(out.weight, out.bias), up, Linear(down.weight, down.bias))
        self.attention_norm = self.norm(self.module.input_layernorm)
        self.feed_norm = self.norm(self.module.post_attention_layernorm)

    @override
    def sublayers(self) -> Sublayers | None:
        """A kind with more to its sublayers has no kernel."""
        mine, plain = type(self), GatedBlock
        if (mine.encode, mine.close_attention, mine.feed_in_calls) != (
            plain.encode,
            plain.close_attention,
            plain.feed_in_calls,
        ):
            return None
        modules = self.module.input_layernorm, self.module.post_attention_layernorm
        norms = [Norm(widened(m.weight), None, self._eps, "rms") for m in modules]
        return self.plainly(self._act, norms, gated=True, rotary=self._rotary)

    @override
    def encode(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        return self._rotary(x, context)

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """What the last matrix of the feed-forward sublayer is applied to, [B, T, F]."""
        gate, up = self._up(self.feed_norm(x)).chunk(2, -1)
        return self._act(gate) * up

    @override
    def feed_in_calls(self, x: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        return self._down(self.gated(x), x)


def _joined(*parts: Any) -> Linear:
    """One map for several linear modules over the same input."""
    bias = None if parts[0].bias is None else torch.cat([p.bias for p in parts])
    return Linear(Joined([p.weight for p in parts]), bias)


class NormedBlock(GatedBlock):
    """A gated block that also norms every query and key head, before they are turned."""

    @override
    def refresh(self) -> None:
        super().refresh()
        q, k = self.norm(self.module.self_attn.q_norm), self.norm(self.module.self_attn.k_norm)
        both = torch.cat((q.weight.expand(self._heads, -1), k.weight.expand(self._kv_heads, -1)))
        self._head_norm, self._key_norm = RMSNorm(both, self._eps), k

    @override
    def encode(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        return self._rotary((self._key_norm if x.shape[2] == self._kv_heads else self._head_norm)(x), context)


class GatedDecoder(Decoder):
    """A model of gated blocks: `model.embed_tokens`, `model.layers`, `model.norm` and an output matrix."""

    block: ClassVar[type[GatedBlock]] = GatedBlock
    act_field: ClassVar[str] = "hidden_act"
    partial_rotary: ClassVar[bool] = False

    @classmethod
    @override
    def check(cls, config: Any) -> None:
        super().check(config)
        check_rope(config, cls.partial_rotary)
        check_activation(config, cls.act_field)

    def windows(self) -> Sequence[int | None]:
        """Positions each block sees, None where it sees all."""
        return [None] * int(self.source.config.num_hidden_layers)

    def rule(self, window: int | None) -> Rule:
        """How a block that sees `window` positions attends."""
        return PLAIN if window is None else Rule(window=window)

    def rotaries(self) -> Sequence[Rotary]:
        """What turns the heads of each block."""
        return [Rotary(self.source.model.rotary_emb)] * int(self.source.config.num_hidden_layers)

    @override
    def build(self) -> None:
        config, layers = self.source.config, self.source.model.layers
        positions = reachable_positions(config)
        # A window over every position there is hides nothing.
        windows = [None if window is None or window >= positions else window for window in self.windows()]
        self.needs_key_positions = any(windows)
        act = activation(getattr(config, self.act_field))
        self.blocks = [
            self.block(i, layer, config, rotary, self.rule(window), act)
            for i, (layer, rotary, window) in enumerate(zip(layers, self.rotaries(), windows, strict=True))
        ]
        self.geometry = geometry(
            config,
            layers,
            "self_attn",
            self.source.get_output_embeddings(),
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            max_positions=positions,
        )

    @override
    def embed(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return embedding(ids, self.source.model.embed_tokens.weight)

    @override
    def head(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        x = self._norm(x)
        return self._output(x) if output is None else F.linear(x, widened(output))

    @override
    def refresh_ends(self) -> tuple[Linear, ...]:
        self._norm = self.blocks[0].norm(self.source.model.norm)  # type: ignore[attr-defined]
        output = self.source.get_output_embeddings()
        self._output = Linear(output.weight, output.bias)
        return (self._output,)


def check_window(config: Any) -> None:
    """BadInput for a window without room."""
    window = config.sliding_window
    if window is not None and window < 1:
        raise BadInput(
            f"model: sliding_window={window!r} of {config.model_type} is not supported; give 1 or more, or null"
        )


def check_layer_types(config: Any) -> None:
    """BadInput unless every block sees all positions or those within a window that is given."""
    check_window(config)
    known = {FULL} if config.sliding_window is None else {FULL, SLIDING}
    for kind in config.layer_types:
        if kind not in known:
            raise BadInput(
                f"model: layer_types has {kind!r}, not supported for {config.model_type}"
                f"{' without sliding_window' if kind == SLIDING else ''}; supported are {', '.join(sorted(known))}"
            )


def typed_windows(config: Any) -> list[int | None]:
    """The window of each block, by its kind."""
    return [config.sliding_window if kind == SLIDING else None for kind in config.layer_types]
