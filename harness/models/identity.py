"""What a checkpoint is known by: its weights, and what changes its generations beside them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_NO_NUMBER = re.compile(
    r"^_|dropout|initializer|^init_|^(transformers_version|architectures|dtype|torch_dtype|use_cache|return_dict|model_type)$|"
    r"^output_|token_id$|^(tie_word_embeddings|layerdrop|id2label|label2id|problem_type|chunk_size_feed_forward|is_encoder_decoder|name_or_path)$"
)
"""Keys of a configuration that change nothing of what a model in use computes, or stand elsewhere."""


def beside_weights(decoder: Any) -> dict[str, Any]:
    """What changes a generation and is no weight, as JSON values that can be compared and named.

    Returns:
        `end_tokens`, `pad_token`, `tokenizer` (digest of its files' content: vocabulary, merges, normaliser, added tokens, chat
        template) and `configuration`, the numbers of the configuration by name.
    """
    config = decoder.source.config.to_dict()
    numbers = {key: value for key, value in sorted(config.items()) if not _NO_NUMBER.search(key)}
    return {
        "end_tokens": list(decoder.eos_token_ids),
        "pad_token": decoder.pad_token_id,
        "tokenizer": None if decoder.tokenizer is None else _tokenizer(decoder.tokenizer),
        "configuration": json.loads(json.dumps(numbers, default=str)),
    }


def digest(value: Any) -> str:
    """16 hexadecimal digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sampled_weights(decoder: Any) -> str:
    """Digest of a decoder's weights; see `sampled`."""
    return sampled(decoder.source, decoder.extras)


def sampled(source: Any, extras: Mapping[str, Any], values: int = 1024) -> str:
    """Digest of the weights: name, shape, type and `values` evenly spread values of every tensor of model and extras.

    A sample, because hashing all of a large model takes longer than measuring it. Training moves every tensor in more places
    than one, so retrained weights get another digest.
    """
    digest = hashlib.sha256()
    named = [*source.state_dict().items(), *sorted(extras.items())]
    for name, tensor in named:
        flat = tensor.detach().flatten()
        stride = max(flat.numel() // values, 1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(flat[::stride].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _tokenizer(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # What stands before are truncation and padding, which calls change.
    text = "" if backend is None else backend.to_str().partition('"added_tokens"')[2]
    words = text or sorted(tokenizer.get_vocab().items())
    special = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    more = [getattr(tokenizer, key, None) for key in ("chat_template", "clean_up_tokenization_spaces")]
    return digest([words, special, more])
