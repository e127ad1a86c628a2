"""Rotary positions (Su et al. 2021, arXiv:2104.09864) and the root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from harness.errors import BadInput
from harness.models.block import Context

# How transformers may stretch the frequencies. Two of them depend on the length of the sequence, and keys already stored
# cannot follow: `dynamic` is the plain kind up to the model's own length, `longrope` has its short factors up to the
# original length, and longer sequences are refused (`reachable_positions`).
KINDS = ("default", "linear", "dynamic", "llama3", "longrope", "yarn")


class Rotary:
    """Turns queries and keys by their positions.

    Args:
        module: the rotary module of a transformers model, which holds the frequencies; it is never called.
        layer_type: which of its sets, where it holds one per kind of layer.
    """

    def __init__(self, module: Any, layer_type: str | None = None) -> None:
        prefix = "" if layer_type is None else f"{layer_type}_"
        # transformers overwrites the other copy while it runs.
        self._frequencies: torch.Tensor = getattr(module, f"{prefix}original_inv_freq").float()
        self._scaling: float = getattr(module, f"{prefix}attention_scaling")
        self.size = 2 * self._frequencies.shape[0]

    def __call__(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Turn the first `size` elements of each head of x [B, T, H, d]."""
        cos, sin = self.tables(context, x.dtype)
        if self.size == x.shape[-1]:
            return torch.addcmul(x * cos, torch.roll(x, self.size // 2, -1), sin)
        part, rest = x[..., : self.size], x[..., self.size :]
        return torch.cat((torch.addcmul(part * cos, torch.roll(part, self.size // 2, -1), sin), rest), dim=-1)

    def tables(self, context: Context, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines, and sines with the sign of the half they meet after the roll, [B, T, 1, size] each."""
        tables = context.cache.get(self)
        if tables is None:
            tables = context.cache[self] = self._tables(context.positions, dtype)
        return tables  # type: ignore[no-any-return]

    def _tables(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        angles = positions[:, :, None, None].float() * self._frequencies.to(positions.device)
        cos, sin = angles.cos() * self._scaling, angles.sin() * self._scaling
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


class RMSNorm:
    """x / rms(x) * weight over the last dimension.

    Args:
        weight: [D], or [H, D] for a weight of its own per head. Of a wider type than x: everything is computed in it.
        eps: added to the mean square.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight, self._eps = weight, eps
        self._shape = weight.shape[-1:]
        # torch has no single kernel for it on a CPU: four calls do where its own composition takes seven.
        self._short = weight.device.type == "cpu" and weight.dtype == torch.float32
        if self._short:
            size = self._shape[0]
            self._scaled = weight.detach() * math.sqrt(size)
            self._floor = torch.tensor(math.sqrt(size * eps))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to x [..., D] or [..., H, D]."""
        if self._short and x.dtype == torch.float32 and not torch.is_grad_enabled():
            length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
            return (x * self._scaled).div_(length)
        y = x.to(self.weight.dtype)
        if self.weight.dim() == 1:
            return torch.rms_norm(y, self._shape, self.weight, self._eps).to(x.dtype)
        return (torch.rms_norm(y, self._shape, None, self._eps) * self.weight).to(x.dtype)


def check_rope(config: Any, partial: bool = False) -> None:
    """BadInput unless every set of rotary parameters of a config can be computed exactly."""
    for where, rope in _sets(config).items():
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in KINDS:
            raise BadInput(f"model: {where}.rope_type={kind!r} is not supported; supported are {', '.join(KINDS)}")
        for name, plain in (("partial_rotary_factor", 1.0), ("mrope_section", None)):
            if rope.get(name, plain) not in (plain, None) and not (partial and name == "partial_rotary_factor"):
                raise BadInput(
                    f"model: {where}.{name}={rope[name]!r} is not supported for {config.model_type}; only {plain} is"
                )


def reachable_positions(config: Any) -> int:
    """Positions within which the frequencies stay as they are, whatever the length of the sequence."""
    limits = [rope["original_max_position_embeddings"] for rope in _sets(config).values() if _is_long(rope)]
    return int(min([config.max_position_embeddings, *limits]))


def _is_long(rope: Mapping[str, Any]) -> bool:
    return rope.get("rope_type") == "longrope"


def _sets(config: Any) -> dict[str, Mapping[str, Any]]:
    """Rotary parameters by where the config has them: one set, or one per kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    nested = {f"rope_parameters.{key}": value for key, value in rope.items() if isinstance(value, Mapping)}
    return nested or {"rope_parameters": rope}
