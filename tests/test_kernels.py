"""Layouts of linear maps: the same numbers, chosen once, shared and repeatable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from harness.models import kernels


@pytest.fixture(autouse=True)
def _own_table() -> Iterator[None]:
    """Each test starts without choices and leaves none behind."""
    before, installed = kernels.table(), kernels._installed
    kernels._choices.clear()
    kernels._installed = False
    yield
    kernels._choices.clear()
    kernels._choices.update(before)
    kernels._installed = installed


@pytest.mark.parametrize("layout", kernels.LAYOUTS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (3, 1, 24), (2, 5, 24)])
def test_layouts_agree(layout: str, relu: bool, bias: bool, shape: tuple[int, ...]) -> None:
    weight, b, x = torch.randn(40, 24), torch.randn(40) if bias else None, torch.randn(shape)
    m = kernels.Linear(weight, b, relu)
    want = F.linear(x, weight, b)
    want = F.relu(want) if relu else want
    residual = torch.randn(*shape[:-1], 40)
    with torch.inference_mode():
        kernel = m.build(layout, x.numel() // 24)
        torch.testing.assert_close(kernel(x, None), want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kernel(x, residual), want + residual, atol=1e-5, rtol=1e-5)


def test_a_choice_is_measured_once_and_shared() -> None:
    maps = [kernels.Linear(torch.randn(16, 8)) for _ in range(3)]
    kernels.group(maps)
    with torch.inference_mode():
        for m in maps:
            m(torch.randn(5, 8))
    assert list(kernels.table()) == ["16x8 float32 rows 8"]
    assert kernels.table()["16x8 float32 rows 8"] in kernels.LAYOUTS


def test_installed_choices_are_kept_and_the_nearest_serves_what_is_missing() -> None:
    kernels.install({"16x8 float32 rows 8": "column", "16x8 float32 rows 64": "packed"})
    digest = kernels.digest()
    assert kernels._nearest("16x8 float32", 16, "row") == "column"
    assert kernels._nearest("16x8 float32", 256, "row") == "packed"
    assert kernels._nearest("9x9 float32", 1, "row") == "row"
    with torch.inference_mode():
        kernels.Linear(torch.randn(16, 8))(torch.randn(7, 8))
    assert kernels.digest() == digest
    kernels.install({"16x8 float32 rows 8": "row"})
    assert kernels.digest() != digest


def test_gradients_and_only_keep_the_loaded_layout() -> None:
    m = kernels.Linear(torch.randn(16, 8, requires_grad=True))
    m(torch.randn(2, 8)).sum().backward()
    with torch.inference_mode(), kernels.only("row"):
        m(torch.randn(2, 8))
    assert not kernels.table()
