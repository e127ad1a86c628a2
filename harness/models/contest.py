"""Are the project's kernels really the faster way to run the full model here? Asked before anything is timed.

A speed-up is only worth something beside a fast baseline. So one decode step of the full model is run by the kernels and by
torch's own calls in turns, at every number of rows that will be decoded; whichever is faster runs them from then on, in all
blocks alike. Torch winning is an error in the kernels, which whoever asked says aloud.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.models.kernels import choices, native
from harness.models.kernels import linear as kernels
from harness.models.kernels.native.check import best_in_turns

_KEYS = 64
"""Keys that are held when the step is run."""
_HALVES = 2
_ROUNDS = 5
_BUDGET_S = 2.0


@dataclass(frozen=True)
class Contest:
    """One number of rows.

    Attributes:
        rows: decoded together.
        native_s, torch_s: the least seconds of a step in each half of the contest; empty where nothing was run.
        chosen: `native` or `torch`.
    """

    rows: int
    native_s: list[float]
    torch_s: list[float]
    chosen: str

    @property
    def lost(self) -> bool:
        """Whether torch's calls beat the kernels."""
        return self.chosen == choices.TORCH and bool(self.native_s)

    def __str__(self) -> str:
        if not self.native_s:
            return f"{self.rows} rows: {self.chosen}, nothing to compare ({native.status()})"
        ours, theirs = min(self.native_s), min(self.torch_s)
        said = f"{self.rows} rows: kernels {1000 * ours:.2f} ms a step, torch's calls {1000 * theirs:.2f} ms"
        return f"{said}; the kernels are slower here, torch's calls run" if self.lost else said


@torch.inference_mode()
def hold(decoder: Decoder, rows: int) -> Contest:
    """Run one decode step of the full model both ways in turns, and choose for this number of rows.

    The kernels stay unless torch's slower half is faster than their faster half: a disturbance in one half decides nothing.
    """
    x = torch.zeros(1, dtype=decoder.state_dtype, device=decoder.device)
    if not kernels.native_allowed(x):
        return Contest(rows, [], [], choices.TORCH)
    group = decoder.blocks[0].maps()[0].group
    with kernels.only(choices.NATIVE):
        fits = group is not None and group.native(rows)
    if not fits:  # no room for the panels: torch's calls run whatever is chosen, and the choice must say so
        choices.choose(decoder.kind, rows, choices.TORCH)
        return Contest(rows, [], [], choices.TORCH)
    cache = decoder.new_cache(rows, [_KEYS] * decoder.depth)
    ids = torch.zeros(rows, 1, dtype=torch.long)
    positions = torch.full((rows, 1), min(_KEYS, decoder.geometry.max_positions) - 1)
    operations = tuple((layer, True, True) for layer in range(decoder.depth))

    def step(how: str) -> None:
        cache.lengths = [_KEYS - 1] * decoder.depth
        with kernels.only(how), decoder.own_threads(rows):
            hidden = decoder.run_plan(operations, decoder.embed(ids, positions), cache, Context(positions))
            decoder.head(hidden[:, -1])

    with kernels.only(choices.NATIVE):  # around all of it, so that what torch's calls join lasts until the end
        for how in (choices.NATIVE, choices.TORCH):
            step(how)
        start = time.perf_counter()
        step(choices.TORCH)
        rounds = max(1, min(_ROUNDS, int(_BUDGET_S / _HALVES / 4 / max(time.perf_counter() - start, 1e-9))))
        passes = (lambda: step(choices.NATIVE), lambda: step(choices.TORCH))
        halves = [best_in_turns(passes, rounds) for _ in range(_HALVES)]
    ours, theirs = ([half[i] for half in halves] for i in range(2))
    chosen = choices.TORCH if max(theirs) < min(ours) else choices.NATIVE
    choices.choose(decoder.kind, rows, chosen)
    return Contest(rows, ours, theirs, chosen)
