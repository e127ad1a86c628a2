"""How fast the cores read: from memory, and from the cache they share. What no decode step can outrun.

A decode step at small batches reads the weights once; its bytes per second beside these rates say how far it is from what
the machine can do. A copy is no such measure: it counts writes too, and a small one never leaves the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from harness.machine.environment import cache_bytes
from harness.models.kernels import native

_TIMES_CACHE = 8
_LEAST, _MOST = 256 << 20, 2 << 30
_ROUNDS = 7
_SHARE_OF_CACHE = 0.25
_UNKNOWN_CACHE = 32 << 20


@dataclass(frozen=True)
class Reading:
    """Rates in 10^9 bytes per second, the best of several rounds, all threads together.

    Attributes:
        memory_gb_per_s: from a working set several times the last-level cache.
        memory_bytes: its size.
        cache_gb_per_s: from a quarter of the last-level cache, read before.
        cache_bytes: its size.
        last_level_cache_bytes: as the system tells; None where it does not.
        threads: that read.
    """

    memory_gb_per_s: float
    memory_bytes: int
    cache_gb_per_s: float
    cache_bytes: int
    last_level_cache_bytes: int | None
    threads: int


def measure(threads: int | None = None) -> Reading:
    """Read for some tenths of a second with `threads` threads; None: as many as torch uses."""
    threads = threads or torch.get_num_threads()
    last = max(cache_bytes().values(), default=None)
    known = last or _UNKNOWN_CACHE
    large = min(max(_TIMES_CACHE * known, _LEAST), _MOST, psutil.virtual_memory().available // 4)
    small = int(_SHARE_OF_CACHE * known)
    buffer = torch.ones(large // 4)
    rates = [
        _rate(buffer[: size // 4], threads, times) for size, times in ((large, 1), (small, max(1, large // small)))
    ]
    return Reading(rates[0], large, rates[1], small, last, threads)


def _rate(buffer: torch.Tensor, threads: int, times: int) -> float:
    read, size = _reader(buffer, threads, times), buffer.numel() * 4
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        read()
        best = min(best, time.perf_counter() - start)
    return size * times / best / 1e9


def _reader(buffer: torch.Tensor, threads: int, times: int) -> Callable[[], object]:
    """The compiled loop that does nothing but read; where there is none, torch's sum, which comes close to it."""
    library, size = native.library(), buffer.numel() * 4
    if library is not None:
        return lambda: library.calls.read_all(buffer.data_ptr(), size, times, threads, 0)
    return lambda: [buffer.sum() for _ in range(times)]
