"""GGUF files: read once by transformers, kept in the cache as a folder that loads in seconds.

transformers' reader takes the words of the vocabulary apart one by one, three times over: about half a minute for a vocabulary of
50,000, in every process. What is kept is what it read: weights in the type asked for, tokenizer, chat template, settings.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch

from harness import cache, waiting
from harness.errors import BadInput
from harness.files import digest

_MANIFEST = "made-of.json"
_COUNTS = (
    *(".block_count", ".context_length", ".embedding_length", ".feed_forward_length", ".vocab_size"),
    *(".attention.head_count", ".attention.head_count_kv"),
)
"""Ends of the header's keys whose numbers are 1 or more, where they are one number."""
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "padding"))
Read = Callable[[Path, torch.dtype], tuple[Any, Any]]


def check_reader() -> None:
    """BadInput unless the reader of such files is installed."""
    if importlib.util.find_spec("gguf") is None:
        raise BadInput("model: reading GGUF files needs the package gguf; pip install 'depthbench[gguf]'")


@contextmanager
def folder(path: Path, dtype: torch.dtype, read: Read, sha256: str | None = None) -> Iterator[Path]:
    """The file as a folder of safetensors, tokenizer and settings, made with `read` where the cache has none of this content.

    Where the cache cannot be written, the folder lasts as long as the context.

    Args:
        path: the file.
        dtype: of the weights.
        read: gives the model and the tokenizer of a file.
        sha256: what the file should be; None: what it is.

    Raises:
        BadInput: the file is not there or not the one it should be, the package that reads it is missing, or `read` refuses it.
    """
    if not path.is_file():
        raise BadInput(f"model: {path} is not there; give the path of a GGUF file")
    target = place(sha256 or digest(path), dtype)

    def make(work: Path) -> None:
        check_reader()
        if sha256 is not None and digest(path) != sha256:
            raise BadInput(f"model: {path} is damaged; remove it and run the command again")
        print(
            f"{path}: reading it once, into {target.parent} ({_name(dtype)}); later processes load that",
            file=sys.stderr,
        )
        with waiting.told(f"reading {path.name}"):
            _write(work, path, *read(path, dtype))

    found: Path | None = None
    try:
        found = cache.keep(target, _whole, make)
    except BadInput as error:
        if not isinstance(error.__cause__, OSError):
            raise
        print(f"{error}; {path} is read anew by every process until then", file=sys.stderr)
    if found is not None:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="depthbench-") as work:
        with waiting.told(f"reading {path.name}"):
            _write(Path(work), path, *read(path, dtype))
        yield Path(work)


@contextmanager
def silent() -> Iterator[None]:
    """Within it transformers shows no progress bars and no reports of its own: what matters is said in one line, by name."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quicker() -> Iterator[None]:
    """Within it transformers takes a file apart once, not three times, and shows no progress bar off a terminal."""
    place: Any = import_module("gguf")
    reading: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    was = place.GGUFReader, reading.tqdm
    place.GGUFReader, reading.tqdm = functools.cache(was[0]), functools.partial(was[1], disable=None)
    try:
        yield
    finally:
        place.GGUFReader, reading.tqdm = was


@contextmanager
def alone(path: Path) -> Iterator[Path]:
    """A folder with the file and nothing else: transformers would read tokenizer settings and adapters that lie beside it."""
    with tempfile.TemporaryDirectory(prefix="depthbench-") as name:
        place = Path(name) / path.name
        try:
            place.symlink_to(path.absolute())
        except OSError:  # a system, or a user, without such links
            shutil.copyfile(path, place)
        yield Path(name)


def check_model(path: Path) -> None:
    """BadInput for a file that says of itself that it is no whole model: an adapter, one part of several, one without heads."""
    try:
        fields = import_module("gguf").GGUFReader(str(path)).fields
        kind, parts = (fields[key].contents() if key in fields else None for key in ("general.type", "split.count"))
        counts = {key: field.contents() for key, field in fields.items() if key.endswith(_COUNTS)}
        words = len(fields["tokenizer.ggml.tokens"].data) if "tokenizer.ggml.tokens" in fields else None
        ends = {key: fields[key].contents() for key in _ENDS if key in fields}
    except Exception:  # a damaged file, which reading it as a model explains
        return
    if kind not in (None, "model"):
        raise BadInput(
            f"model: {path} is a GGUF file of type {kind!r}, not a model; merge an adapter into its model first (llama.cpp: "
            "llama-export-lora)"
        )
    if parts is not None and parts > 1:
        raise BadInput(
            f"model: {path} is one of {parts} parts of a model; join them first (llama.cpp: llama-gguf-split --merge)"
        )
    for key, value in counts.items():
        if isinstance(value, int) and value < 1:
            raise BadInput(f"model: {path}: {key}={value} in its header is out of range; it must be 1 or more")
    for key, value in ends.items():
        if words is not None and isinstance(value, int) and value >= words:
            raise BadInput(
                f"model: {path}: {key}={value} in its header is no token; give numbers from 0 to {words - 1}"
            )


def check_all_taken(path: Path, source: Any) -> None:
    """BadInput unless the file has as many numbers as the model made of it: what transformers does not know it leaves out.

    Factors for the frequencies of rotary positions (`rope_freqs`, Llama 3.1 and later) are the common case.
    """
    tensors = import_module("gguf").GGUFReader(str(path)).tensors
    there, here = sum(int(tensor.n_elements) for tensor in tensors), sum(p.numel() for p in source.parameters())
    if there == here:
        return
    names = [str(tensor.name) for tensor in tensors]
    odd = [name for name in names if not name.startswith(("blk.", "token_embd.", "output"))] or names
    raise BadInput(
        f"model: {path} holds {there:,} numbers, the model that transformers makes of it {here:,}: it does not take all tensors "
        f"({', '.join(odd[:3])}, ...); give the checkpoint as safetensors"
    )


def kept(path: Path, dtype: torch.dtype) -> Path | None:
    """The folder made of a file, if the cache has it."""
    if not path.is_file():
        return None
    target = place(digest(path), dtype)
    return target if target.is_dir() and _whole(target) else None


def place(sha256: str, dtype: torch.dtype) -> Path:
    """Where the folder of a file stands: by its content, so that a copy or a new name is the same model."""
    return cache.folder() / "gguf" / f"{sha256[:24]}-{_name(dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write(work: Path, path: Path, source: Any, tokenizer: Any) -> None:
    # What the file was quantised with says nothing of these weights any more.
    source.config.__dict__.pop("quantization_config", None)
    source.hf_quantizer, source.is_quantized = None, False
    with silent():
        source.save_pretrained(work)
    tokenizer.save_pretrained(work)
    files = {file.name: file.stat().st_size for file in work.iterdir()}
    record = {"file": path.name, "transformers": _version(), "files": files}
    (work / _MANIFEST).write_text(json.dumps(record, indent=1) + "\n")


def _whole(found: Path) -> bool:
    """Whether a folder has every file as it was written, by the reader of this version."""
    try:
        record = json.loads((found / _MANIFEST).read_text())
        sizes = {name: (found / name).stat().st_size for name in record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(sizes == record["files"] and record["transformers"] == _version())


def _version() -> str:
    from importlib import metadata

    return metadata.version("transformers")
