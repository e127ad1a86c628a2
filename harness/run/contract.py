"""What every method must keep, checked on tiny models: the contract suite and `depthbench check METHOD` both run this.

Each check raises AssertionError with what differs. They are fast (seconds on a CPU) and need no weights.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness import outside
from harness.decode.engine import Decoding, Output, generate
from harness.decode.forced import score
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.measure.probes.watching import BrokenContract, Watch
from harness.method import Draft, Method
from harness.models.decoder import Decoder
from harness.models.kernels import linear
from harness.models.tiny import CONTRACT, MODELS, ragged_prompts
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
        parts = _parting(scored[len(prompt) - 1 : -1], logits[row], TOLERANCE)
        assert not parts, (
            f"row {row}, {parts}: `score` computes something else there than decoding step by step does. A rule may look at the "
            "step, the state and what was asked at the same position; one that remembers earlier steps says cannot_score"
        )


def batch_equals_alone(decoder: Decoder, method: Method) -> None:
    """A row of a left-padded batch gives the tokens and runs the layers that it does alone."""
    ids, mask = ragged_prompts(rows=4)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    for row in range(ids.shape[0]):
        prompt = ids[row][mask[row].bool()].unsqueeze(0)
        alone = generate(decoder, method, prompt, max_new_tokens=NEW, stop_at_eos=False)
        together = out.tokens[row].tolist()
        same = alone.tokens[0].tolist() == together
        assert same, f"row {row}: tokens {together} in the batch, {alone.tokens[0].tolist()} alone"
        differ = (alone.trace.layers[0] != out.trace.layers[row]).nonzero()
        assert not len(differ), (
            f"row {row}, step {int(differ[0, 0])}, block {int(differ[0, 1])}: "
            f"{_ran(out.trace.layers[row], differ[0])} in the batch, {_ran(alone.trace.layers[0], differ[0])} alone: "
            "what a row does may not depend on the rows beside it or on padding"
        )


def no_skip_equals_full(decoder: Decoder, method: Method) -> None:
    """At its no-skip setting the method is the full model, bit for bit (a verified draft: within the tolerance)."""
    same = method.no_skip(decoder.depth)
    assert same is not None, "no_skip() gives no setting"
    ids, mask = ragged_prompts()
    want, expected = decode_with_logits(decoder, methods.create(BASELINE), ids, mask)
    out, logits = decode_with_logits(decoder, same, ids, mask)
    assert torch.equal(out.tokens, want.tokens), f"{same} gives other tokens than the full model"
    # A draft is verified in several columns at once: the same sums in another order.
    tolerance = TOLERANCE if isinstance(same, Draft) else 0.0
    for row in range(len(ids)):
        parts = _parting(logits[row], expected[row], tolerance)
        assert not parts, f"{same}, row {row}, {parts} from the full model's"
    skipped = (~out.trace.layers).nonzero()
    assert not len(skipped), "{}, row {}, step {}: skips block {}".format(same, *skipped[0].tolist())


def exact_equals_full(decoder: Decoder, method: Method) -> None:
    """A method that calls itself exact gives the full model's greedy tokens, ends included."""
    ids, mask = ragged_prompts(rows=8)
    want = generate(decoder, methods.create(BASELINE), ids, mask, max_new_tokens=NEW)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW)
    differ = (out.tokens != want.tokens).nonzero()
    assert not len(differ), "row {}, token {}: exact, but its tokens are not the full model's".format(
        *differ[0].tolist()
    )


