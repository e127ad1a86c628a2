"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) by peft, on a model whose blocks read weights and never call modules.

An adapted module of peft computes W x + s B A x when it is called. Blocks here fuse and apply `module.weight` instead, so the
adapted modules answer with the weight W + s B A, through which gradients reach A and B (kernels/low_rank.py). Dropout between x and
A cannot be had this way. After training the adapters are merged: the checkpoint is one of plain weights; or they are taken out
again, and kept beside the name of the checkpoint they were trained on (harness/models/delta.py).
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import nn

from harness.errors import BadInput
from harness.models.kernels.low_rank import Adapted
from harness.train.recipes import LoraSettings


def attach(source: Any, settings: LoraSettings) -> Any:
    """Put adapters into a transformers model, in place; everything else is frozen.

    Returns:
        peft's model, which knows the adapters.

    Raises:
        BadInput: peft is missing, or finds no such module in this model.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise BadInput("lora: peft is not installed; pip install 'depthbench[lora]', or train all weights") from None
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type,unused-ignore]
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear" if settings.targets is None else list(settings.targets),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():  # peft asks transformers by a name that transformers is giving up
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(source, config)
    except ValueError as error:
        raise BadInput(f"lora: {' '.join(str(error).split())[:300]}") from None
    for module in list(source.modules()):
        if isinstance(module, LoraLayer):
            module.__class__ = _whole(type(module))
    return model


def merge(model: Any) -> None:
    """Add the adapters to the weights they stand on, in float32, and take them out of the model again."""
    model.float()
    model.merge_and_unload()


def take_out(model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Take the adapters out of the model, which has the weights again that they stood on.

    Returns:
        for each adapted weight, by its name in that model, left (rows, rank) and right (rank, columns) in float32; their product
        is what the adapter adds to it.
    """
    from peft.tuners.lora import LoraLayer

    source = model.get_base_model()
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    layers: list[Any] = [module for module in source.modules() if isinstance(module, LoraLayer)]
    for module in layers:
        (adapter,) = module.active_adapters
        left = module.scaling[adapter] * module.lora_B[adapter].weight.detach().float()
        right = module.lora_A[adapter].weight.detach().float()
        sides = (right.T, left.T) if getattr(module, "fan_in_fan_out", False) else (left, right)
        found[id(module.get_base_layer().weight)] = (sides[0].contiguous(), sides[1].contiguous())
    model.unload()
    names = {id(parameter): name for name, parameter in source.named_parameters()}
    return {names[key]: sides for key, sides in found.items()}


@functools.cache
def _whole(cls: type) -> type:
    """A class like `cls` whose `weight` includes the adapters."""

    def weight(self: Any) -> torch.Tensor | Adapted:
        layer = self.get_base_layer()
        base = layer.weight
        if self.merged:
            return base  # type: ignore[no-any-return]
        if isinstance(layer, nn.Linear) and len(self.active_adapters) == 1:
            (name,) = self.active_adapters
            return Adapted(base, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
        return base + sum(self.get_delta_weight(name) for name in self.active_adapters).to(base.dtype)  # type: ignore[no-any-return]

    return type(f"Whole{cls.__name__}", (cls,), {"weight": property(weight)})
