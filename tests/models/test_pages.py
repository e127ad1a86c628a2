"""Pages of weights are given back to their file, and nothing is lost."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.models.kernels import pages


def here(weight: torch.Tensor) -> int:
    """Whole pages of a tensor that are in this process's memory."""
    first, end = -(-weight.data_ptr() // mmap.PAGESIZE), (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        return int((np.frombuffer(os.pread(pagemap.fileno(), 8 * (end - first), 8 * first), np.uint64) >> 63).sum())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and asks Linux")
def test_pages_go_and_what_was_changed_stays(tmp_path: Path) -> None:
    want = torch.arange(300_000, dtype=torch.float32)
    want.numpy().tofile(tmp_path / "weights")
    held = torch.from_file(str(tmp_path / "weights"), shared=False, size=300_000)
    a, b = held[:150_000], held[150_000:]
    elsewhere = torch.full((5000,), 3.0)
    b[70_000] = -5.0  # a page that the file does not have so
    changed = b.clone()
    assert torch.equal(a, want[:150_000])
    before = here(a), here(b), here(elsewhere)
    pages.give_back([a, b, elsewhere, a[7:11], torch.empty(0)])
    assert (here(a), here(b), here(elsewhere)) == (0, 1, before[2]) and min(before) > 1
    assert torch.equal(a, want[:150_000]) and torch.equal(b, changed) and bool((elsewhere == 3).all())
