"""Are freshly compiled kernels right, and faster than torch's own calls? Asked once for every build, in a fraction of a second.

A compiler can turn vectors that a processor lacks into code that is right and ten times slower; a baseline on such kernels would
make every speed-up worthless. Kernels that lose here are not used, and the reason is said wherever kernels are named.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from harness.models.kernels.native import Library, Map

ROWS = (1, 8, 32)
_SIZE = 384
_MAPS = 24
"""Some 14 MB of weights: more than the cache nearest to a core."""
_ROUNDS = 9


def against_torch(found: Library) -> tuple[str | None, dict[str, list[float]]]:
    """Why the kernels are not to be used, or None; and the best seconds of a pass by rows, theirs and torch's."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(_SIZE, _SIZE, generator=generator) / _SIZE**0.5 for _ in range(_MAPS)]
    panels = [found.panels(weight) for weight in weights]
    maps = [found.map(panel, _SIZE, _SIZE) for panel in panels]
    half = weights[0].bfloat16()
    halves = found.panels(half)
    half_map = found.map(halves, _SIZE, _SIZE)
    threads = torch.get_num_threads()
    seconds: dict[str, list[float]] = {}

    def run(each: Map, x: torch.Tensor, y: torch.Tensor, rows: int) -> None:
        found.calls.linear(ctypes.byref(each), rows, x.data_ptr(), None, y.data_ptr(), 0, threads, 0)

    with torch.inference_mode():
        for rows in ROWS:
            x, y = torch.randn(rows, _SIZE, generator=generator), torch.empty(rows, _SIZE)

            def ours(x: torch.Tensor = x, y: torch.Tensor = y, rows: int = rows) -> None:
                for each in maps:
                    run(each, x, y, rows)

            def theirs(x: torch.Tensor = x) -> None:
                for weight in weights:
                    F.linear(x, weight)

            for each, weight in ((half_map, half.float()), (maps[-1], weights[-1])):
                run(each, x, y, rows)
                if not torch.allclose(y, F.linear(x, weight), atol=1e-4):
                    return f"its results differ from torch's at {rows} rows", seconds
            best = seconds[str(rows)] = best_in_turns((ours, theirs), _ROUNDS)
            if best[0] > best[1]:
                return f"slower than torch's own calls at {rows} rows ({best[0]:.2g} s for {best[1]:.2g} s)", seconds
    return None, seconds


def best_in_turns(passes: tuple[Callable[[], None], ...], rounds: int) -> list[float]:
    """The least seconds of each of some functions, called in turns: a disturbance meets them all, and the least escapes it.

    Each is called once before its time is taken: its threads may have to come back first.
    """
    best = [float("inf")] * len(passes)
    for _ in range(rounds):
        for i, each in enumerate(passes):
            each()
            start = time.perf_counter()
            each()
            best[i] = min(best[i], time.perf_counter() - start)
    return best
