"""Exits by confidence at a few fixed blocks, as EE-LLM and the early-exit baselines of many papers have them.

Papers: Chen, Pan, Li, Ding, Zhou, "EE-LLM: Large-Scale Training and Inference of Early-Exit Large Language Models with 3D
Parallelism", ICML 2024, arXiv:2312.04916 (largest probability; pan-x-c/EE-LLM); Pan, Chen, Li, Ding, Zhou, "EE-Tuning: An
Economical yet Scalable Solution for Tuning Early-Exit Large Language Models", 2024, arXiv:2402.00518 (heads of their own);
entropy as in DeeBERT (Xin et al. 2020, arXiv:2004.12993); margin of the two largest probabilities as in CALM (Schuster et al.
2022, arXiv:2207.07061), here without its decay.

Rule. After each of the `exits` a head predicts the token: the model's own final norm and output matrix, or (`heads=own`) the
final norm and a matrix trained for this exit, which then also yields the token of a row that leaves. A row leaves where the
confidence is at least `threshold`: the largest probability, the difference of the two largest, or 1 - entropy / log V. Without
`exits`, the blocks after a quarter and after half of the depth, where EE-LLM's 7B and 1.3B models have theirs.

Missing K/V (`keys`). `propagate`: every block above projects its own from the exit state (CALM's answer). `recompute`, EE-LLM's
first answer: tokens that left are fed again from the first block on together with the newest one, as far as that goes; once a
token reaches the top, all of them have. Whoever attends finds the full model's keys and values. Only the newest token is tested.
A row of which `pending` tokens wait runs to the top: the released code has this limit, at 100, commented out. EE-LLM's second
answer, a pipeline that computes the blocks above in full meanwhile, needs several devices and is not here.

Training. `heads=own` is EE-Tuning: everything is frozen but the exits' matrices, which begin as copies of the model's and learn
from the mean cross-entropy of all exits. Weights for the model's head at its exits: those of CALM's training.

Deviations. EE-LLM trains backbone and exits together and unties their heads; with `heads=model` the model's head stands for
them, so its published numbers are of another experiment. EE-Tuning's exits are a matrix alone ("embedding"), with a norm before
it, with an MLP, or a whole block; here it is the second, where the norm is the model's final one: a scale of the exit's own is
part of its matrix, a bias it has none. In a batch every row decides for itself (the released code asks its last row
alone), and with `recompute` one that reaches the top takes the waiting tokens of all rows with it. Given tokens are scored through
one head, so `heads=own` cannot be scored.

Cost: a vocabulary projection per exit that a row reaches; with `recompute` the waiting tokens, in every block that runs. Own
matrices are as large as the model's, and torch's own call multiplies them, not the kernels of this project: on a CPU that is
slower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Exit
from harness.state import GateState
from harness.training import Model, TrainingPass, TrainingPlan, TrainingStage

NEVER = 2.0


@dataclass(frozen=True)
class EEExit(Exit):
    """Exits at fixed blocks by the confidence of the model's own head.

    Parameters:
        exits: blocks after which a row may leave, counted from 1 and joined by `_`, e.g. `b8_b16`; empty: a quarter and half.
        confidence: `maximum`, `margin` or `entropy`.
        threshold: least confidence, 0 or more; above 1 nothing leaves.
        heads: `model`, the model's own, or `own`, one trained for each exit.
        keys: `propagate` or `recompute`.
        pending: with `recompute`, tokens of a row that wait for a full pass at most, 1 or more.
    """

    name: ClassVar[str] = "ee_exit"
    title: ClassVar[str] = "EE exit"
    paper: ClassVar[str] = "Chen et al. 2023, arXiv:2312.04916"
    needs_training: ClassVar[bool] = True

    exits: str = ""
    confidence: str = "maximum"
    threshold: float = 0.8
    heads: Literal["model", "own"] = "model"
    keys: str = "propagate"
    pending: int = 100

    @property
    @override
    def cannot_score(self) -> str:  # type: ignore[override]
        return "" if self.heads == "model" else "tokens that leave early come from heads of their own"

    def __post_init__(self) -> None:
        known = ("maximum", "margin", "entropy")
        self._require("confidence", self.confidence in known, f"one of {', '.join(known)}")
        self._require("threshold", self.threshold >= 0, "0 or more (above 1 nothing leaves)")
        self._require("keys", self.keys in ("propagate", "recompute"), "one of propagate, recompute")
        self._require("pending", self.pending >= 1, "1 or more")
        self._places(2)

    @property
    @override
    def kv(self) -> str:
        return "recompute" if self.keys == "recompute" else "own"

    @property
    @override
    def most_pending(self) -> int:
        return self.pending

    def _places(self, depth: int) -> tuple[int, ...]:
        if not self.exits:
            return tuple(sorted({max(1, depth // 4), max(1, depth // 2)}))
        parts = [part.removeprefix("b") for part in self.exits.split("_")]
        if not all(part.isdigit() and int(part) for part in parts):
            raise BadInput(
                f"{self.name}: exits={self.exits} cannot be read; write blocks from 1 joined by _, e.g. b8_b16"
            )
        return tuple(map(int, parts))

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> EEExit:
        self._require("exits", max(self._places(depth)) < depth, f"below the model's {depth} blocks")
        missing = [name for place in self._places(depth) if f"{(name := _head(place))}.weight" not in extras]
        if self.heads == "own" and missing:
            raise BadInput(
                f"{self.name}: heads=own needs a checkpoint with heads trained for these exits, {missing[0]}.weight is missing; "
                "train them with `depthbench train`, or use heads=model"
            )
        return self

    @override
    def settings(self, depth: int, expected_tokens: int) -> dict[str, Any]:
        return {**self.params, "exits": "_".join(f"b{place}" for place in self._places(depth))}

    @override
    def no_skip(self, depth: int) -> EEExit:
        return replace(self, threshold=NEVER)

    @override
    def candidates(self, depth: int) -> list[EEExit]:
        """Thresholds from 0.95 down."""
        return [replace(self, threshold=step / 20) for step in range(19, -1, -1)]

    @override
    def tests(self, layer: int, depth: int) -> bool:
        return self.threshold <= 1 and layer + 1 in self._places(depth)

    @override
    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        logits = state.logits(hidden, "" if self.heads == "model" else _head(layer + 1)).float()
        if self.confidence == "entropy":
            shares = logits.log_softmax(-1)
            entropy = -(shares.exp() * shares).sum(-1)
            return 1 - entropy / math.log(logits.shape[-1]) >= self.threshold
        top = (logits.topk(2, dim=-1).values - logits.logsumexp(-1, keepdim=True)).exp()
        confidence = top[:, 0] if self.confidence == "maximum" else top[:, 0] - top[:, 1]
        return confidence >= self.threshold

    @override
    def training_plan(self) -> TrainingPlan:
        """With `heads=model` that of the full model."""
        if self.heads == "model":
            return super().training_plan()
        return TrainingPlan((TrainingStage("heads", self._loss, begin=self._copies, keep_blocks=True),))

    def _copies(self, model: Model) -> dict[str, torch.Tensor]:
        copies = {f"{_head(place)}.weight": model.output_matrix for place in self._places(model.depth)}
        self.resolve(model.depth, copies)
        return copies

    def _loss(self, forced: TrainingPass) -> torch.Tensor:
        places = self._places(forced.decoder.depth)
        return torch.stack(
            [forced.loss_at(place - 1, forced.extras[f"{_head(place)}.weight"]) for place in places]
        ).mean()


def _head(place: int) -> str:
    """The name of an exit's head among a checkpoint's extra tensors."""
    return f"ee_exit_b{place}"
