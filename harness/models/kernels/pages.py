"""Memory that a file can give back: weights as they were mapped, once the kernels have them in panels.

transformers maps a checkpoint's file into memory. What was read of it counts as this process's memory, beside the copies that are
computed with. Pages that are still as the file has them are let go of: they stay in the system's cache of files, where this process
finds them again when it reads them, and the next one that loads the model. Pages that were changed, and memory that is no
file's, stay as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch

_DONTNEED = 4
"""MADV_DONTNEED of Linux: of a private mapping it takes what the file has, and would lose what was changed."""
_HERE, _SWAPPED, _OF_FILE = (1 << np.uint64(bit) for bit in (63, 62, 61))
"""What /proc/self/pagemap says of a page: in memory; swapped out; a file's, or memory that processes share."""


def give_back(weights: Iterable[torch.Tensor]) -> None:
    """Let go of the pages of those weights that are as a mapped file has them. Nobody may write to them meanwhile."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for weight in weights:
            if weight.device.type != "cpu":
                continue
            for first, size in _unchanged(pagemap.fileno(), weight.data_ptr(), weight.numel() * weight.element_size()):
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _DONTNEED)


def _unchanged(pagemap: int, at: int, size: int) -> Iterator[tuple[int, int]]:
    """Runs of whole pages between `at` and `at + size` that are as a file has them: where they begin, and their bytes."""
    first, end = -(-at // mmap.PAGESIZE), (at + size) // mmap.PAGESIZE
    if end <= first:
        return
    pages = np.frombuffer(os.pread(pagemap, 8 * (end - first), 8 * first), dtype=np.uint64)
    file = (pages & _HERE != 0) & (pages & _SWAPPED == 0) & (pages & _OF_FILE != 0)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], file, [False])).astype(np.int8)))
    for begin, stop in edges.reshape(-1, 2).tolist():
        yield (first + begin) * mmap.PAGESIZE, (stop - begin) * mmap.PAGESIZE
