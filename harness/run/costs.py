"""What one generation will cost under a method, from the model's sizes alone: FLOPs and elements of K and V.

Schedules are counted as they will run. For methods that decide while decoding the FLOPs are a bound: no row exits early and
every exit test is paid, or no draft is accepted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from harness.errors import BadInput, one_line
from harness.measure.probes import flops
from harness.method import Draft, Gate, Method, Start
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Pass, Step, StepTrace, Trace
from harness.state import GateState

EXACT, ABOUT, AT_MOST = "", "~", "<="


@dataclass(frozen=True)
class Generation:
    """Cost of one generation: FLOPs over its rows, elements of K and V allocated, how to read the FLOPs."""

    flops: float | None
    kv_elements: int
    bound: str


def generation(method: Method, decoder: Decoder, rows: int, width: int, new: int, expected: int) -> Generation:
    """What `rows` prompts of `width` tokens and `new` tokens each cost under a method.

    Raises:
        BadInput: the method's own code fails.
    """
    g, depth = decoder.geometry, decoder.depth
    prompt = method.prompt_plan(depth)
    plans = [method.plan(Step(k, expected), width, depth) for k in range(1, new)]
    bound = EXACT if method.family == "schedule" else AT_MOST
    spare = 0
    if isinstance(method, Draft):
        spare = method.draft_tokens + 1
        steps = [_rejected(method, depth, rows, width + k) for k in range(new - 1)]
    elif isinstance(method, Gate):
        tested = _tests(method, decoder.depth, g.width, g.vocabulary, rows, expected)
        if tested is None:
            return Generation(None, 2 * rows * g.kv_heads * g.head_dim * depth * (width + new - 1), ABOUT)
        steps = [
            StepTrace(p, head_rows=rows, test_heads=tested[0], test_reads=tested[1], test_flops=tested[2])
            for p in plans
        ]
    else:
        steps = [StepTrace(p, filled=p.filled, head_rows=rows) for p in plans]
    trace = Trace(rows, depth, width, StepTrace(prompt, filled=prompt.filled, head_rows=rows), steps)
    counted = flops.count(trace, g, 1, 1)
    # As the engine allocates: a schedule's blocks hold the positions that stored keys and values, others hold all.
    known = method.family == "schedule"
    later = [sum(p.stores[layer] for p in plans) if known else new - 1 + spare for layer in range(depth)]
    held = [width * stored + more for stored, more in zip(prompt.stores, later, strict=True)]
    return Generation(counted.prefill + counted.decode, 2 * rows * g.kv_heads * g.head_dim * sum(held), bound)


def _rejected(method: Draft, depth: int, rows: int, keys: int) -> StepTrace:
    """A step in which the model accepts nothing of the draft."""
    drafts = method.draft_tokens
    memory = _begun(method, depth, rows, keys)
    passes = []
    if method.propose([[0]] * rows, memory) is None:
        draft = method.draft_plan(depth, memory)
        passes = [Pass(draft, 1, keys + i + 1, rows, True) for i in range(drafts)]
    passes.append(Pass(LayerPlan.full(depth), drafts + 1, keys + drafts + 1, rows * (drafts + 1), False))
    return StepTrace(LayerPlan.full(depth), passes=tuple(passes), yielded=torch.ones(rows, dtype=torch.long))


def _begun(method: Method, depth: int, rows: int, width: int) -> Any:
    """The memory of a generation whose prompts are of one token, repeated."""
    prompts = torch.zeros(rows, width, dtype=torch.long)
    return method.begin(Start(depth, prompts, torch.full((rows,), width), width, AnyTensor(1)))


@cache
def _tests(
    method: Gate, depth: int, width: int, vocabulary: int, rows: int, expected: int
) -> tuple[int, int, int] | None:
    """Heads, reads of the head and other FLOPs of all exit tests of a step that no row leaves; None: the test needs numbers."""
    # Where there are no numbers a test that needs them raises; so does one that is wrong, but that fails on zeros too.
    with contextlib.suppress(Exception):
        return _counted(method, depth, width, vocabulary, rows, expected, "meta")
    try:
        _counted(method, depth, width, vocabulary, rows, expected, "cpu")
    except BadInput:
        raise
    except _Unknown:
        return None
    except Exception as error:  # whatever a method's own code raises
        raise BadInput(f"{method.name}: its {method.family} test fails: {one_line(error)}") from error
    return None


class _Unknown(Exception):
    """A test reads trained tensors whose shapes are not known without a checkpoint."""


def _counted(
    method: Gate, depth: int, width: int, vocabulary: int, rows: int, expected: int, device: str
) -> tuple[int, int, int]:
    """What `_tests` counts, on tensors without numbers (`meta`) or of zeros."""

    def head(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_zeros(hidden.shape[0], vocabulary)

    extras, numbers = AnyTensor(width, device), torch.arange(rows)
    memory = _begun(method, depth, rows, 1)
    state = GateState(head, extras, 1, expected, memory, rows=numbers, positions=numbers)
    hidden = torch.zeros(rows, width, device=device)
    try:
        for layer in range(depth):
            for sublayer in ("attention", "feed"):
                if method.gated(layer, sublayer, depth):
                    state.advance(hidden)
                    method.runs(layer, sublayer, hidden, state)
    except Exception as error:
        if extras.asked:
            raise _Unknown from error
        raise
    return state.test_heads, state.test_reads, state.test_flops


class AnyTensor(Mapping[str, torch.Tensor]):
    """Stands for the trained tensors beside a checkpoint: a probe of the model's width under any name.

    Attributes:
        asked: the names that were.
    """

    def __init__(self, width: int, device: str = "meta") -> None:
        self._width, self._device = width, device
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.asked.add(name)
        return torch.zeros((1,) if name.endswith("bias") else (1, self._width), device=self._device)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
