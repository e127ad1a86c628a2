"""Linear maps over loaded weights, and what runs them: the project's own kernels (`kernels.native`) or torch's calls.

The kernels read weights in panels, one copy for any number of rows; they take float32 and bfloat16 weights on a CPU, and
compute in float32 (precision.py). Elsewhere (a GPU, other types, gradients, torch's FLOP counter, no compiler) it is `F.linear` on
the weights as loaded; bfloat16 ones are widened for every call on a CPU, which takes longer than reading them. The kernels are the
default: on every processor they were tried on they are at least as fast as anything torch has. Whether that is so here is
measured before anything is timed (contest.py), per number of rows; torch's calls are used where they win, which is an error
in the kernels and said as such. What runs is a condition of the run (`table`, `install`).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import psutil
import torch
from torch.nn import functional as F

from harness.machine.environment import memory_limit
from harness.models.kernels import native, pages, threads
from harness.models.precision import widened

NATIVE, TORCH = "native", "torch"
MAX_BUCKET = 256
ROOM = 0.8
"""Share of the free memory that the panels of a model may take; the rest is for caches and results."""

_SMALL = 8192
"""Numbers whose largest torch finds while a call of the kernels is made ready."""

_LARGE = 1 << 23
"""Elements of a weight that are worth asking the system for their pages."""

_choices: dict[str, str] = {}
_forced: str | None = None


def table() -> dict[str, str]:
    """What was found for models of this process, by shape and rows, e.g. `{"24 x block 128 4/4x32 512 relu, rows 8": "native"}`."""
    return dict(sorted(_choices.items()))


def digest() -> str:
    """Short name of the choices, for conditions that must be equal."""
    return hashlib.sha256(repr(sorted(_choices.items())).encode()).hexdigest()[:12]


def install(choices: Mapping[str, str]) -> None:
    """Use these choices (from `table` of another process) and no others."""
    _choices.clear()
    _choices.update(choices)


def choose(kind: str, rows: int, what: str) -> None:
    """From now on, models of this kind run this number of rows (and its neighbours) by `NATIVE` or `TORCH`."""
    _choices[f"{kind}, rows {bucket(rows)}"] = what


def chosen(kind: str, rows: int) -> str:
    """What runs this number of rows; the choice of the nearest one measured, the kernels where none was."""
    if not _choices:
        return NATIVE
    at = bucket(rows)
    found = _choices.get(f"{kind}, rows {at}")
    if found is None:
        known = {
            int(key.rpartition(" ")[2]): what for key, what in _choices.items() if key.rpartition(", rows ")[0] == kind
        }
        found = known[min(known, key=lambda r: (abs(r.bit_length() - at.bit_length()), r))] if known else NATIVE
    return found


def bucket(rows: int) -> int:
    """Numbers of rows that share a choice: the next power of two, up to `MAX_BUCKET`."""
    return min(1 << (rows - 1).bit_length(), MAX_BUCKET) if rows else 1


def forced() -> str | None:
    """What `only` prescribes here."""
    return _forced


@contextlib.contextmanager
def only(what: str) -> Iterator[None]:
    """Inside, everything runs in torch's calls (`TORCH`) or in the project's own kernels wherever they can (`NATIVE`)."""
    global _forced
    before, _forced = _forced, what
    try:
        yield
    finally:
        _forced = before


class Linear:
    """y = activation(x W^T + b) + residual over [..., K] to [..., N].

    Args:
        weight: [N, K].
        bias: [N] or None.
        relu: whether ReLU follows.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = False) -> None:
        self.weight, self.relu = weight, relu
        self.bias = None if bias is None else widened(bias)
        self.group: Group | None = None
        self._panels: tuple[torch.Tensor, native.Map] | None = None
        self._library: native.Library | None = None

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Apply to x [..., K]; `residual` [..., N] is added to the result."""
        if not native_allowed(x):
            return self._called(x, residual)
        if self.group is None:
            self.group = Group("map", (self,))
        if not self.group.native(x.numel() // self.weight.shape[1]):
            return self._called(x, residual)
        return self._compiled(x, residual)

    def _called(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):  # autocast has a type of its own
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = F.linear(x, weight, bias)
        if self.relu:
            y = F.relu(y)
        return y if residual is None else residual + y

    def _compiled(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        held = self.panels()
        assert self._library is not None, "panels are made for a library"
        x = x.contiguous()
        n = self.weight.shape[0]
        y = x.new_empty(*x.shape[:-1], n)
        more = None if residual is None else residual.expand_as(y).contiguous()
        kind = native.ACTIVATIONS["relu" if self.relu else None]
        status = self._library.calls.linear(
            ctypes.byref(held), y.numel() // n, x.data_ptr(), native.pointer(more), y.data_ptr(), kind, *threads.team()
        )
        if status:
            raise MemoryError("no memory to work in for a linear map")
        return y

    def panels(self) -> native.Map:
        """What the C kernels read of this map: its weights in panels, one copy for all who ask."""
        if self._panels is None:
            self._library = native.library()
            assert self._library is not None, "asked only where there are kernels"
            weight = self._library.panels(self.weight.detach())
            n, k = self.weight.shape
            if self.weight.numel() >= _LARGE:  # one of the two ends; those of blocks are given back together (fused.py)
                pages.give_back((self.weight,))
            self._panels = weight, self._library.map(weight, n, k, self.bias)
        return self._panels[1]


class Group:
    """The maps of a model, which share one choice.

    Args:
        kind: what the choice is kept under: models of one kind share it.
        maps: the maps.
    """

    def __init__(self, kind: str, maps: Sequence[Linear]) -> None:
        self.kind = kind
        self._bytes = sum(m.weight.numel() * m.weight.element_size() for m in maps)
        self._readable = all(m.weight.dtype in native.WEIGHTS for m in maps)
        self._fits: bool | None = None

    def native(self, rows: int) -> bool:
        """Whether the kernels run this number of rows; asked where `native_allowed`."""
        wanted = rows > 0 and self._readable and (_forced == NATIVE or chosen(self.kind, rows) == NATIVE)
        return wanted and self._room()

    def _room(self) -> bool:
        """Whether there is memory for the panels, as found when they were first wanted."""
        if self._fits is None:
            free, granted = psutil.virtual_memory().available, memory_limit()
            self._fits = self._bytes <= ROOM * (free if granted is None else min(free, granted))
            if not self._fits:
                _choices[f"{self.kind}, rows 1"] = TORCH
        return self._fits


def argmax(x: torch.Tensor) -> torch.Tensor:
    """`x.argmax(-1)` of x [R, V]: the first place of the largest; of the first NaN where there is one."""
    library = threads.library()
    if library is None or not fits_kernels(x) or x.numel() < _SMALL or not x.is_contiguous():
        return x.argmax(-1)
    places = torch.empty(x.shape[0], dtype=torch.long)
    if library.calls.largest_places(x.data_ptr(), *x.shape, places.data_ptr(), *threads.team()):
        raise MemoryError("no memory to work in for the largest of rows")
    return places


def fits_kernels(x: torch.Tensor) -> bool:
    """Whether the compiled kernels, where there are any, may compute with these states now."""
    return x.dtype == torch.float32 and _may_run(x)


def readable(weight: torch.Tensor) -> bool:
    """Whether the compiled kernels, where there are any, may read this weight now."""
    return weight.dtype in native.WEIGHTS and _may_run(weight)


def _may_run(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and _forced != TORCH and not torch.is_grad_enabled()


def native_allowed(x: torch.Tensor) -> bool:
    """Whether there are compiled kernels, and they may compute with these states now."""
    return fits_kernels(x) and native.library() is not None
