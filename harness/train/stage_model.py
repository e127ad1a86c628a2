"""A decoder as the module a training stage runs: its forward is the loss of one batch under a method."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import methods
from harness.decode.forced import force
from harness.decode.prompt_pass import Through, at_once
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.kernels import linear
from harness.records.limits import BASELINE
from harness.train.training_pass import LabelledPass
from harness.training import Moment, TrainingPlan, TrainingStage

_GPU_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class ForcedModel(nn.Module):
    """A decoder as a torch module whose forward is the loss of one training stage.

    Attributes:
        moment: where the training stands; whoever runs it keeps this up to date.

    Args:
        decoder: the model.
        plan: of the method.
        stage: of the plan.
        expected_tokens: see `Step`.
        seed: of what is drawn for a batch.
        recompute: compute blocks and heads again on the way back (gradient checkpointing).
    """

    def __init__(
        self,
        decoder: Decoder,
        plan: TrainingPlan,
        stage: TrainingStage,
        expected_tokens: int,
        seed: int,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.moment = Moment(0, 1)
        self._recompute = recompute
        self.source = decoder.source
        self.extras = nn.ParameterDict()
        if (values := _begun(stage, decoder)) is not None:
            if stage.frozen:
                self.source.requires_grad_(False)
            self.extras.update({name.replace(".", "__"): nn.Parameter(value) for name, value in values.items()})
        if stage.inside:
            # From now on, so that a later stage runs under what this one trained, also where it was resumed.
            decoder.extras = {**decoder.extras, **self.named_extras()}
        self._decoder, self._plan, self.stage = decoder, plan, stage
        self._expected_tokens, self._seed = expected_tokens, seed
        self._full = methods.create(BASELINE)
        self.register_state_dict_post_hook(_drop_unsaved)  # type: ignore[no-untyped-call]

    @property
    def _keys_to_ignore_on_save(self) -> list[str]:
        """What a saved state leaves out, and the Trainer therefore does not miss: tied twins, and weights nothing changes."""
        tied = [f"source.{name}" for name in getattr(self.source, "_tied_weights_keys", None) or ()]
        frozen = [name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad]
        return list(dict.fromkeys((*tied, *frozen)))

    def tie_weights(self) -> None:
        """Called by the Trainer after loading; the twins share one tensor all along, so there is nothing to do."""

    def named_extras(self) -> dict[str, torch.Tensor]:
        """The extra tensors being trained, under the names methods know."""
        return {name.replace("__", "."): value for name, value in self.extras.items()}

    def forward(
        self,
        prompts: torch.Tensor,
        prompt_lengths: torch.Tensor,
        owners: torch.Tensor,
        labels: torch.Tensor,
        real: torch.Tensor,
        draw: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Loss of one batch from `collate`."""
        method: Method = self._full
        chosen = self.stage.draw or self._plan.draw
        if chosen is not None:
            method = chosen(random.Random(f"{self._seed}-{int(draw)}"), self.moment)
        seed = (int(draw) << 16) ^ (self.moment.step << 1) ^ self._seed
        generator = torch.Generator().manual_seed(seed)
        # A frozen model needs no gradients through it where the loss reads its states and trains only the extras.
        inside = self.stage.inside or not self.stage.frozen
        grad = torch.is_grad_enabled() and (not self.extras or inside)
        # Of what has no gradients; a CPU has attention of its own for the rest (attention.py).
        backends = [SDPBackend.MATH] if labels.device.type == "cpu" else _GPU_BACKENDS
        through = _again(backends) if self._recompute and torch.is_grad_enabled() else at_once
        # A gate's own noise is that of the batch and the step too, so that a resumed run draws the same.
        noise = torch.random.fork_rng([labels.device] if labels.is_cuda else [])
        with noise, torch.set_grad_enabled(grad), sdpa_kernel(backends), linear.only("torch"):
            torch.manual_seed(seed)
            self._decoder.refresh()
            forced = force(
                self._decoder,
                method,
                prompts,
                prompt_lengths,
                labels[:, :-1],
                # Every prompt has a continuation: as many continuations as prompts are one for each, in order.
                None if len(owners) == len(prompts) else owners,
                expected_tokens=self._expected_tokens,
                target_lengths=real.sum(1) - 1,
                keep_blocks=self.stage.keep_blocks,
                dropped=self.dropped(prompts, generator),
                through=through,
                training=self.stage.inside,
            )
        passed = LabelledPass(self._decoder, forced, owners, labels, real, self.named_extras(), self.moment, through)
        with sdpa_kernel(backends), linear.only("torch"):  # a loss may run blocks again
            return {"loss": self.stage.loss(passed)}

    def dropped(self, prompts: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Blocks left out for each prompt [M, L], drawn anew for every batch and step; None where nothing is."""
        if self.stage.dropout is None or not self.training:
            return None
        rates = torch.tensor(self.stage.dropout(self.moment, self._decoder.depth))
        return (torch.rand(prompts.shape[0], len(rates), generator=generator) < rates).to(prompts.device)


def _begun(stage: TrainingStage, decoder: Decoder) -> dict[str, torch.Tensor] | None:
    """The extra tensors of a stage as they begin, in float32; None: it has none."""
    if stage.begin is not None:
        with torch.no_grad():
            return {name: value.detach().float().clone() for name, value in stage.begin(decoder).items()}
    if stage.extras is None:
        return None
    begins = stage.extras(decoder.geometry).items()
    return {name: each.clone() if isinstance(each, torch.Tensor) else torch.zeros(each) for name, each in begins}


def _again(backends: Sequence[SDPBackend]) -> Through:
    """Calls that keep their input alone and compute the rest again on the way back, with the same attention kernels."""

    def through(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), sdpa_kernel(list(backends))

        return checkpoint(function, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]

    return through


def _drop_unsaved(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Leave out what need not be saved; safetensors also refuses one tensor under two names."""
    for name in module._keys_to_ignore_on_save:
        state.pop(prefix + name, None)
