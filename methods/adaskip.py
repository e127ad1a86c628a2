"""AdaSkip: the sublayers that turn the state least are skipped, and the state is scaled as they would have scaled it.

Paper: He, Yao, Zuo, Gao, Li, Zheng, Wu, "AdaSkip: Adaptive Sublayer Skipping for Accelerating Long-Context LLM Inference",
AAAI 2025, arXiv:2501.02336. The rule is that of the authors' code (github.com/ASISys/AdaSkip at 4ef686d).

Rule. Over the prompts of a profile (20 long ones): similarity of a sublayer = mean over tokens of the cosine of the state
before and after it, residual included; scale = norm of the whole prompt's state after over before, mean over prompts. The
`count` most similar of all 2 L sublayers are skipped, attention and feed-forward in one list; a skipped one is x <- scale x
and stores no K/V. `phase`: `prefill` skips in the prompt and while decoding, `decode` while decoding alone, `e2e` both (as
`prefill` does here, see below).

Deviations. The paper also skips further feed-forward sublayers found anew in each request's first tokens. The released code never
does: it resets that threshold to 1 at every prompt and fills it only during the last warm-up request. Nor does this method, a
schedule; `adaskip_extra` does. `prefill` and `e2e` differ in nothing else. In blocks whose sublayers stand side by side the
scaled state is also what the other one reads. Scales are kept to four decimals.

Cost: none beyond the sublayers run; the profile's forward passes come before (`depthbench profile`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from typing_extensions import override

from harness.errors import BadInput
from harness.method import Schedule
from harness.plan import LayerPlan, Step
from harness.profiling import Profile
from harness.sublayers import read, without, written


@dataclass(frozen=True)
class AdaSkip(Schedule):
    """Sublayers found by a profile, bypassed with a scale.

    Parameters:
        count: sublayers that a profile chooses.
        skip: what it chose (`harness.sublayers`), e.g. `a3x10100_f5x9980`; empty before.
        phase: `prefill`, `decode` or `e2e`.
    """

    name: ClassVar[str] = "adaskip"
    title: ClassVar[str] = "AdaSkip"
    paper: ClassVar[str] = "He et al. 2025, arXiv:2501.02336"
    skipped_kv: ClassVar[str] = "none written and none needed: the set of sublayers never changes"

    count: int = 4
    skip: str = ""
    phase: str = "decode"

    def __post_init__(self) -> None:
        self._require("count", self.count >= 0, "0 or more")
        self._require("phase", self.phase in ("prefill", "decode", "e2e"), "one of prefill, decode, e2e")
        read(self.skip)

    @override
    def resolve(self, depth: int, extras: Mapping[str, torch.Tensor]) -> AdaSkip:
        if self.count and not self.skip:
            raise BadInput(
                f"adaskip: nothing was profiled; run `depthbench profile 'adaskip(count={self.count})'` or give skip"
            )
        without(read(self.skip), depth)
        return self

    @override
    def no_skip(self, depth: int) -> AdaSkip:
        return replace(self, count=0, skip="")

    @override
    def profile(self, profile: Profile) -> AdaSkip:
        found = profile.statistics()
        self._require("count", self.count <= 2 * profile.depth, f"at most the model's {2 * profile.depth} sublayers")
        order = sorted(range(2 * profile.depth), key=lambda i: (-float(found.cosine[i]), i))
        return replace(self, skip=written({i: float(found.ratio[i]) for i in order[: self.count]}))

    @override
    def prompt_plan(self, depth: int) -> LayerPlan:
        return LayerPlan.full(depth) if self.phase == "decode" else _plan(self.skip, depth)

    @override
    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return _plan(self.skip, depth)


@lru_cache(maxsize=64)
def _plan(skip: str, depth: int) -> LayerPlan:
    """One plan for all steps, so that what is derived from it is derived once."""
    return without(read(skip), depth)
