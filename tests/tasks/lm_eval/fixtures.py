"""Tiny models with a tokenizer, requests of every kind, and lm-eval's own backend on the same weights."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from harness.models.decoder import Decoder
from harness.models.load import load_model
from tests.conftest import tiny

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Question: how many eggs are there in the two baskets? Answer: twelve eggs.",
    "A restaurant near the river serves cheap food and is friendly to families.",
]
VOCABULARY = 320
POSITIONS = 96


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXT, vocab_size=VOCABULARY, special_tokens=["<pad>", "</s>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="</s>", padding_side="left"
    )


@cache
def model(family: str) -> Decoder:
    """A tiny model of a family over the tokenizer's vocabulary; weights small enough that single precision settles 1e-4."""
    decoder = tiny(family, depth=6, vocab_size=VOCABULARY, max_position_embeddings=POSITIONS)
    decoder.source.generation_config.eos_token_id = 1
    decoder.source.generation_config.pad_token_id = 0
    again = load_model(decoder.source, tokenizer=tokenizer())
    again.extras = decoder.extras
    return again


@cache
def bos_model(family: str = "llama") -> Decoder:
    """The same with a tokenizer that puts a BOS before every text."""
    from tokenizers.processors import TemplateProcessing

    own = copy.deepcopy(tokenizer())
    own.backend_tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    return load_model(model(family).source, tokenizer=own)


def hf(decoder: Decoder, batch_size: int) -> HFLM:
    return HFLM(pretrained=decoder.source, tokenizer=decoder.tokenizer, batch_size=batch_size)


def likelihoods(pairs: list[tuple[str, str]], task: str = "t") -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, i, (task, i, 1)) for i, pair in enumerate(pairs)]


def rolling(texts: list[str]) -> list[Instance]:
    return [Instance("loglikelihood_rolling", {}, (text,), i, ("t", i, 1)) for i, text in enumerate(texts)]


def generations(prompts: list[str], **kwargs: Any) -> list[Instance]:
    return [Instance("generate_until", {}, (prompt, dict(kwargs)), i, ("t", i, 1)) for i, prompt in enumerate(prompts)]


def pairs() -> list[tuple[str, str]]:
    """Contexts of many lengths, shared and not, empty, and too long for the model; continuations from one token on."""
    out: list[tuple[str, str]] = []
    for text in TEXT:
        words = text.split(" ")
        out += [
            (" ".join(words[:cut]), " " + " ".join(words[cut : cut + size])) for cut in (1, 4, 7) for size in (1, 3)
        ]
    out += [
        (TEXT[1], choice) for choice in (" a", " twelve eggs", " no food at all in the river", " a dog", " b", " </s>")
    ]
    out += [("", TEXT[0]), ("", TEXT[2]), ("", "</s>The fox"), (" ".join(TEXT * 2), " and friendly")]
    out += [("The fox ", "jumps"), (TEXT[0], TEXT[1])]
    return out


def close(mine: list[float], theirs: list[float]) -> None:
    """To 1e-4, and to a few units of single precision where the sums are large."""
    torch.testing.assert_close(torch.tensor(mine).double(), torch.tensor(theirs).double(), atol=1e-4, rtol=2e-6)
