"""Loading models: a bundled name, a local folder, a hub id or a transformers model object, to a `Decoder`."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from harness.errors import BadInput, near
from harness.models import shapes
from harness.models.decoder import Decoder

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEFAULT_VARIANT = "full"

# transformers' model_type -> "module:Class". The only list of families.
FAMILIES: dict[str, str] = {
    "bloom": "harness.models.families.bloom:BloomDecoder",
    "gemma2": "harness.models.families.gemma2:Gemma2Decoder",
    "gemma3_text": "harness.models.families.gemma3:Gemma3Decoder",
    "gpt2": "harness.models.families.gpt2:GPT2Decoder",
    "gpt_neox": "harness.models.families.gpt_neox:GPTNeoXDecoder",
    "llama": "harness.models.families.llama:LlamaDecoder",
    "mistral": "harness.models.families.mistral:MistralDecoder",
    "opt": "harness.models.families.opt:OPTDecoder",
    "phi3": "harness.models.families.phi3:Phi3Decoder",
    "qwen2": "harness.models.families.qwen2:Qwen2Decoder",
    "qwen3": "harness.models.families.qwen3:Qwen3Decoder",
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bundled() -> list[str]:
    """Names of the bundled checkpoints, `model/variant`."""
    return sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in ASSETS.glob("*/*/config.json"))


def load_model(
    model: Any, *, dtype: str | torch.dtype = "float32", device: str = "cpu", tokenizer: Any = None
) -> Decoder:
    """Load a model as a `Decoder`.

    Args:
        model: bundled name (`opt-e2e-mini` or `opt-e2e-mini/skipdecode`), local folder, hub id, `random:<shape>` (a named
            configuration without weights, see shapes.py), a `.gguf` file of a supported family (needs the extra `gguf`; its
            weights are dequantised), or a transformers model.
        dtype: type of the weights in memory, `auto` for the one they are stored in (float32 where there is none, or one that is
            dequantised); ignored for a model object, which is used as it is.
        device: `cpu`, `cuda` or `cuda:N`; ignored for a model object.
        tokenizer: only for a model object.

    Raises:
        BadInput: nothing of that name, weights missing, truncated or not safetensors, an architecture without a family
            file, a device that is not there.
    """
    if not isinstance(model, (str, Path)):
        return _wrap(type(model).__name__, model, tokenizer, None)
    name, stored = str(model), dtype == "auto"
    dtype = torch.float32 if stored else check_dtype(dtype)
    check_device(device)
    if shapes.is_random(name):
        return _wrap(name, shapes.build(name, dtype, device), None, None)
    if Path(name).suffix == ".gguf":
        return _wrap(name, *_from_gguf(Path(name), dtype, device), None)
    folder = bundled_folder(name)
    if folder is None and Path(name).is_dir():
        folder = Path(name)
    if folder is not None:
        _check_folder(folder)
        where = str(folder)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        names = dict.fromkeys(part for full in bundled() for part in (full, full.split("/")[0]))
        raise BadInput(f"model: {name!r} is neither bundled, a folder nor a hub id; {near(name, names)}")
    else:
        where = name
    source, tokenizer = _load(name, where, "auto" if stored else dtype)
    return _wrap(name, source.to(device).eval(), tokenizer, folder)


def read_card(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself in `depthbench.json`; empty when it says nothing."""
    path = folder / "depthbench.json"
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text())
    except ValueError:
        raise BadInput(f"model: {path} is not valid JSON; save the checkpoint again") from None
    return card if isinstance(card, dict) else {}


def check_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch type of a name, or BadInput with the known names."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise BadInput(f"dtype: {dtype!r} is not known; {near(dtype, DTYPES)}")
    return DTYPES[dtype]


