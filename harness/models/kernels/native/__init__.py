"""C kernels for decode steps on a CPU, compiled once on the machine they run on, for the widest vectors its processor has.

step.c (with the headers beside it) is compiled by the C compiler at hand (`$CC`, cc, gcc or clang) the first time it is
wanted, checked against torch's own calls, and kept in the user's cache folder. Without a compiler, without OpenMP, where the
check says that torch is faster, or with `DEPTHBENCH_NATIVE=0`, everything runs in torch; `status` says which, and it is a
condition of every run. `DEPTHBENCH_NATIVE_ISA` (avx512, avx2, sse2 or neon) asks for narrower vectors than the processor has.
Whose threads run them: threads.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from harness.errors import BadInput
from harness.models.kernels.native import check

SOURCES = tuple(
    Path(__file__).with_name(f) for f in ("step.c", "attention.h", "maps.h", "singles.h", "team.h", "vectors.h")
)
SWITCH = "DEPTHBENCH_NATIVE"
ISA_SWITCH = "DEPTHBENCH_NATIVE_ISA"
_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_BUILD = ("-fopenmp", "-pthread", "-fPIC", "-shared")
_TIMEOUT_S = 120
ISAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "avx512": (("avx512f", "avx512dq", "avx512vl", "avx2", "fma"), ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma")),
    "avx2": (("avx2", "fma"), ("-mavx2", "-mfma")),
    "sse2": (("sse2",), ()),
    "neon": (("asimd",), ()),
}
"""Instruction sets, widest first: the flags by which the system names what they need, and the compiler's for it."""
ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3, "gelu_tanh": 4}
NORMS = {"layer": 0, "rms": 1}
ATTEND, FEED, FILL = 1, 2, 4
WEIGHTS = (torch.float32, torch.bfloat16)
"""Types of weights that the kernels read. They widen bfloat16 to float32, which rounds nothing; whatever else they compute with and
store is float32."""

_pointer = ctypes.c_void_p
_long = ctypes.c_int64


class Map(ctypes.Structure):
    """`map` of maps.h."""

    _fields_ = [("weight", _pointer), ("bias", _pointer), ("n", _long), ("k", _long), ("size", _long)]


class Norm(ctypes.Structure):
    """`norm` of step.c."""

    _fields_ = [("weight", _pointer), ("bias", _pointer), ("eps", ctypes.c_float), ("kind", ctypes.c_int32)]


class Sublayers(ctypes.Structure):
    """`block` of step.c."""

    _fields_: ClassVar[Any] = [
        *((name, Map) for name in ("qkv", "out", "up", "down")),
        *((name, Norm) for name in ("attention_norm", "feed_norm")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "head_dim", "rotary")),
        *((name, ctypes.c_int32) for name in ("activation", "gated", "side_by_side")),
        ("scale", ctypes.c_float),
    ]


OPERATION = (
    "block", "keys", "values", "places", "columns", "capacity", "column", "count", "cosines", "sines", "what", "factor",
)  # fmt: skip
"""Fields of `operation` of step.c, 8 bytes each; `factor` is a double."""


