"""What a worker records so that `harness.records.gates` can judge: outputs with their margins, divergences, the conditions held.

All of it is taken outside the timed regions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

import torch

import methods
from harness.decode.engine import Decoding, Output
from harness.decode.forced import score
from harness.machine.environment import THREAD_VARIABLES, cpu_model, gpu_driver
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.identity import as_deep, beside_weights, digest
from harness.models.kernels import native
from harness.records.fields import Conditions, Divergence, Divergences, Seen
from harness.suites.suite import BASELINE, Suite
from harness.tasks.base import Example
from harness.tasks.metrics import LISTED, first_difference
from harness.tasks.prompts import drawn


def conditions(suite: Suite, decoder: Decoder, blocks: int | None = None) -> Conditions:
    """What no method may change and every cell of a run shares: hashed, and named where two cells differ.

    Args:
        suite: the run's settings.
        decoder: the arm's model.
        blocks: of the run's model, for an arm whose model has fewer (`Arm.of_blocks`): their number is what it is tried for.
    """
    cuda = decoder.device.type == "cuda"
    beside = as_deep(beside_weights(decoder), blocks)
    return {
        "model": suite.model,
        "dtype": types(decoder),
        "device": str(decoder.device),
        "device_name": torch.cuda.get_device_name(decoder.device) if cuda else cpu_model(),
        "driver": gpu_driver() if cuda else None,
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "thread_variables": ", ".join(f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if os.environ.get(name))
        or None,
        "padding": "left",
        "attention": "torch scaled_dot_product_attention",
        "compiled_kernels": "unused" if cuda else native.status(),
        # What is offered to all arms alike; what an arm's steps really were stands in its cell (`steps`).
        "steps": "replayed as graphs where their shapes are fixed" if cuda else "called",
        "matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32) if cuda else None,
        "sampling": "greedy",
        "seed": suite.seed,
        "exited_rows": "left out" if suite.compact_exits else "computed along",
        "vocabulary": vocabulary(decoder),
        "end_tokens": ", ".join(map(str, beside["end_tokens"])),
        "pad_token": beside["pad_token"],
        "tokenizer": beside["tokenizer"],
        "configuration": digest(beside["configuration"]),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }


def types(decoder: Decoder) -> str:
    """Type of the weights, and of states, keys and values where that is another."""
    weights, states = (str(d).removeprefix("torch.") for d in (decoder.dtype, decoder.state_dtype))
    return weights if states == weights else f"{weights} weights, {states} states"


def steps(outputs: Iterable[Output]) -> str:
    """How the steps of an arm's generations ran; drafts and compacted exits change their shapes and are called anywhere."""
    return " and ".join(sorted({"replayed as graphs" if output.replayed else "called" for output in outputs}))


def device_uuid(device: torch.device) -> str | None:
    """How NVML names the device; None on a CPU."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def vocabulary(decoder: Decoder) -> str:
    """Digest of the tokenizer's vocabulary; its size where there is no tokenizer."""
    if decoder.tokenizer is None:
        return str(decoder.geometry.vocabulary)
    return hashlib.sha256(repr(sorted(decoder.tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def token_hash(rows: Sequence[Sequence[int]]) -> str:
    """16 hexadecimal digits that identify lists of token ids, their ends included."""
    return hashlib.sha256(repr([list(row) for row in rows]).encode()).hexdigest()[:16]


def timed_ids(suite: Suite, examples: Sequence[Example], size: int, prompt_set: int) -> list[str] | None:
    """The examples whose prompts the rows of a timed batch hold; None where prompts are cut or made up."""
    if not examples or suite.prompt_tokens is not None:
        return None
    order = drawn(examples, prompt_set, suite.seed)
    return [examples[order[i % len(order)]].id for i in range(size)]


def observe(decoding: Decoding) -> tuple[Seen, bool]:
    """An untimed generation, and whether all its logits were finite.

    The record holds `tokens` [B][N], `margins` [B][N] (best logit minus second best) and `scales` [B] (largest |logit|).
    """
    decoding.prefill()
    assert decoding.logits is not None
    margins: list[list[float]] = [[] for _ in decoding.logits]
    scales = [0.0] * len(margins)
    finite = True

    def take(logits: torch.Tensor, got: torch.Tensor | None) -> None:
        nonlocal finite
        finite = finite and bool(logits.isfinite().all())
        best = logits.float().topk(2, dim=-1).values
        margin, scale = (best[..., 0] - best[..., 1]).tolist(), logits.float().abs().amax(-1).tolist()
        for b, (gap, size) in enumerate(zip(margin, scale, strict=True)):
            gaps, sizes = ([gap], [size]) if got is None else (gap[: int(got[b])], size[: int(got[b])])
            margins[b] += [float(f"{value:.4g}") for value in gaps]
            scales[b] = max([scales[b], *sizes])

    take(decoding.logits, None)
    while not decoding.done:
        decoding.step()
        take(decoding.logits, decoding.trace.steps[-1].yielded)
    tokens = decoding.output().tokens.tolist()
    if not finite:
        # JSON has no NaN, and a margin between such logits means nothing.
        return {"tokens": tokens, "margins": None, "scales": None}, False
    return {"tokens": tokens, "margins": margins, "scales": [float(f"{s:.4g}") for s in scales]}, True


def timed_divergences(full: Sequence[Seen], other: Sequence[Seen]) -> Divergences:
    """Where the timed tokens of a lossless arm first part from full's, row by row; both as `observe` gives them."""
    found: list[Divergence] = []
    for number, (theirs, ours) in enumerate(zip(full, other, strict=True)):
        for row, (a, b) in enumerate(zip(theirs["tokens"], ours["tokens"], strict=True)):
            place = first_difference(a, b)
            if place is not None:
                margins, scales = theirs.get("margins"), theirs.get("scales")
                found.append(
                    {
                        "prompt_set": number,
                        "row": row,
                        "position": place,
                        "full_token": a[place],
                        "token": b[place],
                        "margin": margins[row][place] if margins else None,
                        "scale": scales[row] if scales else None,
                    }
                )
    return {"count": len(found), "first": found[:LISTED]}


def scored_divergences(
    decoder: Decoder,
    prompts: Mapping[str, Sequence[int]],
    full: Mapping[str, Sequence[int]],
    other: Mapping[str, Sequence[int]],
) -> Divergences:
    """Where the scored tokens of a lossless arm first part from full's, with full's margin there; all by example id."""
    baseline = methods.create(BASELINE)
    found: list[Divergence] = []
    for name, ours in other.items():
        theirs = full[name]
        place = first_difference(theirs, ours)
        if place is None:
            continue
        record: Divergence = {
            "example": name,
            "position": place,
            "full_token": theirs[place] if place < len(theirs) else None,
            "token": ours[place] if place < len(ours) else None,
            "margin": None,
            "scale": None,
        }
        if len(found) < LISTED:
            record |= _margin(decoder, baseline, [*prompts[name], *theirs[:place]])
        found.append(record)
    return {"count": len(found), "first": found[:LISTED]}


def _margin(decoder: Decoder, method: Method, ids: Sequence[int]) -> Divergence:
    """Full's margin for the token after `ids`, all of them at full depth."""
    logits = score(decoder, method, torch.tensor([list(ids)], device=decoder.device), [len(ids)])[0, -1].float()
    best = logits.topk(2).values
    return {"margin": float(best[0] - best[1]), "scale": float(logits.abs().max())}
