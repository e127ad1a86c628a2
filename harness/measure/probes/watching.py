"""A method that is watched while it decodes: what it writes on, what it gives back, and how long its own code takes.

The engine knows nothing of it. It is given a copy of the method whose functions are wrapped (`latency.shadowed`): the arguments are
compared with copies of themselves after every call, and the answer with what the contract asks. That costs more than the method
itself, so nothing is timed under a watch but the method's own code.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from harness import outside
from harness.errors import BadInput
from harness.measure.probes.latency import Clock, shadowed
from harness.method import Method
from harness.plan import LayerPlan, Step
from harness.state import GateState

PLANS = ("prompt_plan", "plan", "draft_plan")


class BrokenContract(RuntimeError):
    """A method did what the contract forbids; the message is one line that says where."""


class Watch:
    """A method under a watch.

    Attributes:
        method: to be given to the engine.
        seconds: what the method's own functions took so far, what they had the model compute for them included.
    """

    def __init__(self, method: Method, clock: Clock = time.perf_counter) -> None:
        self.seconds = 0.0
        self._clock, self._inside = clock, False
        self._own: list[Any] = []  # what `begin` returned: a method's memory is its own to write on
        self.method = self._wrapped(method)

    def _wrapped(self, method: Method) -> Method:
        names = [*method.decisions, *(name for name in PLANS if hasattr(method, name)), "begin"]
        functions = {name: self._of(method, name) for name in names}

        def resolve(*arguments: Any) -> Method:
            return self._wrapped(method.resolve(*arguments))

        return shadowed(method, **functions, resolve=resolve)

    def _of(self, method: Method, name: str) -> Callable[..., Any]:
        function = getattr(method, name)

        @functools.wraps(function)
        def watched(*arguments: Any) -> Any:
            if self._inside:
                return function(*arguments)
            where = _where(arguments)
            given = [one for one in arguments if not any(one is mine for mine in self._own)]
            held = [(what, tensor, tensor.clone()) for what, tensor in _tensors(given)]
            lent = [one for one in given if isinstance(one, list)]
            lists = copy.deepcopy(lent)
            self._inside = True
            began = self._clock()
            try:
                answer = function(*arguments)
            except BadInput:
                raise
            except Exception as error:  # whatever the method's own code raises
                raise BrokenContract(f"{name}() fails{where}: {outside.said(error, method.source)}") from error
            finally:
                self.seconds += self._clock() - began
                self._inside = False
            for what, tensor, before in held:
                if not _same(tensor, before):
                    row = _first_row(tensor, before)
                    raise BrokenContract(
                        f"{name}() writes on {what}, which it was given to read{where}{row}; work on a copy"
                    )
            if lent != lists:
                raise BrokenContract(f"{name}() writes on the tokens it was given to read{where}; work on a copy")
            if name == "begin" and answer is not None:
                self._own.append(answer)
            if wrong := _wrong(name, answer, arguments):
                raise BrokenContract(f"{name}(){where} gives {wrong}")
            return answer

        return watched


def _where(arguments: tuple[Any, ...]) -> str:
    """Block and step of a call, as far as its arguments tell: ` before attention of block 2 at step 4`."""
    state = next((one for one in arguments if isinstance(one, GateState)), None)
    step = next((one for one in arguments if isinstance(one, Step)), None)
    at = ""
    if len(arguments) == 4 and isinstance(arguments[1], str):
        at = f" before {arguments[1]} of block {arguments[0]}"
    elif state is not None:
        at = f" after block {arguments[0]}"
    if step is not None:
        return f"{at} at step {step.index}"
    if state is not None:
        return f"{at} at step {state.step}" if isinstance(state.step, int) else f"{at} where positions are scored"
    return at


def _tensors(arguments: Sequence[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors a method was lent, each with how an author knows it."""
    for place, one in enumerate(arguments):
        if isinstance(one, torch.Tensor):
            yield f"argument {place + 1}, a tensor {list(one.shape)}", one
        elif isinstance(one, GateState):
            named = {"state.previous": one.previous, "state.last_logits": one.last_logits}
            named |= {f"state.extras[{name!r}]": tensor for name, tensor in one.extras.items()}
            yield from ((name, tensor) for name, tensor in named.items() if isinstance(tensor, torch.Tensor))
        elif is_dataclass(one) and not isinstance(one, type):
            for field in fields(one):
                value = getattr(one, field.name)
                if isinstance(value, torch.Tensor):
                    yield field.name, value
                elif isinstance(value, Mapping):
                    yield from ((f"{field.name}[{k!r}]", v) for k, v in value.items() if isinstance(v, torch.Tensor))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)


def _first_row(one: torch.Tensor, other: torch.Tensor) -> str:
    if one.dim() < 1:
        return ""
    rows = (one != other).reshape(one.shape[0], -1).any(1).nonzero()
    return f", row {int(rows[0])}" if len(rows) else ""


def _wrong(name: str, answer: Any, arguments: tuple[Any, ...]) -> str:
    """What is wrong with an answer, and what it must be; empty where it is right."""
    if name in PLANS:
        depth = next(one for one in arguments[::-1] if isinstance(one, int)) if name != "draft_plan" else arguments[0]
        if not isinstance(answer, LayerPlan):
            return f"{_shown(answer)}; it must be a LayerPlan"
        return "" if answer.depth == depth else f"a plan of {answer.depth} blocks; the model has {depth}"
    rows = next((one.shape[0] for one in arguments if isinstance(one, torch.Tensor)), None)
    if name in ("runs", "should_exit") or (name == "goes_on" and answer is not None):
        right = isinstance(answer, torch.Tensor) and answer.dtype == torch.bool and answer.shape == (rows,)
        return "" if right else f"{_shown(answer)}; it must be bool [{rows}], one for each row"
    if name == "bypass":
        given = arguments[2]
        right = isinstance(answer, torch.Tensor) and (answer.dtype, answer.shape) == (given.dtype, given.shape)
        return "" if right else f"{_shown(answer)}; it must be like the states it was given, {_shown(given)}"
    if name == "propose" and answer is not None:
        if not isinstance(answer, Sequence) or len(answer) != len(arguments[0]):
            return f"{_shown(answer)}; it must be tokens for each of the {len(arguments[0])} rows, or None"
        for row, tokens in enumerate(answer):
            if not all(isinstance(token, int) and token >= 0 for token in tokens):
                return f"{_shown(tokens)} for row {row}; it must be whole numbers, the ids of tokens"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]
