"""The model `depthbench` of lm-eval: what `--model_args` may say, with the meaning that lm-eval's transformers backend gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lm_eval.api.registry import register_model

from harness.errors import BadInput, near
from harness.records.limits import BASELINE
from harness.tasks.lm_eval.bridge import MethodLM

NAME = "depthbench"

# What `hf` takes and changes nothing here at these values; with any other the reason stands beside it.
_WITHOUT_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "trust_remote_code": ((False,), "no code that comes with a checkpoint is run; use a supported architecture"),
    "backend": (("default", "causal"), "only decoders are supported"),
    "revision": (("main",), "download that revision and give its folder as pretrained"),
    "subfolder": (("",), "give the folder itself as pretrained"),
    "tokenizer": ((), "save the tokenizer in the model's folder"),
    "truncation": ((False,), "contexts are truncated on the left, as lm-eval does without it"),
    "logits_cache": ((True, False), ""),
    "softmax_dtype": (("float32",), "likelihoods are always computed in float32"),
    "mixed_precision_dtype": ((), "give dtype"),
    "use_fast_tokenizer": ((True,), "the tokenizer is loaded as saved"),
    "parallelize": ((False,), "a model runs on one device"),
    "device_map": ((), "a model runs on one device"),
    "tp_plan": ((), "a model runs on one device"),
    "max_memory_per_gpu": ((), "a model runs on one device"),
    "max_cpu_memory": ((), "a model runs on one device"),
    "offload_folder": (("./offload",), "a model runs on one device"),
    "low_cpu_mem_usage": ((True, False), ""),
    "attn_implementation": (("sdpa", "eager"), "attention is this engine's own"),
    "peft": ((), "merge the adapter into the weights and give the result"),
    "delta": ((), "add the difference to the weights and give the result"),
    "autogptq": ((False,), "quantised weights are not supported"),
    "gptqmodel": ((False,), "quantised weights are not supported"),
    "load_in_8bit": ((False,), "quantised weights are not supported"),
    "load_in_4bit": ((False,), "quantised weights are not supported"),
}
_TAKEN = (
    "pretrained", "method", "dtype", "device", "batch_size", "max_batch_size", "expected_tokens", "score_bos", "max_length",
    "add_bos_token", "prefix_token_id", "chat_template_args", "enable_thinking", "think_end_token", "gguf_file",
)  # fmt: skip
_KINDS: dict[str, type] = {
    "expected_tokens": int,
    "score_bos": bool,
    "max_length": int,
    "add_bos_token": bool,
    "prefix_token_id": int,
    "chat_template_args": dict,
    "think_end_token": str,
}


def read_model_args(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `MethodLM` that `--model_args` gives: `model` (from `pretrained`), `method`, `dtype`, ... as far as given.

    Raises:
        BadInput: an argument that is not known, of the wrong type, or that asks for what is not done here, with the reason.
    """
    settings: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key in _WITHOUT_EFFECT:
            neutral, why = _WITHOUT_EFFECT[key]
            if value not in neutral and why:
                raise BadInput(f"model_args: {key}={value!r} is not supported: {why}")
        elif key not in _TAKEN:
            raise BadInput(f"model_args: {key!r} is not known; {near(key, [*_TAKEN, *_WITHOUT_EFFECT])}")
        elif key in _KINDS and type(value) is not _KINDS[key]:
            raise BadInput(f"model_args: {key}={value!r} is no {_NAMES[_KINDS[key]]}")
        else:
            settings[key] = value
    model = settings.pop("pretrained", None)
    if model is not None:
        inside = settings.pop("gguf_file", None)
        settings["model"] = model if inside is None else f"{model}/{inside}"
    if settings.pop("enable_thinking", None) is not None:
        template = settings.setdefault("chat_template_args", {})
        settings["chat_template_args"] = {**template, "enable_thinking": bool(given["enable_thinking"])}
    if "dtype" in settings:
        settings["dtype"] = str(settings["dtype"]).removeprefix("torch.")
    if "method" in settings:
        settings["method"] = str(settings["method"])
    return settings


_NAMES = {int: "whole number", bool: "True or False", dict: "mapping, e.g. {'enable_thinking': False}", str: "text"}


def best_device(asked: str | None) -> str:
    """The device lm-eval means: what is asked for, else a GPU where torch sees one, else the CPU."""
    wanted = asked or "cuda"
    return "cpu" if wanted.startswith("cuda") and not torch.cuda.is_available() else wanted


@register_model(NAME)
class Registered(MethodLM):
    """`lm_eval run --model depthbench --model_args pretrained=...,method=...`.

    Args:
        pretrained: anything `load_model` takes, as text or loaded.
        batch_size: rows computed together, 1 where nothing is said, as in lm-eval.
        max_batch_size: what `auto` starts from.
        device: as lm-eval's transformers backend reads it: the CPU where there is no GPU.
        others: see `read_model_args`.

    Raises:
        BadInput: see `read_model_args` and `MethodLM`.
    """

    def __init__(
        self,
        pretrained: Any = None,
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **others: Any,
    ) -> None:
        settings = {"method": BASELINE, "dtype": "auto", **read_model_args({"pretrained": pretrained, **others})}
        if "model" not in settings:
            raise BadInput("model_args: pretrained is missing; give a model, e.g. pretrained=opt-e2e-mini")
        super().__init__(
            settings.pop("model"),
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            device=best_device(device),
            **settings,
        )
