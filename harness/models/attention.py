"""Scaled dot-product attention with what families add to it: windows, ALiBi, soft-caps and other scales.

Whatever depends on distance asks the memory where its keys are: a block that did not run at a position holds no key for it,
so places in the cache say nothing about distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from harness.models.block import Context
from harness.models.precision import autocasts


@dataclass(frozen=True, eq=False)
class Rule:
    """How a block's attention differs from softmax(q k / sqrt(d)) v.

    Attributes:
        scale: factor of the scores instead of 1 / sqrt(d).
        window: positions a query sees, its own included.
        softcap: scores are squeezed into +-softcap by tanh, before anything is hidden.
        slopes: ALiBi [H]: every position of distance costs this much score.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    slopes: torch.Tensor | None = None

    @property
    def needs_positions(self) -> bool:
        """Whether the positions of the keys matter."""
        return self.window is not None or self.slopes is not None


PLAIN = Rule()


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    context: Context,
    rule: Rule = PLAIN,
    key_positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of q [B, T, H, d] over k, v [B, Hkv, S, d]; returns [B, T, H*d].

    Args:
        q: queries.
        k: every key held.
        v: the value of each.
        context: of the columns of q.
        rule: what differs from plain attention.
        key_positions: [B, S], where `rule.needs_positions`.
    """
    rows, columns, heads, size = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    mask, causal = context.mask_for(keys), context.causal and columns > 1
    if rule.slopes is not None or (rule.window is not None and context.reaches(rule.window)):
        assert key_positions is not None
        mask, causal = _by_distance(rule, mask, context, key_positions, columns, q.dtype), False
    if rule.softcap is not None:
        return _softcapped(q, k, v, mask, causal, rule.scale or size**-0.5, rule.softcap)
    if columns > 1 and q.device.type == "cpu" and torch.is_grad_enabled():
        return _differentiable(q, k, v, context, mask, causal, rule)
    if columns == 1 and heads != kv_heads and rule.slopes is None:
        # The heads of a group stand as queries of its key head: nothing has to repeat the keys.
        grouped = q.view(rows, kv_heads, heads // kv_heads, size)
        out = F.scaled_dot_product_attention(grouped, k, v, mask, scale=rule.scale)
        return out.reshape(rows, 1, heads * size)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, mask, is_causal=causal, scale=rule.scale, enable_gqa=heads != kv_heads
    )
    return out.transpose(1, 2).flatten(2)


def _by_distance(
    rule: Rule,
    mask: torch.Tensor | None,
    context: Context,
    key_positions: torch.Tensor,
    columns: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The mask with windows in it, bool [B, 1, T, S], or with ALiBi what is added to the scores [B, H, T, S]."""
    # Keys as many as columns are the columns themselves, in every block: one mask serves all.
    fresh = key_positions.shape[1] == columns
    name = (rule.window, rule.slopes is None)
    if fresh and name in context.masks:
        return context.masks[name]  # type: ignore[no-any-return]
    at = context.positions
    if context.causal:  # without padding every row is alike
        key_positions, at = key_positions[:1], at[:1]
        mask = torch.ones(columns, columns, dtype=torch.bool, device=at.device).tril()[None, None]
    distance = key_positions[:, None, None, :] - at[:, None, :, None]
    if rule.window is not None:
        near = distance > -rule.window
        mask = near if mask is None else near & mask
    if rule.slopes is not None:
        bias = rule.slopes.view(1, -1, 1, 1) * distance
        mask = (bias if mask is None else torch.where(mask, bias, float("-inf"))).to(dtype)
    assert mask is not None
    if fresh:
        context.masks[name] = mask
    return mask


def _differentiable(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    context: Context,
    mask: torch.Tensor | None,
    causal: bool,
    rule: Rule,
) -> torch.Tensor:
    """Attention whose way back is short on a CPU, in the type of mixed precision where that is on.

    torch's fused kernels are slow backwards in bfloat16, and its composed one widens everything to float32, repeats keys for
    their group of heads and looks for rows that see nothing. Here the heads of a group stand as queries of its key head, and what
    is hidden is a summand, made once for all blocks. A row that sees nothing, which is padding, gets the mean of all values.
    """
    rows, columns, heads, size = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    group = heads // kv_heads
    dtype = torch.get_autocast_dtype(q.device.type) if autocasts(q.device) else q.dtype
    name = ("summand", keys, heads, kv_heads, dtype)
    summand = None if rule.needs_positions else context.masks.get(name)
    if summand is None:
        if causal:
            mask = torch.ones(columns, keys, dtype=torch.bool, device=q.device).tril()[None, None]
        if mask is None:
            mask = torch.ones(1, 1, columns, keys, dtype=torch.bool, device=q.device)
        least = torch.finfo(dtype).min
        added = torch.where(mask, 0.0, least) if mask.dtype == torch.bool else mask.clamp_min(least)
        if added.shape[0] == 1 and added.shape[1] == 1:
            summand = added[0].to(dtype).repeat(1, group, 1)  # the same for all rows and heads
        else:
            summand = added.to(dtype).expand(rows, heads, columns, keys).reshape(rows * kv_heads, group * columns, keys)
        if not rule.needs_positions:
            context.masks[name] = summand
    queries = q.to(dtype).view(rows, columns, kv_heads, group, size).permute(0, 2, 3, 1, 4)
    queries = queries.reshape(rows * kv_heads, group * columns, size)
    across = k.to(dtype).transpose(2, 3).reshape(rows * kv_heads, size, keys)
    scores = torch.baddbmm(summand, queries, across, alpha=rule.scale or size**-0.5)
    out = torch.bmm(scores.softmax(-1).to(dtype), v.to(dtype).reshape(rows * kv_heads, keys, size))
    return out.view(rows, kv_heads, group, columns, size).permute(0, 3, 1, 2, 4).reshape(rows, columns, heads * size)


def _softcapped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool, scale: float, cap: float
) -> torch.Tensor:
    """Attention whose scores go through tanh, which no fused kernel of torch does."""
    rows, columns, heads, size = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    grouped = q.view(rows, columns, kv_heads, -1, size).permute(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, size)
    scores = torch.tanh(_matmul(grouped, k.transpose(2, 3)) * (scale / cap)) * cap  # [B, Hkv, G*T, S]
    if causal:
        mask = torch.ones(columns, keys, dtype=torch.bool, device=q.device).tril()[None, None]
    if mask is not None:
        split = scores.view(rows, kv_heads, -1, columns, keys)
        bias = mask.unsqueeze(2)
        hidden = torch.where(bias, split, float("-inf")) if mask.dtype == torch.bool else split + bias
        scores = hidden.view(scores.shape)
    out = _matmul(scores.softmax(-1, dtype=torch.float32).to(v.dtype), v)
    return out.view(rows, kv_heads, -1, columns, size).permute(0, 3, 1, 2, 4).reshape(rows, columns, -1)


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Products of a [B, Hkv, M, K] with b [B, Hkv, K, N], where b views the cache."""
    if b.shape[0] == 1 or b.device.type != "cpu":
        return torch.matmul(a, b)
    # Rows and heads of the cache are no single dimension: one product over both would copy all keys at every step.
    return torch.stack([torch.bmm(a[:, h], b[:, h]) for h in range(b.shape[1])], dim=1)
