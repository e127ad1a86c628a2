"""FFN-SkipLLM: a run of feed-forward sublayers is skipped from the first block whose own changed the state little.

Paper: Jaiswal, Hu, Yin, Ro, Liu, Chen, Akella, "FFN-SkipLLM: A Hidden Gem for Autoregressive Decoding with Adaptive Feed Forward
Skipping", EMNLP 2024, arXiv:2404.03865. The rule is that of the first author's code (github.com/Ajay1994/layer-skip at 60fadcb,
identified by author, date and content; it has no README that names the paper).

Rule. Attention runs in every block. `low` first and `high` last blocks run whole. Between them, going up, block j runs whole
until the cosine of the last whole block's state before and after its feed-forward sublayer is above `similarity`; then the
sublayers of blocks j .. j+K-1 are skipped (none of the last `high`), and the rest runs. One run of skips per token. K is the
budget of the token: 0 for the first `warmup` of the expected tokens, then K for `every` tokens and 0 for one, again and
again.

Deviations. Warm-up is a share of the expected tokens; the code has max_seq_len / 64, 1/64 of the model's room. Its budgets
differ by one from token to token at two of its three settings (12, 12, 11, 12, 12); here they are the same. Batches: every
row decides for itself (the code reads one number). The code's skip ratio leaves the warm-up tokens out; here they count.

Cost: a cosine of width D per tested block and row (none at tokens without a budget), and a call for what lies between two tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from typing_extensions import override

from harness.method import Gate
from harness.state import GateState

_BEFORE, _SKIPPED = "before feed of the last whole block", "skipped so far"


@dataclass(frozen=True)
class FFNSkip(Gate):
    """Rows skip a run of feed-forward sublayers.

    Parameters:
        skips: feed-forward sublayers in the run, K; 0 skips nothing.
        similarity: cosine above which the run begins, -1 to 1.
        low: first blocks that run whole, 1 or more (one must have run before a test).
        high: last blocks that run whole.
        warmup: share of the expected tokens without skips, 0 to 1.
        every: tokens with skips between two without.
    """

    name: ClassVar[str] = "ffn_skip"
    title: ClassVar[str] = "FFN-SkipLLM"
    paper: ClassVar[str] = "Jaiswal et al. 2024, arXiv:2404.03865"
    skipped_kv: ClassVar[str] = "complete: attention always runs"

    skips: int = 5
    similarity: float = 0.95
    low: int = 5
    high: int = 5
    warmup: float = 1 / 64
    every: int = 5

    def __post_init__(self) -> None:
        self._require("skips", self.skips >= 0, "0 or more")
        self._require("similarity", -1 <= self.similarity <= 1, "-1 to 1")
        self._require("low", self.low >= 1, "1 or more")
        self._require("high", self.high >= 0, "0 or more")
        self._require("warmup", 0 <= self.warmup <= 1, "0 to 1")
        self._require("every", self.every >= 1, "1 or more")

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> FFNSkip:
        self._require("low", self.low + self.high < depth, f"below the model's {depth} blocks together with high")
        return self

    @override
    def no_skip(self, depth: int) -> FFNSkip:
        return replace(self, skips=0)

    @override
    def candidates(self, depth: int) -> list[FFNSkip]:
        """From one sublayer to all of the middle."""
        return [replace(self, skips=count) for count in range(1, depth - self.low - self.high + 1)]

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        """The block before the middle is asked about for what its state was, and runs."""
        return sublayer == "feed" and self.skips > 0 and self.low - 1 <= layer < depth - self.high

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        if layer == self.low - 1:
            state.scratch = {_BEFORE: x, _SKIPPED: x.new_zeros(x.shape[:1], dtype=torch.long)}
            return x.new_ones(x.shape[:1], dtype=torch.bool)
        budget = self._budget(state)
        if budget is False:
            return x.new_ones(x.shape[:1], dtype=torch.bool)
        skipped = state.scratch[_SKIPPED]
        # The newest whole block is the one below for every row whose run has not begun.
        begins = state.cosine(state.scratch[_BEFORE]) > self.similarity
        begins = begins if budget is True else begins & budget
        skips = (begins | (skipped > 0)) & (skipped < self.skips)
        state.scratch = {_BEFORE: x, _SKIPPED: skipped + skips}
        return ~skips

    def _budget(self, state: GateState) -> torch.Tensor | bool:
        """Whether the token may skip at all."""
        after = state.step - 1 - math.ceil(self.warmup * state.expected_tokens)
        return (after >= 0) & (after % (self.every + 1) < self.every)
