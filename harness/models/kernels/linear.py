"""Linear maps over loaded weights, and what runs them: the project's own kernels (`kernels.native`) or torch's calls.

The kernels read weights in panels, one copy for any number of rows; they take float32 and bfloat16 weights on a CPU, and
compute in float32 (precision.py). Elsewhere (a GPU, other types, gradients, torch's FLOP counter, no compiler) it is `F.linear` on
the weights as loaded, those of several maps over the same input joined to one (`Joined`), which is kept only while torch's calls
need it; bfloat16 ones are widened for every call on a CPU, which takes longer than reading them. The kernels are the default: on
every processor they were tried on they are at least as fast as anything torch has. Whether that is so here is measured before
anything is timed (contest.py), per number of rows; torch's calls are used where they win, which is an error in the kernels and said
as such. What runs is a condition of the run (choices.py).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence

import psutil
import torch
from torch import nn
from torch.nn import functional as F
from typing_extensions import override

from harness.machine.environment import memory_limit
from harness.models.kernels import low_rank, native, pages, threads
from harness.models.kernels.choices import NATIVE, TORCH, choose, chosen
from harness.models.kernels.low_rank import Adapted
from harness.models.precision import autocasts, widened

ROOM = 0.8
"""Share of the free memory that the panels of a model may take; the rest is for caches and results."""

_SMALL = 8192
"""Numbers whose largest torch finds while a call of the kernels is made ready."""

_AT_ONCE = 1 << 21
"""Elements of a weight that are packed at a time."""

_forced: str | None = None
_for_now: list[Joined] = []
"""What was joined for torch's calls while they were prescribed."""


def forced() -> str | None:
    """What `only` prescribes here."""
    return _forced


@contextlib.contextmanager
def only(what: str) -> Iterator[None]:
    """Inside, everything runs in torch's calls (`TORCH`) or in the project's own kernels wherever they can (`NATIVE`).

    What torch's calls joined inside is given up at the end of the outermost.
    """
    global _forced
    before, _forced = _forced, what
    try:
        yield
    finally:
        _forced = before
        if before is None:
            while _for_now:
                _for_now.pop().give_up()


class Joined:
    """A weight [N, K] that is made of parameters: several joined to one, or one in another order.

    It would be a second copy of them, so on a CPU it is made when torch's calls want it; the kernels' panels are made of
    the parameters. Where gradients flow or another device computes, torch's calls are all there is, and it is made at once. So it
    is where the parts are no parameters but made themselves: they would be a copy as well.

    Args:
        parts: the parameters, or what adapters make of them.
        join: makes the weight of them.

    Attributes:
        adapted: the parts, where adapters are among them and gradients are to reach these.
    """

    def __init__(
        self,
        parts: Sequence[torch.Tensor | Adapted],
        join: Callable[[Sequence[torch.Tensor]], torch.Tensor] = torch.cat,  # type: ignore[assignment]
    ) -> None:
        self.shape = sum(p.shape[0] for p in parts), parts[0].shape[1]
        self._join = join
        self._kept: torch.Tensor | None = None
        self.adapted: tuple[torch.Tensor | Adapted, ...] = ()
        if join is torch.cat and any(isinstance(p, Adapted) for p in parts):
            self._kept = low_rank.merged(parts)
            self.parts: tuple[torch.Tensor, ...] = (self._kept,)
            if torch.is_grad_enabled():
                self.adapted = tuple(parts)
            return
        self.parts = tuple(p.whole() if isinstance(p, Adapted) else p for p in parts)
        parameters = all(isinstance(p, nn.Parameter) for p in self.parts)
        now = torch.is_grad_enabled() and not autocasts(parts[0].device)
        if now or not parameters or parts[0].device.type != "cpu":
            self._kept = self.once()
            if not parameters:
                self.parts = (self._kept,)
                self._join = torch.cat  # type: ignore[assignment]

    def once(self) -> torch.Tensor:
        """The weight, for a caller who needs it once."""
        return self._join(self.parts) if self._kept is None else self._kept

    def mixed(self) -> torch.Tensor:
        """The weight in the type of mixed precision, for a pass of it."""
        return self._join([low_rank.mixed(p) for p in self.parts])

    def kept(self) -> torch.Tensor:
        """The weight, for a caller who will be back."""
        if self._kept is None:
            self._kept = self.once()
            pages.give_back(self.parts)
            if _forced == TORCH:
                _for_now.append(self)
        return self._kept

    def give_up(self) -> None:
        """Keep the parameters alone."""
        self._kept = None


