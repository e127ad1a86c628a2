"""AdaInfer: a logistic rule over two features of the model's own prediction says whether it would be the same at the end.

Paper: Fan, Jiang, Li, Meng, Han, Shang, Sun, Wang, Wang, "Not All Layers of LLMs Are Necessary During Inference", IJCAI 2025,
arXiv:2403.02181.

Rule. After every block from `first` on the model's own final norm and head predict the token; the features are the largest
probability and its distance to the second largest. A row leaves where w . (top, gap) + b is at least 0 (probability of "the
same as the last block" at least `confidence`). Missing K/V: each block above projects its own from the exit state.

Fit. `depthbench profile 'adainfer'` fits w and b to the text of a profile by logistic regression: one example per block and
token, the answer is whether the block's token is the last block's. Without a fit (all three 0) nothing runs.

Deviations. The paper fits an SVM (or a CRF) on features of tasks with one answer token; here a logistic regression, on text.
Only secondary sources were read, which list more features; these two come first in all of them. An independent table (D-LLM,
NeurIPS 2024) shows the method to collapse on generation.

Cost: a vocabulary projection after every tested block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Exit
from harness.profiling import Profile
from harness.state import GateState

_STEPS = 200


@dataclass(frozen=True)
class AdaInfer(Exit):
    """Exit by a logistic rule over top probability and gap.

    Parameters:
        top: weight of the largest probability.
        gap: weight of its distance to the second largest.
        bias: added to both.
        confidence: least probability of the rule that lets a row leave, 0 to 1; 1 never leaves.
        first: blocks that always run, 1 or more.
    """

    name: ClassVar[str] = "adainfer"
    title: ClassVar[str] = "AdaInfer"
    paper: ClassVar[str] = "Fan et al. 2024, arXiv:2403.02181"

    top: float = 0.0
    gap: float = 0.0
    bias: float = 0.0
    confidence: float = 0.5
    first: int = 1

    def __post_init__(self) -> None:
        self._require("confidence", 0 <= self.confidence <= 1, "0 to 1 (1 never leaves)")
        self._require("first", self.first >= 1, "1 or more")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> AdaInfer:
        self._require("first", self.first <= depth, f"at most the model's {depth} blocks")
        if self.confidence < 1 and not (self.top or self.gap or self.bias):
            raise BadInput(
                "adainfer: its rule was not fitted; run `depthbench profile adainfer` or give top, gap and bias"
            )
        return self

    @override
    def no_skip(self, depth: int) -> AdaInfer:
        return replace(self, confidence=1.0)

    @override
    def candidates(self, depth: int) -> list[AdaInfer]:
        """Confidences from 0.95 down; none before the rule is fitted."""
        if not (self.top or self.gap or self.bias):
            return []
        return [replace(self, confidence=step / 20) for step in range(19, -1, -1)]

    @override
    def profile(self, profile: Profile) -> AdaInfer:
        """Logistic regression by Newton's method, with a small penalty so that it always ends."""
        features, same = [], []
        for logits, last in profile.predictions(range(self.first - 1, profile.depth - 1)):
            features.append(_features(logits))
            same.append(logits.argmax(-1) == last)
        x = torch.cat(features).double()
        x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
        y, w = torch.cat(same).double(), x.new_zeros(3)
        for _ in range(_STEPS):
            p = torch.sigmoid(x @ w)
            gradient = x.T @ (p - y) / len(y) + 1e-4 * w
            hessian = (x * (p * (1 - p)).unsqueeze(1)).T @ x / len(y) + 1e-4 * torch.eye(3, dtype=torch.float64)
            change = torch.linalg.solve(hessian, gradient)
            w = w - change
            if float(change.abs().max()) < 1e-8:
                break
        top, gap, bias = (round(v, 4) for v in w.tolist())
        return replace(self, top=top, gap=gap, bias=bias)

    @override
    def tests(self, layer: int, depth: int) -> bool:
        return self.confidence < 1 and self.first - 1 <= layer < depth - 1

    @override
    def should_exit(self, layer: int, hidden: torch.Tensor, state: GateState) -> torch.Tensor:
        found = _features(state.logits(hidden))
        least = -math.inf if self.confidence == 0 else math.log(self.confidence / (1 - self.confidence))
        return self.top * found[:, 0] + self.gap * found[:, 1] + self.bias >= least


def _features(logits: torch.Tensor) -> torch.Tensor:
    """Largest probability and its distance to the second largest, of logits [R, V]: [R, 2]."""
    logits = logits.float()
    top = (logits.topk(2, dim=-1).values - logits.logsumexp(-1, keepdim=True)).exp()
    return torch.stack((top[:, 0], top[:, 0] - top[:, 1]), dim=1)
