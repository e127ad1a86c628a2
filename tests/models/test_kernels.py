"""Layouts of linear maps: the same numbers, chosen once, shared and repeatable."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.decode.engine import generate
from harness.models import fused
from harness.models.kernels import copies, native
from harness.models.kernels import layouts as kernels
from tests.conftest import ragged_prompts, tiny


@pytest.fixture(autouse=True)
def _own_table() -> Iterator[None]:
    """Each test starts without choices and leaves none behind."""
    before, installed, held, room = kernels.table(), kernels._installed, copies.held(), copies._room
    kernels._choices.clear()
    kernels._installed = False
    copies.restore({})
    yield
    copies.restore(held)
    copies._room = room
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
    assert kernels._nearest("16x8 float32", 16, "row") == ("column", 8)
    assert kernels._nearest("16x8 float32", 256, "row") == ("packed", 64)
    assert kernels._nearest("9x9 float32", 1, "row") == ("row", 1)
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


def test_copies_that_do_not_fit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room everything runs on the weights as loaded, and gives the same tokens."""
    decoder, (ids, mask) = tiny("opt"), ragged_prompts()
    free = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=4)
    kernels._choices.clear()
    copies.restore({})
    monkeypatch.setattr(copies, "_room", 0)
    bound = tiny("opt")
    found = generate(bound, methods.create("full"), ids, mask, max_new_tokens=4)
    assert set(kernels.table().values()) <= {"row", "torch"} and kernels.table()
    assert copies.held() == {}
    assert torch.equal(found.tokens, free.tokens)


def test_what_is_held_never_exceeds_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is fastest: with room for one copy of the weights, no second is made, at no number of rows."""
    maps = [kernels.Linear(torch.randn(32, 16)) for _ in range(3)]
    kernels.group(maps)
    size = sum(m.weight.numel() * 4 for m in maps)
    monkeypatch.setattr(copies, "_room", size)
    # Each layout is said to be faster than the one before, so that a copy would always be wanted.
    clock = (0.9**n for n in itertools.count())
    monkeypatch.setattr(kernels, "_pass_seconds", lambda *_: float(next(clock)))
    with torch.inference_mode():
        for rows in (1, 2, 8, 100):
            maps[0](torch.randn(rows, 16))
            assert sum(copies.held().values()) <= size
    layouts = set(kernels.table().values())
    assert len(copies.held()) == 1 and layouts <= {"row", next(iter(copies.held())).split()[2]}


def test_panels_take_the_place_of_copies_that_only_calls_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip(f"compiled kernels are {native.status()}")
    clock = (0.9**n for n in itertools.count())
    for module in (kernels, fused):
        monkeypatch.setattr(module, "_pass_seconds", lambda *_: float(next(clock)))
    decoder = tiny("opt")
    block = decoder.blocks[0]
    assert isinstance(block, fused.FusableBlock)
    with torch.inference_mode():
        assert fused.fastest([block], 2) == "native"
    assert copies.held() and all(name.endswith("panel") for name in copies.held())


def test_no_copy_is_made_for_rows_that_were_not_measured() -> None:
    """A run installs what was measured; any other number of rows is served by the copy of the nearest, not by one of its own."""
    m = kernels.Linear(torch.randn(16, 8))
    kernels.install({"16x8 float32 rows 8": "packed", "16x8 float32 rows 64": "packed"})
    table = kernels.table()
    with torch.inference_mode():
        for rows in (5, 7, 1, 2, 16, 33, 60, 100, 256):
            torch.testing.assert_close(m(x := torch.randn(rows, 8)), x @ m.weight.T, atol=1e-5, rtol=1e-5)
    assert sorted(m._packs) == [8, 64]
    assert kernels.table() == table, "what was not measured is no choice"


def test_rows_of_all_numbers_share_a_column_copy() -> None:
    m = kernels.Linear(torch.randn(16, 8))
    few, many = m.build("column", 1), m.build("column", 64)
    assert m._columns is not None and m._columns() is not None
    shared = m._columns()
    third = m.build("column", 200)
    assert m._columns() is shared
    del few, many, third, shared
    assert m._columns() is None, "no kernel reads it any more"