class Linear:
    """y = activation(x W^T + b) + residual over [..., K] to [..., N].

    Args:
        weight: [N, K].
        bias: [N] or None.
        relu: whether ReLU follows.

    Attributes:
        parts: the tensors that hold the weight.
        n, k: N and K.
    """

    def __init__(
        self, weight: torch.Tensor | Adapted | Joined, bias: torch.Tensor | None = None, relu: bool = False
    ) -> None:
        weight = Joined([weight]) if isinstance(weight, Adapted) else weight
        self._weight, self.relu = weight, relu
        self.bias = None if bias is None else widened(bias)
        self.parts = weight.parts if isinstance(weight, Joined) else (weight,)
        self.n, self.k = weight.shape
        self.group: Group | None = None
        self._panels: tuple[torch.Tensor, native.Map] | None = None
        self._library: native.Library | None = None
        # Now and not when it is first called: a block that is computed again on the way back must find it there again.
        self._mixed = self._in_mixed() if autocasts(self.parts[0].device) else None

    def _in_mixed(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias in the type of mixed precision, which else would be made anew for every call."""
        weight = self._weight.mixed() if isinstance(self._weight, Joined) else low_rank.mixed(self._weight)
        return weight, None if self.bias is None else low_rank.mixed(self.bias)

    @property
    def weight(self) -> torch.Tensor:
        """[N, K], as torch's calls want it."""
        return self._weight.kept() if isinstance(self._weight, Joined) else self._weight

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Apply to x [..., K]; `residual` [..., N] is added to the result."""
        if not native_allowed(x):
            return self._called(x, residual)
        if self.group is None:
            self.group = Group("map", (self,))
        if not self.group.native(x.numel() // self.k):
            return self._called(x, residual)
        return self._compiled(x, residual)

    def _called(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        adapted = self._adapted()
        if adapted is not None:
            y = low_rank.apply(x, *adapted)
            y = y if self.bias is None else y + self.bias.to(y.dtype)
        else:
            y = F.linear(x, *self._torch_weights(x))
        if self.relu:
            y = F.relu(y)
        return y if residual is None else residual + y

    def _torch_weights(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias as a call of torch on x takes them."""
        if autocasts(x.device):  # which has a type of its own
            return (self.weight, self.bias) if self._mixed is None else self._mixed
        weight, bias = self.weight, self.bias
        if weight.dtype != x.dtype:
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return weight, bias

    def _adapted(self) -> tuple[torch.Tensor, tuple[torch.Tensor | Adapted, ...], int] | None:
        """The merged weight, its parts and 0, the first of its rows that is used; None without adapters to train."""
        joined = self._weight
        if not isinstance(joined, Joined) or not joined.adapted or not torch.is_grad_enabled():
            return None
        return joined.kept(), joined.adapted, 0

    def _compiled(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        held = self.panels()
        assert self._library is not None, "panels are made for a library"
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.n)
        more = None if residual is None else residual.expand_as(y).contiguous()
        kind = native.ACTIVATIONS["relu" if self.relu else None]
        status = self._library.calls.linear(
            ctypes.byref(held),
            y.numel() // self.n,
            x.data_ptr(),
            native.pointer(more),
            y.data_ptr(),
            kind,
            *threads.team(),
        )
        if status:
            raise MemoryError("no memory to work in for a linear map")
        return y

    def panels(self) -> native.Map:
        """What the C kernels read of this map: its weights in panels, one copy for all who ask."""
        if self._panels is None:
            self._library = native.library()
            assert self._library is not None, "asked only where there are kernels"
            weight = self._packed(self._library)
            self._panels = weight, self._library.map(weight, self.n, self.k, self.bias)
        return self._panels[1]

    def _packed(self, library: native.Library) -> torch.Tensor:
        """The weight in panels; a large one in pieces, so that it is not there twice meanwhile."""
        weight = (self._weight.once() if isinstance(self._weight, Joined) else self._weight).detach()
        columns = library.panel_columns
        if self.n * self.k <= _AT_ONCE:
            packed = library.panels(weight)
        else:
            packed = weight.new_empty(-(-self.n // columns), self.k, columns)
            rows = max(_AT_ONCE // self.k // columns, 1) * columns
            for first in range(0, self.n, rows):
                piece = weight[first : first + rows]
                packed[first // columns : -(-(first + len(piece)) // columns)] = library.panels(piece)
                pages.give_back((piece,))
        pages.give_back(self.parts)
        return packed


class Tail(Linear):
    """The last columns of the result of another map: it has no weight of its own.

    Args:
        of: the other map.
        first: the first of its columns, 0-based, that is given.
    """

    def __init__(self, of: Linear, first: int) -> None:
        self._of, self._first = of, first
        super().__init__(of.parts[0], None if of.bias is None else of.bias[first:], of.relu)
        self.parts, self.n = of.parts, of.n - first

    @property
    @override
    def weight(self) -> torch.Tensor:
        return self._of.weight[self._first :]

    @override
    def _in_mixed(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = self._of._in_mixed() if self._of._mixed is None else self._of._mixed
        return weight[self._first :], None if bias is None else bias[self._first :]

    @override
    def _adapted(self) -> tuple[torch.Tensor, tuple[torch.Tensor | Adapted, ...], int] | None:
        adapted = self._of._adapted()
        return None if adapted is None else (adapted[0], adapted[1], self._first)

    @override
    def _packed(self, library: native.Library) -> torch.Tensor:
        """Those of the other map, from where a panel begins there."""
        self._of.panels()
        assert self._of._panels is not None
        whole, rest = divmod(self._first, library.panel_columns)
        return library.panels(self.weight.detach()) if rest else self._of._panels[0][whole:]


class Group:
    """The maps of a model, which share one choice.

    Args:
        kind: what the choice is kept under: models of one kind share it.
        maps: the maps.
    """

    def __init__(self, kind: str, maps: Sequence[Linear]) -> None:
        self.kind = kind
        self._bytes = sum(m.n * m.k * m.parts[0].element_size() for m in maps if not isinstance(m, Tail))
        self._readable = all(part.dtype in native.WEIGHTS for m in maps for part in m.parts)
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
                choose(self.kind, 1, TORCH)
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
    return x.is_cpu and _forced != TORCH and not torch.is_grad_enabled()


def native_allowed(x: torch.Tensor) -> bool:
    """Whether there are compiled kernels, and they may compute with these states now."""
    return fits_kernels(x) and native.library() is not None
