"""What a generation may be asked for, refused before any compute; and what it must not give, numbers that are none."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.errors import BadInput, CellFailed
from harness.method import Method
from harness.models.decoder import Decoder
from harness.plan import LayerPlan


def check_generation(
    decoder: Decoder, ids: torch.Tensor, mask: torch.Tensor | None, max_new_tokens: int, expected_tokens: int | None
) -> None:
    """Raise BadInput if the arguments of a generation do not fit each other or the model."""
    if ids.dim() != 2 or not ids.numel() or ids.is_floating_point():
        raise BadInput(
            f"input_ids: {ids.dtype} of shape {tuple(ids.shape)}; give integers [batch, tokens], one or more of each"
        )
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens: {max_new_tokens} is out of range; give 1 or more")
    if expected_tokens is not None and expected_tokens < 1:
        raise BadInput(f"expected_tokens: {expected_tokens} is out of range; give 1 or more")
    low, high = int(ids.min()), int(ids.max())
    vocabulary = decoder.geometry.vocabulary
    if low < 0 or high >= vocabulary:
        raise BadInput(f"input_ids: token {low if low < 0 else high} is outside the vocabulary 0..{vocabulary - 1}")
    longest = ids.shape[1]
    if mask is not None:
        if mask.shape != ids.shape:
            raise BadInput(f"attention_mask: shape {tuple(mask.shape)} differs from input_ids' {tuple(ids.shape)}")
        seen = mask.bool()
        if not bool(seen[:, -1].all()):
            raise BadInput("attention_mask: a row ends in padding; pad on the left, where decoding does not continue")
        if bool((seen[:, :-1] & ~seen[:, 1:]).any()):
            raise BadInput("attention_mask: a row has padding between its tokens; all padding belongs on the left")
        longest = int(seen.sum(1).max())
    limit = decoder.geometry.max_positions
    if longest > limit:
        raise BadInput(f"input_ids: a prompt of {longest} tokens is longer than the model's {limit} positions")
    if longest + max_new_tokens - 1 > limit:
        raise BadInput(
            f"max_new_tokens: {max_new_tokens} after a prompt of {longest} tokens needs {longest + max_new_tokens - 1} "
            f"positions, the model has {limit}; give at most {limit - longest + 1}"
        )


def check_finite(values: torch.Tensor | float | None, what: str) -> None:
    """Raise CellFailed if a number is NaN or infinite: whatever is read from such numbers (a token, a score) means nothing."""
    if values is None or bool(torch.as_tensor(values).isfinite().all()):
        return
    raise CellFailed(f"{what}: not finite; the weights hold NaN or infinite values, or their type is too narrow")


def check_plans(method: Method, depth: int, prompt: LayerPlan, plans: Sequence[LayerPlan]) -> None:
    """BadInput unless plans are of the model's `depth` blocks and store keys and values only where the prompt left some."""
    name = getattr(method, "name", type(method).__name__)
    if prompt.depth != depth:
        raise BadInput(f"{name}: prompt_plan() is of {prompt.depth} blocks, the model has {depth}")
    if method.exact and prompt != LayerPlan.full(depth):
        raise BadInput(f"{name}: prompt_plan() skips sublayers, but an exact method must give the full model's tokens")
    for k, plan in enumerate(plans, start=1):
        if plan.depth != depth:
            raise BadInput(f"{name}: the plan of step {k} is of {plan.depth} blocks, the model has {depth}")
        layer = next(
            (i for i, (held, more) in enumerate(zip(prompt.stores, plan.stores, strict=True)) if more > held), None
        )
        if layer is not None:
            raise BadInput(
                f"{name}: step {k} stores keys and values in block {layer}, which holds none of the prompt; "
                "let prompt_plan() attend or fill there"
            )
