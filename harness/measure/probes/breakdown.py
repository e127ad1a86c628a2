"""Where the time of a decode step goes, for any method: an instrumented generation, apart from those that are timed.

The engine knows no clocks. Here it is given a decoder, a method and a sampling whose functions are wrapped: copies of the real
objects whose calls run the real code between two readings of a clock, the device synchronised before each. Only the
outermost wrapped call counts, so the vocabulary projection inside an exit test belongs to the test. The synchronisation costs
time of its own, and where steps are replayed as graphs they are called part by part here: parts are read beside each other,
and speed is never read from here.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.decode.engine import Decoding, Output
from harness.decode.sampling import GREEDY, Sampling
from harness.measure.probes.latency import Clock, planned, shadowed, synchronise
from harness.method import Method
from harness.models.block import Block
from harness.models.decoder import Decoder

PARTS = ("embed", "attention", "feed", "head", "exit_tests", "kv_fill", "sampling", "host")
"""`attention` and `feed` are the blocks; `exit_tests` all that a method decides while a step runs, what it projects for that
included; `kv_fill` K and V that a block writes without running; `host` the rest: planning, bookkeeping, choosing rows, waiting."""


@dataclass(frozen=True)
class Breakdown:
    """Times of one instrumented generation.

    Attributes:
        step_s: each decode step, the making of its plan included.
        step_tokens: tokens each step yielded over the batch.
        parts_s: seconds of every part of PARTS, by step; they add up to `step_s`.
        block_step_s: seconds of the sublayers of every block in a step [L], the median over the steps in which it ran; 0.0
            where it ran in none. No sum: a thread that wakes late at the start would be a slow first block.
    """

    step_s: list[float]
    step_tokens: list[int]
    parts_s: dict[str, list[float]]
    block_step_s: list[float]


def measure(
    make: Callable[[Decoder, Method, Sampling], Decoding],
    decoder: Decoder,
    method: Method,
    sampling: Sampling = GREEDY,
    clock: Clock = time.perf_counter,
) -> tuple[Breakdown, Output]:
    """Run one instrumented generation.

    Args:
        make: makes the generation from the decoder, method and sampling it is given, which are the wrapped ones.
        decoder: the model.
        method: from `methods.create`.
        sampling: how tokens are chosen.
        clock: seconds, rising.
    """
    watch = _Stopwatch(clock, synchronise(decoder.device))
    planning: dict[int, float] = defaultdict(float)
    asked = planned(_method(watch, method), clock, planning)
    decoding = make(_decoder(watch, decoder), asked, shadowed(sampling, pick=watch.of("sampling", sampling.pick)))
    decoding.prefill()
    step_s: list[float] = []
    step_tokens: list[int] = []
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    blocks: dict[int, list[float]] = defaultdict(list)
    watch.wait()
    while not decoding.done:
        watch.seconds, watch.blocks = dict.fromkeys(PARTS, 0.0), {}
        began = clock()
        step_tokens.append(decoding.step())
        watch.wait()
        took = clock() - began
        planned_s = planning[len(step_s) + 1]
        watch.seconds["host"] = max(took - sum(watch.seconds.values()), 0.0) + planned_s
        step_s.append(took + planned_s)
        for part, seconds in watch.seconds.items():
            parts[part].append(seconds)
        for block, seconds in watch.blocks.items():
            blocks[block].append(seconds)
    each = [statistics.median(found) if (found := blocks[i]) else 0.0 for i in range(decoder.depth)]
    return Breakdown(step_s, step_tokens, parts, each), decoding.output()


class _Stopwatch:
    """Seconds spent in wrapped functions, by part."""

    def __init__(self, clock: Clock, wait: Callable[[], None]) -> None:
        self.clock, self.wait = clock, wait
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.blocks: dict[int, float] = {}
        self._inside = False

    def add(self, block: int, part: str, seconds: float) -> None:
        """Count seconds that whoever ran a block's part measured itself."""
        if not self._inside:
            self.seconds[part] += seconds
            if part != "kv_fill":
                self.blocks[block] = self.blocks.get(block, 0.0) + seconds

    def of(self, part: str, function: Callable[..., Any], block: int | None = None) -> Callable[..., Any]:
        """The function, its time added to `part` (and to the block's) unless it is called inside another wrapped one."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return function(*arguments, **named)
            self.wait()
            self._inside = True
            began = self.clock()
            try:
                result = function(*arguments, **named)
                self.wait()
                return result
            finally:
                took = self.clock() - began
                self.seconds[part] += took
                if block is not None:
                    self.blocks[block] = self.blocks.get(block, 0.0) + took
                self._inside = False

        return timed


def _decoder(watch: _Stopwatch, decoder: Decoder) -> Decoder:
    copied = shadowed(decoder, embed=watch.of("embed", decoder.embed), head=watch.of("head", decoder.head))
    copied.blocks = [_block(watch, block) for block in decoder.blocks]
    return copied


def _block(watch: _Stopwatch, block: Block) -> Block:
    return shadowed(
        block,
        attend=watch.of("attention", block.attend, block.index),
        feed=watch.of("feed", block.feed, block.index),
        fill=watch.of("kv_fill", block.fill),
        # Where several blocks run in one call, they say themselves what each took; a block with functions of its own is called.
        watch=functools.partial(watch.add, block.index) if {"attend", "feed", "fill"}.isdisjoint(vars(block)) else None,
    )


def _method(watch: _Stopwatch, method: Method) -> Method:
    """The method with what its family decides while a step runs timed."""
    functions = {name: watch.of("exit_tests", getattr(method, name)) for name in method.decisions}

    def resolve(*arguments: Any) -> Method:
        return _method(watch, method.resolve(*arguments))

    return shadowed(method, **functions, resolve=resolve)
