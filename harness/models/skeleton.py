"""Models by name without their weights: sizes, tokenizers, and what is here and what is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from harness.errors import BadInput
from harness.models.decoder import Decoder, Geometry
from harness.models.load import base, family, gguf_folder, is_gguf, local_folder
from harness.models.shapes import PREFIX, SHAPES, is_random


def geometry(name: str) -> Geometry:
    """Sizes of a model by name, without its weights."""
    config, _ = config_of(name)
    return on_meta(name, config, torch.float32).geometry


def config_of(name: str) -> tuple[Any, str]:
    """Return the transformers config of a model, and the shape it was taken from where the model itself is not here."""
    from transformers import AutoConfig

    name = base(name)
    folder = local_folder(name)
    if folder is None and is_gguf(name):
        with gguf_folder(name, torch.float32) as made:
            return _try(lambda: AutoConfig.from_pretrained(str(made), trust_remote_code=False), name), ""
    if folder is not None:
        return _try(lambda: AutoConfig.from_pretrained(str(folder), trust_remote_code=False), name), ""
    if cached(name, "config.json"):
        return _try(lambda: AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False), name), ""
    exact = name.removeprefix(PREFIX) if is_random(name) else ""
    inside = sorted((shape for shape in SHAPES if shape in name.lower()), key=len)
    shape = exact or (inside[-1] if inside else "")
    if shape in SHAPES:
        settings = dict(SHAPES[shape])
        return AutoConfig.for_model(settings.pop("model_type"), **settings), "" if exact else shape
    if is_random(name) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BadInput(
            f"model: sizes of {name!r} are not known: no such folder, and no shape in its name ({', '.join(SHAPES)})"
        )
    return _try(lambda: AutoConfig.from_pretrained(name, trust_remote_code=False), name), ""


def _try(read: Callable[[], Any], name: str) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadInput(f"model: config of {name} cannot be read: {' '.join(str(error).split())[:200]}") from None


def on_meta(name: str, config: Any, dtype: torch.dtype) -> Decoder:
    """Return a model of this config whose tensors have shapes and no numbers."""
    from transformers import AutoModelForCausalLM

    cls = family(config)
    with torch.device("meta"):
        source = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.inference_mode():
        return cls(name, source)


def copied_bytes(decoder: Decoder, panels: bool) -> int:
    """Bytes of weights that exist twice: on a CPU (`panels`) every matrix of the blocks at most, elsewhere those joined to one."""
    stored = {p.untyped_storage()._cdata for p in decoder.source.parameters()}
    maps = {m.weight.untyped_storage()._cdata: m.weight for block in decoder.blocks for m in block.maps()}
    return sum(w.untyped_storage().nbytes() for key, w in maps.items() if panels or key not in stored)


def cached(repository: str, file: str) -> bool:
    """Whether a file of a hub repository is in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, file), str)
    except HFValidationError:
        return False


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a model that is here; None where it is not."""
    folder = local_folder(name)
    if folder is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None
