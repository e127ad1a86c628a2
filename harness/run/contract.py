"""What every method must keep, checked on tiny models: the contract suite and `depthbench check METHOD` both run this.

Each check raises AssertionError with what differs. They are fast (seconds on a CPU) and need no weights.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.decode.engine import Decoding, Output, generate
from harness.decode.forced import score
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.method import Draft, Method
from harness.models.decoder import Decoder
from harness.models.kernels import linear
from harness.models.tiny import CONTRACT, MODELS, ragged_prompts
from harness.spec import parse_spec
from harness.suites.suite import BASELINE

NEW = 8
"""Tokens generated per row."""
TOLERANCE = 1e-4
"""Largest difference of two logits that were computed in another order, float32."""


def decode_with_logits(
    decoder: Decoder, method: Method, ids: torch.Tensor, mask: torch.Tensor | None = None, new: int = NEW
) -> tuple[Output, torch.Tensor]:
    """A generation of fixed length and the logits [B, N, V] its tokens came from."""
    decoding = Decoding(decoder, method, ids, mask, max_new_tokens=new, stop_at_eos=False)
    decoding.prefill()
    assert decoding.logits is not None
    logits = [[row] for row in decoding.logits]
    while not decoding.done:
        decoding.step()
        got = decoding.trace.steps[-1].yielded
        for b, row in enumerate(decoding.logits):
            logits[b] += [row] if got is None else list(row[: got[b]])
    return decoding.output(), torch.stack([torch.stack(row) for row in logits])


def step_equals_score(decoder: Decoder, method: Method) -> None:
    """Decoding step by step in a left-padded batch gives the logits of the one parallel pass."""
    ids, mask = ragged_prompts()
    out, logits = decode_with_logits(decoder, method, ids, mask)
    for row in range(ids.shape[0]):
        prompt = ids[row][mask[row].bool()]
        sequence = torch.cat((prompt, out.tokens[row])).unsqueeze(0)
        scored = score(decoder, method, sequence, [len(prompt)], expected_tokens=NEW)[0]
        torch.testing.assert_close(
            scored[len(prompt) - 1 : -1], logits[row], atol=TOLERANCE, rtol=0, msg=_where(f"row {row}")
        )


def batch_equals_alone(decoder: Decoder, method: Method) -> None:
    """A row of a left-padded batch gives the tokens and runs the layers that it does alone."""
    ids, mask = ragged_prompts(rows=4)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    for row in range(ids.shape[0]):
        prompt = ids[row][mask[row].bool()].unsqueeze(0)
        alone = generate(decoder, method, prompt, max_new_tokens=NEW, stop_at_eos=False)
        together = out.tokens[row].tolist()
        assert alone.tokens[0].tolist() == together, (
            f"row {row}: {together} in the batch, {alone.tokens[0].tolist()} alone"
        )
        assert torch.equal(alone.trace.layers[0], out.trace.layers[row]), f"row {row} runs other layers in the batch"


def no_skip_equals_full(decoder: Decoder, method: Method) -> None:
    """At its no-skip setting the method is the full model, bit for bit (a verified draft: within the tolerance)."""
    same = method.no_skip(decoder.depth)
    assert same is not None, "no_skip() gives no setting at which nothing is skipped"
    ids, mask = ragged_prompts()
    want, expected = decode_with_logits(decoder, methods.create(BASELINE), ids, mask)
    out, logits = decode_with_logits(decoder, same, ids, mask)
    assert torch.equal(out.tokens, want.tokens), f"{same} gives other tokens than the full model"
    # A draft is verified in several columns at once: the same sums in another order.
    tolerance = TOLERANCE if isinstance(same, Draft) else 0.0
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=0, msg=_where(str(same)))
    assert out.trace.layers.all(), f"{same} skips layers"


def exact_equals_full(decoder: Decoder, method: Method) -> None:
    """A method that calls itself exact gives the full model's greedy tokens, ends included."""
    ids, mask = ragged_prompts(rows=8)
    want = generate(decoder, methods.create(BASELINE), ids, mask, max_new_tokens=NEW)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW)
    assert torch.equal(out.tokens, want.tokens), "exact, but its tokens are not the full model's"