def check_device(device: str) -> None:
    """BadInput unless torch can compute on `device`."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise BadInput(f"device: {device!r} is not a device; give cpu, cuda or cuda:N") from None
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (torch.device(device).index or 0) >= count:
            raise BadInput(f"device: {device!r} is not there, torch sees {count} CUDA devices; use --device cpu")
    elif kind != "cpu":
        raise BadInput(f"device: {device!r} is not supported; give cpu, cuda or cuda:N")


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled checkpoint; None for any other name, BadInput for a variant that is not there."""
    family, _, variant = name.partition("/")
    if family in ("", ".", ".."):
        return None
    folder = ASSETS / family / (variant or DEFAULT_VARIANT)
    if (folder / "config.json").is_file():
        return folder
    if (ASSETS / family).is_dir():
        known = ", ".join(b for b in bundled() if b.startswith(f"{family}/"))
        raise BadInput(f"model: {family} has no variant {variant!r}; bundled are {known or 'none'}")
    return None


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise BadInput(f"model: {folder} has no config.json; give a folder saved with save_pretrained")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:
        raise BadInput(f"model: {folder / 'config.json'} is not valid JSON; save the checkpoint again") from None
    _check_family(str(config.get("model_type")))
    if not list(folder.glob("*.safetensors")):
        pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        if pickles:
            raise BadInput(
                f"model: {folder / pickles[0]} is a pickle checkpoint, which can run code; save it as safetensors"
            )
        raise BadInput(f"model: {folder} has no *.safetensors file; give a folder with weights")


def _check_family(model_type: str) -> None:
    if model_type not in FAMILIES:
        raise BadInput(
            f"model: architecture {model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )


def family(config: Any) -> type[Decoder]:
    """The class for a transformers config; BadInput where there is none, or none that computes it exactly."""
    _check_family(config.model_type)
    module, _, attribute = FAMILIES[config.model_type].partition(":")
    cls: type[Decoder] = getattr(importlib.import_module(module), attribute)
    cls.check(config)
    return cls


def _from_gguf(path: Path, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, dequantised by transformers' own reader."""
    if not path.is_file():
        raise BadInput(f"model: {path} is not there; give the path of a GGUF file")
    if importlib.util.find_spec("gguf") is None:
        raise BadInput("model: reading GGUF files needs the package gguf; pip install 'depthbench[gguf]'")
    source, tokenizer = _load(str(path), str(path.parent), dtype, gguf_file=path.name)
    # What the file was quantised with says nothing of these weights any more.
    source.config.__dict__.pop("quantization_config", None)
    source.hf_quantizer, source.is_quantized = None, False
    return source.to(device).eval(), tokenizer


def _load(name: str, where: str, dtype: torch.dtype | str, **more: str) -> tuple[Any, Any]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **more)
        family(config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=dtype,
            use_safetensors=not more,
            trust_remote_code=False,
            output_loading_info=True,
            **more,
        )
        source, info = loaded
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **more)
    except BadInput:
        raise
    except SafetensorError as error:
        raise BadInput(
            f"model: weights of {name} are damaged or truncated ({error}); copy the checkpoint again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError) as error:
        raise BadInput(f"model: {name} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(set(info["missing_keys"]) - set(getattr(source, "_tied_weights_keys", None) or ()))
    if missing:
        raise BadInput(
            f"model: {name} lacks {len(missing)} of its weights, {missing[0]} first; copy the checkpoint again"
        )
    return source, tokenizer


def _wrap(name: str, source: Any, tokenizer: Any, folder: Path | None) -> Decoder:
    config = getattr(source, "config", None)
    if not hasattr(config, "model_type"):
        _check_family(type(source).__name__)
    cls = family(config)
    if source.get_output_embeddings() is None:
        raise BadInput(
            f"model: {type(source).__name__} has no output matrix; give the model for causal language modelling"
        )
    extras: dict[str, torch.Tensor] = {}
    card: dict[str, Any] = {}
    if folder is not None and (folder / "extras" / "extras.safetensors").is_file():
        from safetensors.torch import load_file

        extras = {
            k: v.to(source.device, source.dtype) for k, v in load_file(folder / "extras" / "extras.safetensors").items()
        }
    if folder is not None:
        card = read_card(folder)
    with torch.inference_mode():
        return cls(name, source, tokenizer, extras, card, folder)
