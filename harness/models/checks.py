"""What a checkpoint and a model object must be, so that the blocks here compute what the model would: else refused, by name.

Blocks read weights and never call modules. Whatever lives elsewhere (adapters, hooks, replaced modules, settings that were changed
after the model was built, weights that are not in memory) would be lost without a word; so would tensors a configuration does not
know, and a matrix that is missing would be random numbers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import BadInput

JSON_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("depthbench.json", "model.safetensors.index.json"),
)
"""Files of a checkpoint that are JSON objects, where they are there at all."""
_COUNTS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "ffn_dim"),
    *("head_dim", "vocab_size", "max_position_embeddings", "word_embed_proj_dim"),
)
"""Numbers of a configuration that are 1 or more, where they are given."""
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias)$")
"""Tables that old checkpoints store and every model computes for itself: rotary frequencies, the causal mask."""
_FREE = re.compile(r"^_|training|gradient_checkpointing|name_or_path|dropout|^p$|^inplace$|_dtype$|_cached$")
"""Attributes of modules that change nothing of what a model in use computes."""
_CALLED = "what a module does when it is called is not used here"


def json_object(path: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint holds, or BadInput that names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"model: {path} is not valid JSON; save the checkpoint again") from None
    if not isinstance(value, dict):
        raise BadInput(f"model: {path} is not a JSON object; save the checkpoint again")
    return value


def check_files(folder: Path) -> None:
    """BadInput for a file of a checkpoint that is damaged: transformers passes over some of them."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise BadInput(
            f"model: {adapter} says that this is a LoRA adapter; merge it into its model first (peft: "
            "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new_folder))"
        )
    found = {name: json_object(folder / name) for name in JSON_FILES if (folder / name).is_file()}
    check_counts(found.get("config.json", {}))


def check_counts(config: Mapping[str, Any]) -> None:
    """BadInput for a size that is no number of 1 or more."""
    for key in _COUNTS:
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise BadInput(f"model: {key}={value!r} in the configuration is out of range; it must be 1 or more")


def check_tokens(name: str, source: Any) -> None:
    """BadInput for an end or padding token that is no token."""
    vocabulary = source.get_output_embeddings().weight.shape[0]
    for where, settings in (("generation_config", source.generation_config), ("config", source.config)):
        for key in ("eos_token_id", "pad_token_id"):
            value = getattr(settings, key, None)
            listed = value if isinstance(value, (list, tuple)) else [value]
            for token in listed if value is not None else ():
                if isinstance(token, bool) or not isinstance(token, int) or not -1 <= token < vocabulary:
                    raise BadInput(
                        f"model: {name}: {key}={value!r} of its {where} is no token; give numbers from 0 to {vocabulary - 1}"
                    )


def check_tensors(name: str, source: Any, info: Mapping[str, Any]) -> None:
    """BadInput unless the file has every tensor of the model but those its configuration ties, and no others.

    Args:
        name: of the model.
        source: the transformers model.
        info: what `from_pretrained` says of its loading.
    """
    tied = getattr(source, "all_tied_weights_keys", None) or {}
    missing = sorted(set(info["missing_keys"]) - set(tied))
    if missing:
        raise BadInput(
            f"model: {name} lacks {len(missing)} of its weights, {missing[0]} first; copy the checkpoint again"
            + ("" if "lm_head" not in missing[0] else ", or tie_word_embeddings if it shares them with the embedding")
        )
    more = sorted(key for key in info["unexpected_keys"] if not _COMPUTED.search(key))
    if more:
        raise BadInput(
            f"model: {name} holds {len(more)} tensors that its configuration does not know, {more[0]} first; correct "
            "config.json, or take them out of the file"
        )
    wrong = sorted(str(entry[0] if isinstance(entry, (tuple, list)) else entry) for entry in info["mismatched_keys"])
    if wrong:
        raise BadInput(f"model: {name}: {wrong[0]} has another shape than its configuration says; correct config.json")


