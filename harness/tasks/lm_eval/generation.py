"""Generation requests of lm-eval: what a task's settings ask for, and one batch of prompts continued so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from harness.decode.engine import Decoding
from harness.decode.sampling import GREEDY, Sampling
from harness.errors import BadInput
from harness.method import Method
from harness.models.decoder import Decoder
from harness.tasks.prompts import pad_left

MAX_GENERATED = 256
"""Tokens generated where a task does not say, as in lm-eval."""
TOP_K = 50
"""Of sampling where neither the task nor the model's generation settings say: transformers' own default."""

_PASSED_ON = {"until", "do_sample", "temperature", "top_k", "top_p", "max_gen_toks"}
# Settings that change nothing at the values tasks carry around.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "use_cache": (True, False),
    "seed": (None,),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
}


@dataclass(frozen=True)
class Generation:
    """How a task wants its text: stop texts, at most so many tokens, chosen so; the answer begins after `thinking`, if given."""

    stops: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling
    thinking: str | None = None


@dataclass(frozen=True)
class Generated:
    """A text, cut before its stop text, with the ids generated and the blocks that ran for each; whether all logits were finite."""

    text: str
    tokens: list[int]
    layers: list[int]
    finite: bool


def read_settings(
    task: str,
    given: Mapping[str, Any],
    decoder: Decoder,
    *,
    max_length: int,
    seed: int,
    thinking: str | None = None,
) -> Generation:
    """The settings that a request carries; BadInput, with the task and the key, where the model cannot do what they say.

    Sampling is what transformers would do: a temperature of 1, top-k and top-p of the model's own generation settings, unless the
    task says otherwise. Temperature 0 is greedy, whatever `do_sample` says (transformers refuses that).

    Args:
        task: its name, for errors.
        given: lm-eval's `generation_kwargs`.
        decoder: the model.
        max_length: positions there are.
        seed: of the noise.
        thinking: text at whose last occurrence an answer begins.
    """
    tokenizer = decoder.tokenizer
    try:
        kwargs = normalize_gen_kwargs(dict(given), MAX_GENERATED)
        most = int(kwargs["max_gen_toks"])
        eos = None if tokenizer.eos_token_id is None else tokenizer.decode(tokenizer.eos_token_id)
        stops = [text for text in handle_stop_sequences(kwargs.get("until"), eos=eos) if text]
    except (TypeError, ValueError) as error:
        raise BadInput(f"task {task}: generation_kwargs: {' '.join(str(error).split())}") from None
    for key, value in kwargs.items():
        if key not in _PASSED_ON and value not in _NEUTRAL.get(key, (None,)):
            raise BadInput(
                f"task {task}: generation_kwargs.{key}={value!r} is not supported; supported are "
                f"{', '.join(sorted(_PASSED_ON))}"
            )
    if not all(isinstance(text, str) for text in stops):
        raise BadInput(f"task {task}: generation_kwargs.until={kwargs.get('until')!r} is no text or list of texts")
    if not 0 < most < max_length:
        raise BadInput(
            f"task {task}: generation_kwargs.max_gen_toks={most} leaves no room for a context in the model's "
            f"{max_length} positions; give 1 to {max_length - 1}, e.g. --gen_kwargs max_gen_toks=64"
        )
    return Generation(tuple(stops), most, _sampling(task, kwargs, decoder, seed), thinking)


def _sampling(task: str, kwargs: Mapping[str, Any], decoder: Decoder, seed: int) -> Sampling:
    temperature = kwargs.get("temperature")
    if not kwargs.get("do_sample") or temperature == 0:
        return GREEDY
    own = getattr(decoder.source, "generation_config", None)
    chosen = {
        "temperature": 1.0 if temperature is None else float(temperature),
        "top_k": _first(kwargs.get("top_k"), getattr(own, "top_k", None), TOP_K),
        "top_p": _first(kwargs.get("top_p"), getattr(own, "top_p", None), None),
    }
    if chosen["top_k"] in (0, -1):  # how generation settings say that all tokens count
        chosen["top_k"] = None
    try:
        return Sampling(**chosen, seed=seed)
    except (TypeError, ValueError) as error:
        raise BadInput(f"task {task}: generation_kwargs: {error}") from None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def generate_texts(
    decoder: Decoder,
    method: Method,
    prompts: Sequence[list[int]],
    settings: Generation,
    expected_tokens: int,
    noise: Sequence[int],
    at: Callable[[int, int], object] = lambda step, most: None,
) -> list[Generated]:
    """Continue prompts in one batch, each with its stream of noise; `at` is told the token the batch is at, and of how many."""
    batch = pad_left(prompts, decoder.pad_token_id)
    decoding = Decoding(
        decoder,
        method,
        batch.ids.to(decoder.device),
        None if batch.mask is None else batch.mask.to(decoder.device),
        max_new_tokens=settings.max_new_tokens,
        expected_tokens=expected_tokens,
        sampling=settings.sampling,
        noise=noise,
        stop_strings=settings.stops,
    )
    decoding.prefill()
    finite = _finite(decoding)
    while not decoding.done:
        decoding.step()
        finite &= _finite(decoding)
        at(decoding.output().tokens.shape[1], settings.max_new_tokens)
    out = decoding.output()
    ran = out.trace.layers.sum(2).tolist()
    found = []
    rows = zip(out.tokens.tolist(), ran, out.lengths.tolist(), finite.tolist(), strict=True)
    for ids, layers, length, whole in rows:
        text = decoder.tokenizer.decode(ids[:length], skip_special_tokens=True)
        cut = postprocess_generated_text(text, list(settings.stops), settings.thinking)
        found.append(Generated(cut, ids[:length], layers[:length], whole))
    return found


def _finite(decoding: Decoding) -> torch.Tensor:
    """Rows [B] whose newest logits have a finite maximum: NaN anywhere is the maximum, and so is an infinity."""
    assert decoding.logits is not None
    return decoding.logits.amax(-1).isfinite().view(decoding.logits.shape[0], -1).all(1)
