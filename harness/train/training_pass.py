"""A teacher-forced pass with its labels, as the losses of a method's training see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from harness.decode.prompt_pass import Forced, Through, at_once
from harness.models.decoder import Decoder
from harness.training import Asked, Moment


@dataclass
class LabelledPass:
    """A differentiable teacher-forced pass with its labels: the `TrainingPass` that losses are given.

    Attributes:
        decoder: the model being trained.
        forced: the pass; its targets are the continuations without their last token.
        owners: prompt row of each continuation [N].
        labels: the continuations themselves [N, T+1]; column 0 is predicted from the prompt's last token.
        real: bool [N, T+1], False at padding.
        extras: extra tensors being trained, by name.
        moment: where the training stands.
        through: how the head is called.
    """

    decoder: Decoder
    forced: Forced
    owners: torch.Tensor
    labels: torch.Tensor
    real: torch.Tensor
    extras: dict[str, torch.Tensor]
    moment: Moment = Moment(0, 1)
    through: Through = at_once

    @property
    def gates(self) -> Sequence[Asked]:
        """See `TrainingPass.gates`."""
        return self.forced.gates

    def states(self, layer: int | None = None) -> torch.Tensor:
        """States [R, D] that predict the R real labels: after block `layer`, or the final ones."""
        if layer is None:
            first, rest = self.forced.prompt_last, self.forced.target_hidden
        else:
            first, rest = self.forced.prompt_blocks[layer], self.forced.target_blocks[layer]
        return torch.cat((first[self.owners].unsqueeze(1), rest), dim=1)[self.real]

    def loss_at(self, layer: int | None = None) -> torch.Tensor:
        """Mean cross-entropy of the real labels, predicted by the model's own head from the state after block `layer`."""
        labels = self.labels[self.real]
        return self.through(lambda x: F.cross_entropy(self.decoder.head(x).float(), labels), self.states(layer))

    def final_loss(self) -> torch.Tensor:
        """Mean cross-entropy after the last block."""
        return self.loss_at(None)
