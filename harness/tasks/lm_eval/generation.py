"""Generation requests of lm-eval: what a task's settings ask for, and one batch of prompts continued so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from harness.decode.engine import generate
from harness.decode.sampling import GREEDY, Sampling
from harness.errors import BadInput
from harness.method import Method
from harness.models.decoder import Decoder
from harness.tasks.prompts import pad_left

MAX_GENERATED = 256
"""Tokens generated where a task does not say, as in lm-eval."""

_PASSED_ON = {"until", "do_sample", "temperature", "top_k", "top_p", "max_gen_toks"}
# Settings that change nothing at the values tasks carry around.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "use_cache": (True, False),
    "seed": (None,),
    "min_p": (None, 0),
}


@dataclass(frozen=True)
class Generation:
    """How a task wants its text: stop texts, at most so many tokens, chosen so."""

    stops: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling


@dataclass(frozen=True)
class Generated:
    """A text, cut before its stop text, with the ids generated and the blocks that ran for each."""

    text: str
    tokens: list[int]
    layers: list[int]


def read_settings(task: str, given: Mapping[str, Any], decoder: Decoder) -> Generation:
    """The settings that a request carries; BadInput, with the task and the key, where the model cannot do what they say."""
    tokenizer, max_length = decoder.tokenizer, decoder.geometry.max_positions
    kwargs = normalize_gen_kwargs(given, MAX_GENERATED)
    for key, value in kwargs.items():
        if key not in _PASSED_ON and value not in _NEUTRAL.get(key, (None,)):
            raise BadInput(
                f"task {task}: generation_kwargs.{key}={value!r} is not supported; supported are "
                f"{', '.join(sorted(_PASSED_ON))}"
            )
    eos = None if tokenizer.eos_token_id is None else tokenizer.decode(tokenizer.eos_token_id)
    stops = [text for text in handle_stop_sequences(kwargs.get("until"), eos=eos) if text]
    most = int(kwargs["max_gen_toks"])
    if not 0 < most < max_length:
        raise BadInput(
            f"task {task}: generation_kwargs.max_gen_toks={most} leaves no room for a context in the model's "
            f"{max_length} positions; give 1 to {max_length - 1}, e.g. --gen-kwargs max_gen_toks=64"
        )
    sampling = GREEDY
    if kwargs.get("do_sample"):
        sampling = Sampling(float(kwargs.get("temperature") or 1.0), kwargs.get("top_k"), kwargs.get("top_p"))
    return Generation(tuple(stops), most, sampling)


def generate_texts(
    decoder: Decoder, method: Method, prompts: Sequence[list[int]], settings: Generation, expected_tokens: int
) -> list[Generated]:
    """Continue prompts, all in one batch."""
    batch = pad_left(prompts, decoder.pad_token_id)
    out = generate(
        decoder,
        method,
        batch.ids.to(decoder.device),
        None if batch.mask is None else batch.mask.to(decoder.device),
        max_new_tokens=settings.max_new_tokens,
        expected_tokens=expected_tokens,
        sampling=settings.sampling,
        stop_strings=settings.stops,
    )
    ran = out.trace.layers.sum(2).tolist()
    found = []
    for ids, layers, length in zip(out.tokens.tolist(), ran, out.lengths.tolist(), strict=True):
        text = decoder.tokenizer.decode(ids[:length], skip_special_tokens=True)
        cut = postprocess_generated_text(text, list(settings.stops), None)
        found.append(Generated(cut, ids[:length], layers[:length]))
    return found