def trace_equals_hooks(decoder: Decoder, method: Method) -> None:
    """The layers in the trace are those counted where they run."""
    ids, mask = ragged_prompts()
    with _counted_calls(decoder) as calls:
        decoding = Decoding(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
        decoding.prefill()
        prompt = decoding.trace.prefill.plan
        kinds = (("attend", prompt.attention), ("feed", prompt.feed), ("fill", prompt.fill))
        planned = {(kind, i): ids.shape[1] for kind, flags in kinds for i, runs in enumerate(flags) if runs}
        assert calls == planned, "the prompt does not run every sublayer of its plan once, and no other"
        calls.clear()
        while not decoding.done:
            decoding.step()
    steps = decoding.trace.steps
    for layer in range(decoder.depth):
        for kind, sublayer in (("attend", "attention"), ("feed", "feed")):
            ran, said = calls[kind, layer], sum(step.runs(sublayer)[layer] for step in steps)
            assert ran == said, f"block {layer}: {sublayer} ran {ran} times, the trace says {said}"
        filled = sum(layer in step.filled for step in steps)
        assert calls["fill", layer] == filled, f"block {layer}: K/V fills are not those of the trace"
    if not decoding.trace.drafts:
        deepest = torch.equal(decoding.trace.layers.any(0), decoding.trace.computed)
        assert deepest, "a column is not computed exactly as deep as its deepest row"


def flops_equal_counter(decoder: Decoder, method: Method) -> None:
    """Counted FLOPs are within 1 % of torch's counter, on the attention backend it can count."""
    ids, _ = ragged_prompts(rows=2)
    ids[ids == 0] = 5
    with sdpa_kernel(SDPBackend.MATH), linear.only("torch"), FlopCounterMode(display=False) as counter:
        decoding = Decoding(decoder, method, ids, max_new_tokens=NEW, stop_at_eos=False)
        decoding.prefill()
        prefill = counter.get_total_flops()
        while not decoding.done:
            decoding.step()
    counted = flops.count(decoding.trace, decoder.geometry, decoder.dtype.itemsize)
    pairs = (("prefill", counted.prefill, prefill), ("decode", counted.decode, counter.get_total_flops() - prefill))
    for what, ours, theirs in pairs:
        assert abs(ours - theirs) <= 0.01 * theirs, f"{what}: {ours:.6g} FLOPs counted, {theirs:.6g} by torch"


def spec_rebuilds(decoder: Decoder, method: Method) -> None:
    """`str(method)` names the method and all its parameters: it makes an equal one again."""
    assert rebuilt(str(method), method) == method, f"{method} does not make an equal method"
    assert hash(method) == hash(dataclasses.replace(method)), "equal methods have different hashes"


@dataclass(frozen=True)
class Check:
    """One thing a method must keep.

    Attributes:
        name: what is checked, in a few words.
        run: raises AssertionError where it does not hold.
        applies: whether it can be asked of a method at all.
    """

    name: str
    run: Callable[[Decoder, Method], None]
    applies: Callable[[Method], bool] = lambda method: True


CHECKS = (
    Check("step by step = one parallel pass (score)", step_equals_score),
    Check("a row in a padded batch = the row alone", batch_equals_alone),
    Check("no skipping = the full model", no_skip_equals_full),
    Check("exact: the full model's tokens", exact_equals_full, lambda method: method.exact),
    Check("layers in the trace = layers counted where they run", trace_equals_hooks),
    Check("counted FLOPs = torch's counter, within 1 %", flops_equal_counter),
    Check("its string makes it again", spec_rebuilds),
)


@dataclass(frozen=True)
class Result:
    """How one check went on one model: `error` is empty where it passed, None where it does not apply."""

    check: str
    model: str
    error: str | None


def check(method: Method, models: tuple[str, ...] = CONTRACT) -> Iterator[Result]:
    """Run every check of a method on tiny models of several layouts.

    Raises:
        BadInput: the method does not fit models of this depth (6 blocks).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in models:
            decoder = MODELS[name]()
            for one in CHECKS:
                yield Result(one.name, name, _outcome(one, decoder, method))
    finally:
        torch.set_num_threads(threads)


def load(spec: str) -> Method:
    """A method to check: a registered one (`skipdecode(speedup=2)`), or a class in a file (`mine.py:EveryOther(start=1)`).

    Raises:
        BadInput: there is none of that name, or its parameters do not fit.
    """
    place, colon, rest = spec.partition(":")
    if not (colon and place.endswith(".py")):
        return methods.create(spec)
    path = Path(place)
    if not path.is_file():
        raise BadInput(f"method: there is no file {path}; write file.py:Class(key=value)")
    try:
        name, parameters = parse_spec(rest)
    except ValueError as error:
        raise BadInput(f"method: {error}") from None
    cls = getattr(_module(path), name, None)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise BadInput(
            f"method: {path} has no class {name!r} that derives Schedule, Gate, Exit or Draft of harness.method"
        )
    try:
        made: Method = cls(**parameters)
    except TypeError as error:
        raise BadInput(f"method: {name}: {error}") from None
    return made


def rebuilt(text: str, method: Method) -> Method:
    """The method that a string makes, registered or not."""
    name, parameters = parse_spec(text)
    if name in methods.names() and methods.get(name) is type(method):
        return methods.create(text)
    return type(method)(**parameters)


def _outcome(one: Check, decoder: Decoder, method: Method) -> str | None:
    if not one.applies(method):
        return None
    try:
        one.run(decoder, method)
    except AssertionError as error:
        return " ".join(str(error).split())[:200] or "does not hold"
    except BadInput as error:
        raise BadInput(
            f"{error} (checked on models of {decoder.depth} blocks; give parameters that fit, e.g. a smaller budget)"
        ) from None
    except Exception as error:  # whatever a method's own code raises is a finding about that method
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def _module(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(f"depthbench_checked_{path.stem}", path)
    if found is None or found.loader is None:
        raise BadInput(f"method: {path} cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:  # the file's own error, of whatever kind
        raise BadInput(f"method: {path} cannot be imported: {type(error).__name__}: {error}") from None
    return module


@contextmanager
def _counted_calls(decoder: Decoder) -> Iterator[Counter[tuple[str, int]]]:
    """Columns that went through each sublayer, counted at the blocks themselves."""
    calls: Counter[tuple[str, int]] = Counter()

    def counting(block: Any, kind: str) -> None:
        inner = getattr(block, kind)

        def wrapper(*args: Any) -> Any:
            calls[kind, block.index] += args[0].shape[1]
            return inner(*args)

        setattr(block, kind, wrapper)

    kinds = ("attend", "feed", "fill")
    for block in decoder.blocks:
        for kind in kinds:
            counting(block, kind)
    try:
        yield calls
    finally:
        for block in decoder.blocks:
            for kind in kinds:
                delattr(block, kind)


def _where(what: str) -> Callable[[str], str]:
    return lambda found: f"{what}: {found}"
