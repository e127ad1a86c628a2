"""Text in, text out: what `depthbench generate` and `depthbench score` print."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

import methods
from harness import waiting
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.errors import BadInput
from harness.models.checks import said
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.tasks.encoding import Encoding
from harness.tasks.prompts import pad_left


def _load(model: str, device: str, dtype: str) -> Decoder:
    decoder = load_model(model, device=device, dtype=dtype)
    if decoder.tokenizer is None:
        raise BadInput(f"model: {model} has no tokenizer; save one beside the weights")
    if line := said(model, decoder.ignored):
        print(line, file=sys.stderr)
    return decoder


def _expected(decoder: Decoder) -> int | None:
    """The output length the checkpoint was trained to plan for, if it says."""
    value = decoder.card.get("expected_tokens")
    return int(value) if value else None


def generate_texts(
    model: str, method: str, prompts: list[str], max_new_tokens: int, device: str = "cpu", dtype: str = "float32"
) -> Iterator[str]:
    """For each prompt the continuation, and on a line of its own the tokens and the layers they ran."""
    chosen = methods.create(method)
    decoder = _load(model, device, dtype)
    rows = decoder.tokenizer(prompts).input_ids
    if not all(rows):
        raise BadInput("prompt: an empty prompt has no token to continue; give some text")
    batch = pad_left(rows, decoder.pad_token_id)
    mask = None if batch.mask is None else batch.mask.to(decoder.device)
    with waiting.told("generating"):
        out = generate(
            decoder,
            chosen,
            batch.ids.to(decoder.device),
            mask,
            max_new_tokens=max_new_tokens,
            expected_tokens=_expected(decoder),
        )
    for row, length in enumerate(out.lengths.tolist()):
        text = decoder.tokenizer.decode(out.tokens[row, :length], skip_special_tokens=True)
        ran = out.trace.layers[row, 1:length].sum(1).double()
        mean = f"{float(ran.mean()):.1f} of {decoder.depth} layers per token" if len(ran) else "no decode step"
        attended, fed = (
            float(flags[row, 1:length].sum()) / max(length - 1, 1) for flags in (out.trace.attention, out.trace.feed)
        )
        if attended != fed:  # sublayers are skipped, which a count of layers does not show
            mean += f" ({attended:.1f} attention, {fed:.1f} feed)"
        yield f"{text}\n    [{chosen}: {length} tokens, {mean}]"


def score_text(
    model: str, method: str, prompt: str, continuation: str, device: str = "cpu", dtype: str = "float32"
) -> str:
    """Summed log-likelihood of the continuation in nats, and whether every token is the method's own greedy choice."""
    chosen = methods.create(method)
    decoder = _load(model, device, dtype)
    before, after = Encoding.of(decoder.tokenizer, decoder.name).pair(prompt, continuation)
    if not after:
        raise BadInput("continuation: adds no token to the prompt, so there is nothing to score; give more text")
    ids = torch.tensor([before + after], device=decoder.device)
    with waiting.told("scoring"):
        every = score(decoder, chosen, ids, [len(before)], expected_tokens=_expected(decoder) or len(after))
    logits = every[0, len(before) - 1 : -1]
    target = ids[0, len(before) :]
    chosen_logits = logits.float().log_softmax(-1).gather(1, target.unsqueeze(1)).squeeze(1)
    greedy = bool((logits.argmax(-1) == target).all())
    return (
        f"log-likelihood {float(chosen_logits.sum()):.4f} over {len(after)} tokens, greedy: {'yes' if greedy else 'no'}"
    )