@dataclass(frozen=True)
class Library:
    """The compiled kernels.

    They are called with the interpreter's lock held: one call at a time uses their room to work in.

    Attributes:
        calls: the functions of step.c.
        isa: instruction set they were compiled for.
        compiler: name and version.
        panel_columns: columns of a panel.
        lanes: numbers of a vector.
    """

    calls: ctypes.PyDLL
    isa: str
    compiler: str
    panel_columns: int
    lanes: int

    def panels(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight [N, K] of a type of `WEIGHTS` as the kernels read it: [ceil(N / c), K, c], filled up with zeros.

        Of bfloat16 two vectors stand in the halves of the same words (vectors.h), the first in the lower ones.
        """
        n, k = weight.shape
        whole = (
            weight
            if n % self.panel_columns == 0
            else torch.nn.functional.pad(weight, (0, 0, 0, -n % self.panel_columns))
        )
        panels = whole.view(-1, self.panel_columns, k).transpose(1, 2)
        if weight.dtype == torch.bfloat16:
            panels = panels.unflatten(2, (-1, 2, self.lanes)).transpose(3, 4)
        return panels.contiguous().view(-1, k, self.panel_columns)

    def map(self, panels: torch.Tensor, n: int, k: int, bias: torch.Tensor | None = None) -> Map:
        """What the kernels read of a map [N, K] over its weight in panels; it keeps neither alive."""
        return Map(panels.data_ptr(), pointer(bias), n, k, panels.element_size())


_chosen: list[str] = []


def isas() -> tuple[str, ...]:
    """The instruction sets of this processor that there are kernels for, widest first; none where the system does not tell."""
    flags = set(_processor().partition(":")[2].split())
    return tuple(name for name, (needs, _) in ISAS.items() if flags.issuperset(needs))


def isa() -> str | None:
    """The instruction set the kernels are compiled for: the widest, or what `DEPTHBENCH_NATIVE_ISA` or `using` asks for.

    Raises:
        BadInput: that is no instruction set of this processor.
    """
    has, asked = isas(), _asked()
    if not asked:
        return has[0] if has else None
    if asked not in has:
        raise BadInput(f"{ISA_SWITCH}: {asked!r} is not what this processor has; give {' or '.join(has) or 'nothing'}")
    return asked


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Inside, models are loaded for another instruction set; one loaded before keeps the kernels it has."""
    _chosen.append(name)
    try:
        yield
    finally:
        _chosen.pop()


def library() -> Library | None:
    """The compiled kernels (compiled now, if they never were), or None where there are none."""
    return _current(os.environ.get(SWITCH), _asked())[0]


def status() -> str:
    """`on: <instruction set>, <compiler>`, or `off: <reason>`."""
    return _current(os.environ.get(SWITCH), _asked())[1]


def forget() -> None:
    """Look for compiler and kernels anew the next time they are wanted."""
    for found in (_current, _load, _processor):
        found.cache_clear()


def _asked() -> str | None:
    return _chosen[-1] if _chosen else os.environ.get(ISA_SWITCH)


@functools.cache
def _current(switch: str | None, asked: str | None) -> tuple[Library | None, str]:
    if switch == "0":
        return None, f"off: {SWITCH}=0"
    name = isa()
    if name is None:
        return None, f"off: no kernels for {platform.machine() or 'this processor'}"
    return _load(name)


@functools.cache
def _load(name: str) -> tuple[Library | None, str]:
    """The library for an instruction set and what it is, or None and why there is none."""
    compiler = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))), None)
    if compiler is None:
        return None, "off: no C compiler (cc, gcc or clang) found"
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S).stdout
        version = said.splitlines()[0] if said else compiler
        made = _build(compiler, version, name)
        calls = _declared(ctypes.PyDLL(str(made)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return None, f"off: {compiler} failed: {' '.join(str(detail).split())[:200]}"
    found = Library(calls, calls.isa().decode(), version, calls.panel_columns(), calls.lanes())
    slower = _verdict(made.with_suffix(".json"), found)
    return (
        (found, f"on: {found.isa}, {version}") if slower is None else (None, f"off: {found.isa}, {version}: {slower}")
    )


def _declared(calls: ctypes.PyDLL) -> ctypes.PyDLL:
    number = ctypes.c_int
    arguments: dict[str, list[Any]] = {
        "run": [_pointer, _long, _long, *[_pointer] * 5, _long, _long, number, number, _pointer],
        "linear": [_pointer, _long, _pointer, _pointer, _pointer, number, number, number],
        "largest_places": [_pointer, _long, _long, _pointer, number, number],
        "read_all": [_pointer, _long, _long, number, number],
    }
    for name, kinds in arguments.items():
        getattr(calls, name).argtypes = kinds
    calls.isa.restype, calls.read_all.restype = ctypes.c_char_p, ctypes.c_float
    return calls


def _build(compiler: str, version: str, name: str) -> Path:
    """The compiled library, made unless this source, compiler, processor and instruction set have met before."""
    flags = (*_FLAGS, *ISAS[name][1], "-mtune=native")
    text = b"".join(source.read_bytes() for source in SOURCES)
    key = hashlib.sha256(text + repr((version, flags, platform.machine(), _processor())).encode()).hexdigest()[:16]
    folder = _cache_folder()
    target = folder / f"step-{name}-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "step.so"
            command = [compiler, *flags, *_BUILD, str(SOURCES[0]), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
            made.replace(target)
    return target


def _verdict(kept: Path, found: Library) -> str | None:
    """Why these kernels are not to be used, checked when they are new and kept beside them; None where they are good."""
    try:
        return json.loads(kept.read_text())["refused"]  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError):
        pass
    refused, seconds = check.against_torch(found)
    with contextlib.suppress(OSError):
        work = kept.with_suffix(f".{os.getpid()}")
        work.write_text(json.dumps({"refused": refused, "seconds": seconds, "torch": torch.__version__}))
        work.replace(kept)
    return refused


def _cache_folder() -> Path:
    """Where the compiled library is kept; a fresh folder where the user has no cache that can be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthbench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="depthbench-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="depthbench-"))


@functools.cache
def _processor() -> str:
    """What tells processors with different instructions apart, as the system lists it; what is known to be there elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"flags: {_known(platform.machine())}"
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))), f"flags: {_known(platform.machine())}"
    )


def _known(machine: str) -> str:
    """What every processor of this kind has, where the system has no list (macOS)."""
    return {"arm64": "asimd", "aarch64": "asimd", "x86_64": "sse2", "AMD64": "sse2"}.get(machine, "")


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's elements lie; NULL for None."""
    return None if tensor is None else tensor.data_ptr()
