"""Memory that a file can give back: weights as they were mapped, once the kernels have them in panels.

transformers maps a checkpoint's file into memory. What was read of it counts as this process's memory, beside the copies that are
computed with. Its pages can be taken away and read again from the file when somebody wants them; the system is told that now is a
good time. Pages that were changed, and memory that is no file's, stay as they are.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterable

import torch

from harness.machine.system import text

_PAGEOUT = 21
"""MADV_PAGEOUT of Linux 5.4 and later; an older one refuses it."""


def give_back(weights: Iterable[torch.Tensor]) -> None:
    """Let the system take the pages of those weights that lie in a mapped file."""
    if not sys.platform.startswith("linux"):
        return
    files = _files()
    if not files:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    starts = [first for first, _ in files]
    for weight in weights:
        if weight.device.type != "cpu":
            continue
        at = weight.data_ptr()
        place = bisect_right(starts, at) - 1
        end = at + weight.numel() * weight.element_size()
        if place >= 0 and end <= files[place][1]:
            first = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
            size = end // mmap.PAGESIZE * mmap.PAGESIZE - first
            if size > 0:
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _PAGEOUT)


def _files() -> list[tuple[int, int]]:
    """Where files with weights are mapped, in order: first byte, and the one after the last."""
    found = []
    for line in (text("proc/self/maps") or "").splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].endswith(".safetensors"):
            first, _, end = parts[0].partition("-")
            found.append((int(first, 16), int(end, 16)))
    return found
