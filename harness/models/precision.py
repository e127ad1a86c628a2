"""What is stored in which type, and what is computed in.

On a CPU bfloat16 is a type of weights: they are widened to float32, which rounds nothing, when they are read. States, sums, norms,
keys and values are float32, so that a model with bfloat16 weights gives what the same rounded weights give in float32. That halves
what a decode step reads, and needs no instructions for bfloat16. Elsewhere everything is of the weights' type.
"""

from __future__ import annotations

import torch


def state_dtype(weights: torch.dtype, device: torch.device | str) -> torch.dtype:
    """What states, keys and values are, where weights are of this type."""
    widened = weights == torch.bfloat16 and torch.device(device).type == "cpu"
    return torch.float32 if widened else weights


def widened(stored: torch.Tensor) -> torch.Tensor:
    """What was read of the weights (a norm's, a bias, rows of an embedding) in the type that is computed in."""
    return stored.float() if stored.dtype == torch.bfloat16 and stored.device.type == "cpu" else stored


def autocasts(device: torch.device) -> bool:
    """Whether mixed precision is on for what computes on this device; nothing computes on the one of sizes alone."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
