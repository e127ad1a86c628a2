"""Pages of weights are given back to their file, and nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.models.kernels import pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and asks Linux")
def test_weights_are_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    want = torch.arange(300_000, dtype=torch.float32)
    save_file({"a": want, "b": want + 1}, path)
    held = load_file(path)
    held["b"][70_000] = -5.0  # a page that the file does not have so
    elsewhere = torch.full((5000,), 3.0)
    changed = held["b"].clone()
    pages.give_back([held["a"], held["b"], elsewhere, held["a"][7:11], torch.empty(0)])
    assert torch.equal(held["a"], want) and torch.equal(held["b"], changed) and bool((elsewhere == 3).all())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_mapped_files_are_found(tmp_path: Path) -> None:
    before = set(pages._files())
    save_file({"a": torch.ones(100_000)}, tmp_path / "model.safetensors")
    held = load_file(tmp_path / "model.safetensors")["a"]
    new = set(pages._files()) - before
    inside = [first <= held.data_ptr() and held.data_ptr() + 400_000 <= end for first, end in new]
    assert not new or any(inside), "a file that safetensors maps is found where its tensors lie"