def check_plain(name: str, source: Any) -> None:
    """BadInput unless a model is what its configuration builds: the same modules, the same settings, nothing hooked in."""
    if any(base.__name__ == "PeftModel" for base in type(source).__mro__):
        raise BadInput(f"model: {name} is a PeftModel; merge its adapters first: load_model(model.merge_and_unload())")
    expected = _expected(source)
    if type(source) is not type(expected):
        raise BadInput(
            f"model: {name} is a {type(source).__name__}, not a {type(expected).__name__}: {_CALLED}; give the plain model"
        )
    there, right = dict(source.named_modules()), dict(expected.named_modules())
    for place, module in there.items():
        _check_module(name, place, module, right.get(place))
    if lost := sorted(set(right) - set(there)):
        raise BadInput(f"model: {name} has no {lost[0]}, which its configuration asks for; give the whole model")
    shapes = {key: tuple(p.shape) for key, p in expected.named_parameters(remove_duplicate=False)}
    found = {key: tuple(p.shape) for key, p in source.named_parameters(remove_duplicate=False)}
    if odd := sorted(key for key in shapes.keys() | found.keys() if shapes.get(key) != found.get(key)):
        raise BadInput(
            f"model: {name}: {odd[0]} is {found.get(odd[0], 'missing')}, by its configuration "
            f"{shapes.get(odd[0], 'there is none')}; correct the configuration"
        )
    places = {p.device for p in source.parameters()}
    if len(places) > 1 or any(place.type == "meta" for place in places):
        raise BadInput(f"model: {name}: its weights are offloaded or on several devices; load it whole on one device")


def _expected(source: Any) -> Any:
    """A model of the same configuration without numbers."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        return AutoModelForCausalLM.from_config(source.config)


def _check_module(name: str, place: str, module: Any, right: Any) -> None:
    where = f"model: {name}: {place or 'the model'}"
    if right is None or type(module) is not type(right):
        what = f"{type(module).__module__}.{type(module).__name__}"
        kind = "does not belong to its architecture" if right is None else f"stands for a {type(right).__name__}"
        raise BadInput(
            f"{where} is a {what}, which {kind}: {_CALLED}; merge adapters into the weights first (peft: merge_and_unload)"
        )
    if hasattr(module, "_hf_hook"):
        raise BadInput(f"{where} is moved or offloaded by accelerate; load it whole on one device, without device_map")
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    hooks = [hook for hook in hooks if not _module_of(hook).startswith("transformers.")]
    if hooks or "forward" in vars(module):
        what = "a forward hook" if hooks else "a forward of its own"
        raise BadInput(f"{where} has {what}: {_CALLED}; give the model without")
    for key, value in vars(right).items():
        if isinstance(value, (int, float, str)) and not _FREE.search(key) and vars(module).get(key, value) != value:
            raise BadInput(
                f"{where}.{key} is {vars(module)[key]!r}, by its configuration {value!r}: it was changed after the model was "
                "built; build it anew from the configuration that is meant"
            )


def _module_of(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "") or "")


_GREEDY: dict[str, tuple[Any, ...]] = {
    "do_sample": (None, False), "num_beams": (None, 1), "repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0), "encoder_repetition_penalty": (None, 1.0), "length_penalty": (None, 1.0),
    "penalty_alpha": (None,), "bad_words_ids": (None,), "force_words_ids": (None,), "sequence_bias": (None,),
    "suppress_tokens": (None, []), "begin_suppress_tokens": (None, []), "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,), "min_length": (None, 0), "min_new_tokens": (None, 0),
    "exponential_decay_length_penalty": (None,), "guidance_scale": (None, 1.0), "watermarking_config": (None,),
    "stop_strings": (None,), "max_time": (None,),
}  # fmt: skip
"""Settings of a checkpoint's generation that are not applied here, and the values that ask for nothing."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def ignored(settings: Any) -> dict[str, Any]:
    """What a checkpoint's generation settings ask for and decoding here does not do: it is greedy, without penalties."""
    asked = {key: getattr(settings, key, None) for key in _GREEDY}
    found = {key: value for key, value in asked.items() if value not in _GREEDY[key]}
    if found.get("do_sample"):
        found |= {key: value for key in _SAMPLING if (value := getattr(settings, key, None)) is not None}
    return found


def said(name: str, found: Mapping[str, Any]) -> str:
    """`ignored` in one line; empty where there is nothing."""
    listed: Iterable[str] = (f"{key}={value}" for key, value in found.items())
    return f"{name} asks for {', '.join(listed)}; not applied: decoding here is greedy" if found else ""