def trace_equals_hooks(decoder: Decoder, method: Method) -> None:
    """The layers in the trace are those counted where they run."""
    ids, mask = ragged_prompts()
    with _counted_calls(decoder) as calls:
        decoding = Decoding(decoder, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
        decoding.prefill()
        prompt = decoding.trace.prefill.plan
        kinds = (("attend", prompt.attention), ("feed", prompt.feed), ("fill", prompt.fill))
        planned = {(kind, i): ids.shape[1] for kind, flags in kinds for i, runs in enumerate(flags) if runs}
        first = decoding.trace.prefill
        planned |= {("fill", i): ids.shape[1] for i in first.filled}
        for place, layer in enumerate(prompt.blocks):
            if first.rows is not None and first.rows[place][1] not in (0, ids.numel()):
                planned["feed", layer] = first.rows[place][1]  # those positions alone
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
        deepest = torch.equal(decoding.trace.layers[:, 1:].any(0), decoding.trace.computed[1:])
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
    counted = flops.count(decoding.trace, decoder.geometry, decoder.dtype.itemsize, decoder.state_dtype.itemsize)
    pairs = (("prefill", counted.prefill, prefill), ("decode", counted.decode, counter.get_total_flops() - prefill))
    for what, ours, theirs in pairs:
        assert abs(ours - theirs) <= 0.01 * theirs, f"{what}: {ours:.6g} FLOPs counted, {theirs:.6g} by torch"


def spec_rebuilds(decoder: Decoder, method: Method) -> None:
    """`str(method)` names the method and all its parameters: it makes an equal one again."""
    assert methods.create(str(method)) == method, f"{method} does not make an equal method"
    assert hash(method) == hash(dataclasses.replace(method)), "equal methods have different hashes"


@dataclass(frozen=True)
class Check:
    """One thing a method must keep.

    Attributes:
        name: what is checked, in a few words.
        run: raises AssertionError where it does not hold.
        applies: whether it can be asked of a method at all, on a model of so many blocks.
    """

    name: str
    run: Callable[[Decoder, Method], None]
    applies: Callable[[Method, int], bool] = lambda method, depth: True


CHECKS = (
    Check("step by step = one parallel pass (score)", step_equals_score, lambda method, depth: not method.cannot_score),
    Check("a row in a padded batch = the row alone", batch_equals_alone),
    Check("no skipping = the full model", no_skip_equals_full, lambda method, depth: method.no_skip(depth) is not None),
    Check("exact: the full model's tokens", exact_equals_full, lambda method, depth: method.exact),
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


def own_time(method: Method, steps: int = NEW) -> float:
    """Seconds of the method's own code per decode step, at 3 rows of a tiny OPT: the fastest of five generations.

    What it has the model compute for it (the head, verifications tried) is in it; planning and `begin` are too.
    """
    decoder, (ids, mask) = MODELS["opt"](), ragged_prompts()
    found = []
    for _ in range(5):
        watch = Watch(method)
        out = generate(decoder, watch.method, ids, mask, max_new_tokens=steps + 1, stop_at_eos=False)
        found.append(watch.seconds / len(out.trace.steps))
    return min(found)


def _outcome(one: Check, decoder: Decoder, method: Method) -> str | None:
    try:
        if not one.applies(method, decoder.depth):
            return None
        # A watched copy is compared with its own kind only, so it has nothing to do with how a method is written.
        one.run(decoder, method if one.run is spec_rebuilds else Watch(method).method)
    except (AssertionError, BrokenContract) as error:
        return " ".join(str(error).split())[:300] or "does not hold"
    except BadInput as error:
        raise BadInput(
            f"{error} (checked on models of {decoder.depth} blocks; give parameters that fit, e.g. a smaller budget)"
        ) from None
    except Exception as error:  # whatever a method's own code raises is a finding about that method
        return outside.said(error, method.source)[:300]
    return ""


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


def _parting(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> str:
    """The first step at which logits [N, V] differ, and by how much; empty where they do not."""
    gaps = (one.float() - other.float()).abs().amax(-1)
    beyond = (~(gaps <= tolerance)).nonzero()
    return f"step {int(beyond[0])}: logits {float(gaps[beyond[0]]):.2g} apart" if len(beyond) else ""


def _ran(layers: torch.Tensor, place: torch.Tensor) -> str:
    return "runs" if bool(layers[int(place[0]), int(place[1])]) else "is skipped"
