"""AdaSkip with its extra feed-forward sublayers: what the first tokens of each answer hardly change is skipped too.

Paper: He, Yao, Zuo, Gao, Li, Zheng, Wu, "AdaSkip: Adaptive Sublayer Skipping for Accelerating Long-Context LLM Inference",
AAAI 2025, arXiv:2501.02336. `adaskip` has the set that a profile finds, as the authors' code runs it (github.com/ASISys/AdaSkip
at 4ef686d); this method adds what the paper describes and that code never does (it resets the threshold to 1 at every prompt).

Rule. The profile's `count` most similar sublayers are skipped as `adaskip` skips them; its threshold is the similarity of the
last of them. Over the first `window` decode steps of a row the cosine of the state before and after every other feed-forward
sublayer is averaged, and the state's norm after over before is taken over these tokens together; afterwards those with a mean
cosine of at least `similarity` are skipped as well, the state multiplied by that ratio.

Deviations. Every row of a batch finds its own (the paper is for one). The last block's feed-forward sublayer is never an extra:
nobody is asked after it, so what it did is not seen. Scales of the profile are kept to four decimals, `similarity` to six.

Cost: a cosine and two norms of width D for each feed-forward sublayer in the first `window` steps; afterwards nothing beyond the
sublayers run, which are called one by one. `score` cannot compute it: what a token skips depends on how earlier ones were computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Gate, Start
from harness.profiling import Profile
from harness.state import GateState
from harness.sublayers import read, without, written

_BEFORE = "before feed"


@dataclass
class _Found:
    """What the first tokens of every row say of each block's feed-forward sublayer.

    Attributes:
        cosine, before, after: sums over tokens of the cosine and of the squared norms [B, L].
        scale: of the extras of every row, 0 for others [B, L]; None: not decided yet.
    """

    cosine: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    scale: torch.Tensor | None = field(default=None)


@dataclass(frozen=True)
class AdaSkipExtra(Gate):
    """Sublayers found by a profile, and feed-forward sublayers found by the first tokens, bypassed with a scale.

    Parameters:
        count: sublayers that a profile chooses.
        skip: what it chose (`harness.sublayers`), e.g. `a3x10100_f5x9980`; empty before.
        similarity: least mean cosine of an extra, -1 to 1: the profile's for the last of its choice.
        window: decode steps that are watched before extras are skipped; 0: none ever are.
        phase: `prefill`, `decode` or `e2e`, as in `adaskip`; extras are skipped while decoding alone.
    """

    name: ClassVar[str] = "adaskip_extra"
    title: ClassVar[str] = "AdaSkip, extra FFNs"
    paper: ClassVar[str] = "He et al. 2025, arXiv:2501.02336"
    cannot_score: ClassVar[str] = "what a token skips depends on how the row's first tokens were computed"

    count: int = 4
    skip: str = ""
    similarity: float = 1.0
    window: int = 20
    phase: str = "decode"

    def __post_init__(self) -> None:
        self._require("count", self.count >= 0, "0 or more")
        self._require("similarity", -1 <= self.similarity <= 1, "-1 to 1")
        self._require("window", self.window >= 0, "0 or more")
        self._require("phase", self.phase in ("prefill", "decode", "e2e"), "one of prefill, decode, e2e")
        read(self.skip)

    @property
    @override
    def kv(self) -> str:
        return "hidden"

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> AdaSkipExtra:
        if self.count and not self.skip:
            raise BadInput(
                f"adaskip_extra: nothing was profiled; run `depthbench profile 'adaskip_extra(count={self.count})'` or give skip"
            )
        without(read(self.skip), depth)
        return self

    @override
    def no_skip(self, depth: int) -> AdaSkipExtra:
        return replace(self, count=0, skip="", window=0)

    @override
    def profile(self, profile: Profile) -> AdaSkipExtra:
        found = profile.statistics()
        self._require("count", 1 <= self.count <= 2 * profile.depth, f"1 to the model's {2 * profile.depth} sublayers")
        order = sorted(range(2 * profile.depth), key=lambda i: (-float(found.cosine[i]), i))[: self.count]
        least = round(float(found.cosine[order[-1]]), 6)
        return replace(self, skip=written({i: float(found.ratio[i]) for i in order}), similarity=least)

    @override
    def begin(self, start: Start) -> _Found:
        shape = start.prompts.shape[0], start.depth
        return _Found(*(torch.zeros(shape, device=start.prompts.device) for _ in range(3)))

    @override
    def gated(self, layer: int, sublayer: str, depth: int) -> bool:
        fixed = _fixed(self.skip)
        if sublayer == "feed":
            return 2 * layer + 1 in fixed or (self.window > 0 and layer < depth - 1)
        # Before the next attention stands what the feed-forward sublayer below made of the state.
        return 2 * layer in fixed or (self.window > 0 and layer > 0 and 2 * layer - 1 not in fixed)

    @override
    def prompt_gated(self, layer: int, sublayer: str, depth: int) -> bool:
        return self.phase != "decode" and 2 * layer + (sublayer == "feed") in _fixed(self.skip)

    @override
    def runs(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        fixed, found = _fixed(self.skip), state.memory
        watching = not state.at_prompt and isinstance(state.step, int) and state.step <= self.window
        if watching and sublayer == "attention" and _BEFORE in state.scratch:
            before = state.scratch.pop(_BEFORE)
            found.cosine[:, layer - 1] += state.cosine(x, before)
            found.before[:, layer - 1] += before.float().square().sum(-1)
            found.after[:, layer - 1] += x.float().square().sum(-1)
        if 2 * layer + (sublayer == "feed") in fixed:
            return x.new_zeros(x.shape[:1], dtype=torch.bool)
        if watching and sublayer == "feed":
            state.scratch = {_BEFORE: x}
        if watching or state.at_prompt or sublayer == "attention" or not self.window:
            return x.new_ones(x.shape[:1], dtype=torch.bool)
        if found.scale is None:
            # Sublayers that are always skipped were never watched: their sums are 0.
            watched = found.before > 0
            near = watched & (found.cosine / self.window >= self.similarity)
            found.scale = torch.where(near, (found.after / found.before.clamp_min(1e-30)).sqrt(), 0.0)
        scale: torch.Tensor = found.scale
        return scale[:, layer] == 0

    @override
    def bypass(self, layer: int, sublayer: str, x: torch.Tensor, state: GateState) -> torch.Tensor:
        factor = _fixed(self.skip).get(2 * layer + (sublayer == "feed"))
        if factor is not None:
            return x * factor
        scale: torch.Tensor = state.memory.scale
        return x * scale[state.rows, layer].unsqueeze(1).to(x.dtype)


@lru_cache(maxsize=64)
def _fixed(skip: str) -> Mapping[int, float]:
    return read(skip)
