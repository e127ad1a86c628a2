"""C kernels for decode steps on a CPU, compiled once on the machine they run on.

step.c is compiled for this processor by the C compiler at hand (`$CC`, cc, gcc or clang) the first time it is wanted, and kept
in the user's cache folder. Without a compiler, or with `DEPTHBENCH_NATIVE=0`, everything runs in torch; `status` says which,
and it is a condition of every run. It shares torch's OpenMP threads.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch

SOURCE = Path(__file__).with_name("step.c")
SWITCH = "DEPTHBENCH_NATIVE"
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_BUILD = ("-fopenmp", "-fPIC", "-shared")
_TIMEOUT_S = 120
ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3, "gelu_tanh": 4}
NORMS = {"layer": 0, "rms": 1}

_pointer = ctypes.c_void_p
_long = ctypes.c_int64


class Map(ctypes.Structure):
    """`map` of step.c."""

    _fields_ = [("weight", _pointer), ("bias", _pointer), ("n", _long), ("k", _long)]


class Norm(ctypes.Structure):
    """`norm` of step.c."""

    _fields_ = [("weight", _pointer), ("bias", _pointer), ("eps", ctypes.c_float), ("kind", ctypes.c_int32)]


class Sublayers(ctypes.Structure):
    """`block` of step.c."""

    _fields_: ClassVar[Any] = [
        *((name, Map) for name in ("qkv", "out", "up", "down")),
        *((name, Norm) for name in ("attention_norm", "feed_norm")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "head_dim", "rotary", "activation", "gated")),
        ("scale", ctypes.c_float),
    ]


class Target(ctypes.Structure):
    """`target` of step.c."""

    _fields_: ClassVar[Any] = [
        *((name, _pointer) for name in ("keys", "values", "places", "columns")),
        *((name, _long) for name in ("capacity", "column", "count")),
        *((name, _pointer) for name in ("cosines", "sines")),
    ]


@functools.cache
def _load() -> tuple[ctypes.PyDLL | None, str]:
    """The library and what it is, or None and why there is none."""
    if os.environ.get(SWITCH, "1") == "0":
        return None, f"off: {SWITCH}=0"
    compiler = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))), None)
    if compiler is None:
        return None, "off: no C compiler (cc, gcc or clang) found"
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S).stdout
        version = said.splitlines()[0] if said else compiler
        library = ctypes.PyDLL(str(_build(compiler, version)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return None, f"off: {compiler} failed: {' '.join(str(detail).split())[:200]}"
    number = ctypes.c_int
    arguments: dict[str, list[Any]] = {
        "attend": [_pointer, _long, _pointer, _pointer, _pointer, _pointer, _long, _long, number],
        "fill": [_pointer, _long, _pointer, _pointer, number],
        "feed": [_pointer, _long, _pointer, _pointer, _pointer, number],
        "linear": [_pointer, _long, _pointer, _pointer, _pointer, number, number],
    }
    for name, kinds in arguments.items():
        getattr(library, name).argtypes = kinds
    return library, f"on: {version}"


def _build(compiler: str, version: str) -> Path:
    """The compiled library, made unless this source, compiler and processor have met before."""
    text = SOURCE.read_bytes()
    key = hashlib.sha256(text + repr((version, _FLAGS, platform.machine(), _processor())).encode()).hexdigest()[:16]
    folder = _cache_folder()
    target = folder / f"step-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "step.so"
            command = [compiler, *_FLAGS, *_BUILD, str(SOURCE), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
            made.replace(target)
    return target


def _cache_folder() -> Path:
    """Where the compiled library is kept; a fresh folder where the user has no cache that can be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthbench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="depthbench-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="depthbench-"))


def _processor() -> str:
    """What tells processors with different instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def library() -> ctypes.PyDLL | None:
    """The compiled kernels (compiled now, if they never were), or None where there are none.

    They are called with the interpreter's lock held: one call at a time uses their room to work in.
    """
    return _load()[0]


def status() -> str:
    """`on: <compiler>`, or `off: <reason>`."""
    return _load()[1]


@functools.cache
def panel_columns() -> int:
    """Columns of a panel."""
    found = library()
    return 0 if found is None else int(found.panel_columns())


def panels(weight: torch.Tensor) -> torch.Tensor:
    """A weight [N, K] as the kernels read it: [ceil(N / c), K, c], filled up with zeros."""
    columns = panel_columns()
    n, k = weight.shape
    whole = torch.nn.functional.pad(weight, (0, 0, 0, -n % columns))
    return whole.view(-1, columns, k).transpose(1, 2).contiguous()


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's elements lie; NULL for None."""
    return None if tensor is None else tensor.data_ptr()
