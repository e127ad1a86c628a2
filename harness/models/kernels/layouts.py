"""Linear maps over loaded weights, stored in the layout that is fastest for the number of rows at hand.

Which kernel is fastest depends on the shape, the rows and the machine, by factors: so it is measured once, on the loaded
weights, the first time a shape meets a number of rows, and the choice is a condition of the run (`table`, `install`). Layouts:

* `row`: [N, K] as loaded, `F.linear`; the only one on a GPU, with gradients, and under torch's FLOP counter (`only`);
* `column`: a [K, N] copy, `torch.addmm`: reads few rows' weights in the order they are needed;
* `packed`: oneDNN's blocked format, with bias, ReLU and the residual sum inside the kernel; a copy for each bucket of rows;
* `panel`: the project's own kernel (`harness.models.kernels.native`), the same inside it; where there is a C compiler, for float32.

A layout whose copy of the weights does not fit beside the others (copies.py) is not considered.

Whole sublayers of a decode step may be one kernel too (fused.py): that choice is made here as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch.nn import functional as F

from harness.models.kernels import copies, native

LAYOUTS = ("row", "column", "packed", "panel")
MAX_BUCKET = 256
# Weights cycled through while measuring: more than the caches hold, as in a decode step.
_MEASURED_BYTES = 64 << 20

Kernel = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
_choices: dict[str, str] = {}
_installed = False
_forced: str | None = None


def table() -> dict[str, str]:
    """The layouts chosen so far in this process, by shape and rows, e.g. `{"512x128 relu float32 rows 8": "column"}`."""
    return dict(sorted(_choices.items()))


def digest() -> str:
    """Short name of the choices, for conditions that must be equal."""
    return hashlib.sha256(repr(sorted(_choices.items())).encode()).hexdigest()[:12]


def install(choices: Mapping[str, str]) -> None:
    """Use these choices (from `table` of another process) and measure nothing more.

    A number of rows that is missing takes the choice of the nearest one measured for its shape, an unknown shape torch's own.
    """
    global _installed
    _choices.clear()
    _choices.update(choices)
    _installed = True


def forced() -> str | None:
    """The layout that `only` prescribes here."""
    return _forced


@contextlib.contextmanager
def only(layout: str) -> Iterator[None]:
    """Inside, everything runs in torch's calls (`row`) or in the project's own kernels wherever they can (`panel`)."""
    global _forced
    before, _forced = _forced, layout
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
        self.weight, self.bias, self.relu = weight, bias, relu
        self.peers: Sequence[Linear] = (self,)
        self._kernels: dict[int, Kernel] = {}
        self._panels: tuple[torch.Tensor, native.Map] | None = None
        # Copies live as long as a kernel that reads them.
        self._columns: weakref.ref[torch.Tensor] | None = None
        self._packs: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
        self._plain = weight.device.type != "cpu"

    @property
    def key(self) -> str:
        """Shape, activation and type: maps with the same key share a choice."""
        n, k = self.weight.shape
        kind = f"{n}x{k}{' relu' if self.relu else ''}{'' if self.bias is None else ' bias'}"
        return f"{kind} {str(self.weight.dtype).removeprefix('torch.')}"

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Apply to x [..., K]; `residual` [..., N] is added to the result."""
        if self._plain or _forced == "row" or torch.is_grad_enabled():
            return self._row(x, residual)
        if _forced is not None and native_allowed(x):
            return self._panel()(x, residual)
        rows = x.numel() // self.weight.shape[1]
        kernel = self._kernels.get(rows)
        if kernel is None:
            kernel = self._kernels[rows] = self._choose(rows)
        return kernel(x, residual)

    def _row(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.relu:
            y = F.relu(y)
        return y if residual is None else residual + y

    def _column(self) -> Kernel:
        there = None if self._columns is None else self._columns()
        columns = self.weight.t().contiguous() if there is None else there
        self._columns = weakref.ref(columns)
        bias, relu = self.bias, self.relu
        k, n = columns.shape

        def run(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
            flat = x.reshape(-1, k)
            y = torch.mm(flat, columns) if bias is None else torch.addmm(bias, flat, columns)
            if relu:
                y.relu_()
            if x.dim() != 2:
                y = y.view(*x.shape[:-1], n)
            return y if residual is None else y.add_(residual)

        return run

    def _packed(self, rows: int) -> Kernel:
        there = self._packs.get(bucket(rows))
        packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), rows) if there is None else there
        self._packs[bucket(rows)] = packed
        bias, attribute = self.bias, "relu" if self.relu else "none"
        unary = torch.ops.mkldnn._linear_pointwise.default
        binary = torch.ops.mkldnn._linear_pointwise.binary

        def run(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
            if residual is None or attribute != "none":
                y = unary(x, packed, bias, attribute, [], "")
                return y if residual is None else y + residual  # type: ignore[no-any-return]
            return binary(x, residual, packed, bias, "add")  # type: ignore[no-any-return]

        return run

    def panels(self) -> tuple[torch.Tensor, native.Map]:
        """The weights in panels (one copy for all who ask), and what the C kernels read of this map."""
        if self._panels is None:
            weight = native.panels(self.weight.detach())
            n, k = self.weight.shape
            self._panels = weight, native.Map(weight.data_ptr(), native.pointer(self.bias), n, k)
        return self._panels

    def _panel(self) -> Kernel:
        library = native.library()
        if library is None or self.weight.dtype != torch.float32:
            raise NotImplementedError("no compiled kernels for this type or machine")
        linear, kind = library.linear, native.ACTIVATIONS["relu" if self.relu else None]
        held, n = ctypes.byref(self.panels()[1]), self.weight.shape[0]

        def run(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
            x = x.contiguous()
            y = x.new_empty(*x.shape[:-1], n)
            more = None if residual is None else residual.expand_as(y).contiguous()
            rows, threads = y.numel() // n, torch.get_num_threads()
            linear(held, rows, x.data_ptr(), native.pointer(more), y.data_ptr(), kind, threads)
            return y

        return run

    def copy(self, layout: str, rows: int) -> dict[str, int]:
        """The copy of the weights of all peers that a layout needs at a number of rows: its name and its bytes; none for `row`."""
        if layout == "row":
            return {}
        name = f"{self.key} {layout}{f' {bucket(rows)}' if layout == 'packed' else ''}"
        return {name: sum(m.weight.numel() * m.weight.element_size() for m in self.peers)}

    def build(self, layout: str, rows: int) -> Kernel:
        """The kernel of a layout; raises what torch raises where the machine or type has none."""
        if layout == "column":
            return self._column()
        if layout == "panel":
            return self._panel()
        return self._packed(rows) if layout == "packed" else self._row

    def forget(self, rows: int) -> None:
        """Drop the kernel kept for a number of rows, with its copy of the weights."""
        self._kernels.pop(rows, None)

    def _choose(self, rows: int) -> Kernel:
        layout, at = choose(self.key, rows, lambda: _fastest(self.peers, rows), "row")
        # Where another number of rows was measured, its copy of the weights serves this one too.
        return self.build(layout, rows if at == bucket(rows) else at)


def bucket(rows: int) -> int:
    """Numbers of rows that share a choice: the next power of two, up to `MAX_BUCKET`."""
    return min(1 << (rows - 1).bit_length(), MAX_BUCKET) if rows else 1


def choose(kind: str, rows: int, fastest: Callable[[], str], fallback: str) -> tuple[str, int]:
    """What runs this kind at this number of rows, and the bucket of rows for which that was measured.

    Asks `fastest` where nothing was measured yet and may be.
    """
    at = bucket(rows)
    key = f"{kind} rows {at}"
    if key not in _choices and rows and not _installed:
        _choices[key] = fastest()
    return (_choices[key], at) if key in _choices else _nearest(kind, at, fallback)


def native_allowed(x: torch.Tensor) -> bool:
    """Whether the kernels of `harness.models.kernels.native` may compute with this tensor now."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and _forced in (None, "panel")
        and not torch.is_grad_enabled()
    ) and native.library() is not None


def _nearest(shape: str, bucket: int, fallback: str) -> tuple[str, int]:
    """What was chosen for this shape at the number of rows nearest to `bucket` (by ratio), and that number."""
    known = [
        (int(rows), layout)
        for key, layout in _choices.items()
        for name, _, rows in [key.rpartition(" rows ")]
        if name == shape
    ]
    if not known:
        return fallback, bucket
    at, layout = min(known, key=lambda c: (abs(c[0].bit_length() - bucket.bit_length()), c[0]))
    return layout, at


def _fastest(maps: Sequence[Linear], rows: int) -> str:
    """The layout in which one pass over the maps (some of them, if they are large) takes least time."""
    weight = maps[0].weight
    size = weight.numel() * weight.element_size()
    some = maps[: max(2, min(len(maps), _MEASURED_BYTES // size + 1))]
    x = torch.randn(rows, weight.shape[1], dtype=weight.dtype)
    times: dict[str, float] = {}
    for layout in LAYOUTS:
        if not copies.fit(maps[0].copy(layout, rows)):
            continue
        try:
            kernels = [m.build(layout, rows) for m in some]
            times[layout] = min(_pass_seconds(kernels, x) for _ in range(8))
        except (RuntimeError, NotImplementedError):  # no such kernel for this type or machine
            continue
    # Another copy of the weights must be worth it.
    best = min(times, key=lambda layout: times[layout] * (1.0 if layout == "row" else 1.05))
    copies.hold(maps[0].copy(best, rows))
    return best


def _pass_seconds(kernels: Sequence[Kernel], x: torch.Tensor) -> float:
    start = time.perf_counter()
    for kernel in kernels:
        kernel(x, None)
    return time.perf_counter() - start


def group(maps: Sequence[Linear]) -> None:
    """Make maps of one key share their choice, measured over all of them."""
    keys: dict[str, list[Linear]] = {}
    for m in maps:
        keys.setdefault(m.key, []).append(m)
    for same in keys.values():
        for m in same:
            m.peers = same
