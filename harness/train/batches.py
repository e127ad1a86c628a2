"""What a training computes: pairs of prompt and references, batches of them, and the loss of one batch under a method."""

from __future__ import annotations

import contextlib
import hashlib
import random
import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import methods
from harness import tasks
from harness.decode.forced import force
from harness.decode.prompt_pass import Through, at_once
from harness.errors import BadInput
from harness.method import Method, Moment, TrainingPlan, TrainingStage
from harness.models.decoder import Decoder
from harness.models.kernels import layouts
from harness.train.recipes import DataSource
from harness.train.training_pass import TrainingPass

_GPU_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Pair:
    """One prompt with some of its references, as token ids; references end with the end token."""

    prompt: list[int]
    targets: list[list[int]]

    @property
    def cost(self) -> int:
        """Length by which batches are grouped: mostly that of the continuations, several of which share one prompt."""
        return len(self.prompt) // 4 + max(map(len, self.targets))


class Pairs(torch.utils.data.Dataset[Pair]):
    """Pairs of some data, references of one prompt in groups of similar length.

    Args:
        sources: where they come from.
        decoder: the model, for its tokenizer and the positions it has.
        data: local data folder.
        group: continuations that share one prompt in a batch, at most.
        max_tokens: longer pairs are left out and counted in `dropped`; None: what the model can hold.
    """

    def __init__(
        self,
        sources: Sequence[DataSource],
        decoder: Decoder,
        data: Path | None,
        group: int,
        max_tokens: int | None = None,
    ) -> None:
        tokenizer = decoder.tokenizer
        room = min(decoder.geometry.max_positions, (max_tokens or decoder.geometry.max_positions + 1) - 1)
        self.pairs: list[Pair] = []
        self.dropped = 0
        lengths: list[int] = []
        for source in sources:
            examples = tasks.create(source.task, data).examples(source.split, source.limit)
            prompts = tokenizer([e.prompt for e in examples]).input_ids
            # A reference continues its prompt: the start token many tokenizers put before a text has no place there.
            references = [
                tokenizer(list(e.references[: source.references]), add_special_tokens=False).input_ids for e in examples
            ]
            for prompt, texts in zip(prompts, references, strict=True):
                texts = sorted(([*ids, tokenizer.eos_token_id] for ids in texts), key=len)
                fits = [ids for ids in texts if len(prompt) + len(ids) - 1 <= room]
                self.dropped += len(texts) - len(fits)
                lengths.extend(map(len, fits))
                self.pairs.extend(Pair(prompt, fits[i : i + group]) for i in range(0, len(fits), group))
        if not self.pairs:
            raise BadInput(f"data: no pair of prompt and reference fits into {room + 1} tokens; raise max_tokens")
        self.references = len(lengths)
        self.median_tokens = int(statistics.median(lengths))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify the pairs as token ids."""
        return hashlib.sha256(repr([(p.prompt, p.targets) for p in self.pairs]).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


def collate(pairs: Sequence[Pair], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded prompts [M, P] with their lengths [M], continuations [N, T+1], the prompt row of each, and a batch number."""
    width = max(len(p.prompt) for p in pairs)
    targets = [(row, ids) for row, pair in enumerate(pairs) for ids in pair.targets]
    length = max(len(ids) for _, ids in targets)
    labels = torch.tensor([ids + [pad] * (length - len(ids)) for _, ids in targets])
    return {
        "prompts": torch.tensor([p.prompt + [pad] * (width - len(p.prompt)) for p in pairs]),
        "prompt_lengths": torch.tensor([len(p.prompt) for p in pairs]),
        "owners": torch.tensor([row for row, _ in targets]),
        "labels": labels,
        "real": torch.tensor([[i < len(ids) for i in range(length)] for _, ids in targets]),
        # What a method draws for this batch depends on the batch alone, so a resumed run draws the same.
        "draw": torch.tensor(zlib.crc32(labels.numpy().tobytes())),
    }


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
        if stage.extras is not None:
            self.source.requires_grad_(False)
            shapes = stage.extras(decoder.geometry.width)
            self.extras.update(
                {name.replace(".", "__"): nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
            )
        self._decoder, self._plan, self._stage = decoder, plan, stage
        self._expected_tokens, self._seed = expected_tokens, seed
        self._full = methods.create("full")
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
        if self._plan.draw is not None:
            method = self._plan.draw(random.Random(f"{self._seed}-{int(draw)}"))
        generator = torch.Generator().manual_seed((int(draw) << 16) ^ (self.moment.step << 1) ^ self._seed)
        grad = torch.is_grad_enabled() and self._stage.extras is None
        # A frozen model needs no gradients through it: the loss reads its states and trains only the extras.
        # The fused attention kernels of a CPU are slow backwards in bfloat16; the plain one is the faster there.
        backends = [SDPBackend.MATH] if labels.device.type == "cpu" else _GPU_BACKENDS
        through = _again(backends) if self._recompute and torch.is_grad_enabled() else at_once
        with torch.set_grad_enabled(grad), sdpa_kernel(backends), layouts.only("row"):
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
                keep_blocks=self._stage.keep_blocks,
                dropped=self._dropped(prompts, generator),
                through=through,
            )
        extras = self.named_extras()
        passed = TrainingPass(self._decoder, forced, owners, labels, real, extras, self.moment, through)
        return {"loss": self._stage.loss(passed)}

    def _dropped(self, prompts: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Blocks left out for each prompt [M, L], drawn anew for every batch and step; None where nothing is."""
        if self._stage.dropout is None or not self.training:
            return None
        rates = torch.tensor(self._stage.dropout(self.moment, self._decoder.depth))
        return (torch.rand(prompts.shape[0], len(rates), generator=generator) < rates).to(prompts.device)


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
