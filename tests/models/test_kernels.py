"""What runs the linear maps: the same numbers either way, one choice for a whole model, and the choice is what runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.models import contest, fused
from harness.models.decoder import Decoder
from harness.models.kernels import choices, native
from harness.models.kernels import linear as kernels
from tests.conftest import ragged_prompts, tiny

needs_compiler = pytest.mark.skipif(native.library() is None, reason=f"compiled kernels are {native.status()}")


@pytest.fixture(autouse=True)
def _own_table() -> Iterator[None]:
    """Each test starts without choices and leaves none behind."""
    before = choices.table()
    choices.install({})
    yield
    choices.install(before)


@pytest.mark.parametrize("how", [choices.NATIVE, choices.TORCH])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (3, 1, 24), (2, 5, 24)])
def test_both_ways_agree(how: str, relu: bool, bias: bool, shape: tuple[int, ...]) -> None:
    weight, b, x = torch.randn(40, 24), torch.randn(40) if bias else None, torch.randn(shape)
    m = kernels.Linear(weight, b, relu)
    want = F.linear(x, weight, b)
    want = F.relu(want) if relu else want
    residual = torch.randn(*shape[:-1], 40)
    with torch.inference_mode(), kernels.only(how):
        torch.testing.assert_close(m(x), want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(m(x, residual), want + residual, atol=1e-5, rtol=1e-5)


def test_gradients_and_other_types_are_for_torch() -> None:
    weight = torch.randn(16, 8, requires_grad=True)
    m = kernels.Linear(weight)
    m(torch.randn(2, 8)).sum().backward()
    assert weight.grad is not None and m._panels is None
    half = kernels.Linear(torch.randn(16, 8, dtype=torch.bfloat16))
    with torch.inference_mode():
        half(torch.randn(2, 8, dtype=torch.bfloat16))
    assert half._panels is None


def test_installed_choices_serve_their_neighbours() -> None:
    choices.install({"a, rows 8": "torch", "a, rows 64": "native"})
    digest = choices.digest()
    assert [choices.chosen("a", rows) for rows in (1, 5, 8, 16, 32, 256)] == [*["torch"] * 4, "native", "native"]
    assert choices.chosen("b", 8) == "native", "the default"
    assert choices.digest() == digest
    choices.choose("a", 3, "native")
    assert choices.chosen("a", 3) == "native" and choices.digest() != digest


def ran(decoder: Decoder, rows: int, monkeypatch: pytest.MonkeyPatch) -> tuple[set[int], set[int]]:
    """Blocks that ran in the compiled kernels and in torch's calls in a decode step of the full model, read off the blocks."""
    compiled: set[int] = set()
    called: set[int] = set()
    with monkeypatch.context() as patch:
        run = fused.Stack.run

        def counted(self: Any, codes: Any, *more: Any) -> torch.Tensor | None:
            out = run(self, codes, *more)
            if out is not None:
                compiled.update(layer for layer, _, _ in codes)
            return out

        patch.setattr(fused.Stack, "run", counted)
        for block in decoder.blocks:
            kept = block.attend_in_calls  # type: ignore[attr-defined]
            watched = lambda x, memory, context, block=block, kept=kept: (  # noqa: E731
                called.add(block.index) if x.shape[1] == 1 else None,
                kept(x, memory, context),
            )[1]
            patch.setattr(block, "attend_in_calls", watched)
        ids = torch.randint(2, decoder.geometry.vocabulary, (rows, 20))
        generate(decoder, methods.create("full"), ids, max_new_tokens=2, stop_at_eos=False)
    return compiled, called


@needs_compiler
@pytest.mark.parametrize("winner", [choices.NATIVE, choices.TORCH])
def test_the_choice_is_what_runs_in_every_block(winner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a contest, and in a process told its outcome: all blocks of a model run the winner, at every number of rows."""
    decoder = tiny("opt", depth=6)
    every = set(range(6))
    expected = (every, set()) if winner == choices.NATIVE else (set(), every)
    for rows in (1, 3, 8):
        times = iter([1.0, 2.0] * 2 if winner == choices.NATIVE else [2.0, 1.0] * 2)
        monkeypatch.setattr(
            contest, "best_in_turns", lambda passes, _, t=times: [(each(), next(t))[1] for each in passes]
        )
        found = contest.hold(decoder, rows)
        assert found.chosen == winner and found.lost == (winner == choices.TORCH)
        assert ran(decoder, rows, monkeypatch) == expected
    table = choices.table()
    assert set(table.values()) == {winner}
    choices.install({})
    assert ran(tiny("opt", depth=6), 3, monkeypatch) == (every, set()), "without a contest the kernels run"
    choices.install(table)
    for rows in (1, 2, 3, 8, 20):
        assert ran(tiny("opt", depth=6), rows, monkeypatch) == expected


@needs_compiler
@pytest.mark.parametrize(
    ("halves", "chosen"),
    [
        ([[1.0, 2.0], [1.0, 2.0]], "native"),
        ([[2.0, 1.0], [2.0, 1.0]], "torch"),
        ([[9.0, 1.0], [1.0, 2.0]], "native"),  # one half disturbed
        ([[2.0, 1.9], [2.1, 2.05]], "native"),  # within the spread
    ],
)
def test_a_disturbed_contest_decides_nothing(
    halves: list[list[float]], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(halves)
    monkeypatch.setattr(contest, "best_in_turns", lambda *_: next(turns))
    assert contest.hold(tiny("opt"), 2).chosen == chosen


@needs_compiler
def test_slow_kernels_lose_the_contest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real times: a step that takes far longer than torch's is beaten, and the loser is named."""
    run = fused.Stack.run

    def slow(self: Any, *arguments: Any) -> torch.Tensor | None:
        time.sleep(0.1 * (kernels.forced() == choices.NATIVE))
        return run(self, *arguments)

    monkeypatch.setattr(fused.Stack, "run", slow)
    found = contest.hold(tiny("opt", depth=4), 2)
    assert found.lost and "the kernels are slower here" in str(found)


@needs_compiler
def test_panels_that_do_not_fit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room everything runs on the weights as loaded, gives the same tokens, and the choice says so."""
    ids, mask = ragged_prompts()
    free = generate(tiny("opt"), methods.create("full"), ids, mask, max_new_tokens=4)
    monkeypatch.setattr(kernels, "ROOM", 0.0)
    bound = tiny("opt")
    found = generate(bound, methods.create("full"), ids, mask, max_new_tokens=4)
    assert list(choices.table().values()) == ["torch"]
    assert all(m._panels is None for block in bound.blocks for m in block.maps())
    assert torch.equal(found.tokens, free.tokens)
    held = contest.hold(bound, 3)
    assert held.chosen == choices.chosen(bound.kind, 3) == choices.TORCH, "what is chosen is what runs"


@needs_compiler
@pytest.mark.parametrize("family", ["opt", "llama", "gpt_neox"])
def test_matrices_are_joined_while_torch_needs_them_so_and_no_longer(family: str) -> None:
    """A model that the kernels run holds its weights in panels and as loaded, whatever torch's calls were asked for meanwhile."""
    decoder, method = tiny(family), methods.create("full")
    ids, mask = ragged_prompts()
    maps = [m for block in decoder.blocks for m in block.maps()]
    joined = [m._weight for m in maps if isinstance(m._weight, kernels.Joined)]
    alone = {p.data_ptr() for p in decoder.source.parameters()}

    def copies() -> int:
        return sum(j._kept is not None for j in joined)

    assert joined and all(p.data_ptr() in alone for m in maps for p in m.parts), "made of the parameters"
    got = generate(decoder, method, ids, mask, max_new_tokens=4).tokens
    score(decoder, method, ids[:1], [3])
    assert copies() == 0
    with kernels.only(choices.TORCH):
        assert torch.equal(generate(decoder, method, ids, mask, max_new_tokens=4).tokens, got)
        assert copies() == len(joined)
    assert copies() == 0
    assert contest.hold(decoder, 2).native_s and copies() == 0


@needs_compiler
@pytest.mark.parametrize("shape", [(300, 24), (300, 2000)])
def test_large_weights_are_packed_in_pieces(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    library = native.library()
    assert library is not None
    monkeypatch.setattr(kernels, "_AT_ONCE", 1000)
    m = kernels.Linear(torch.randn(shape))
    m.panels()
    assert m._panels is not None and torch.equal(m._panels[0], library.panels(m.weight))


@needs_compiler
def test_keys_and_values_alone_read_the_panels_of_the_whole_map() -> None:
    library = native.library()
    assert library is not None
    columns, x = library.panel_columns, torch.randn(3, 24)
    of = kernels.Linear(
        kernels.Joined([torch.nn.Parameter(torch.randn(columns, 24)) for _ in range(3)]), torch.randn(3 * columns)
    )
    with torch.inference_mode(), kernels.only(choices.NATIVE):
        whole = of(x)
        for first in (columns, columns + 1):
            tail = kernels.Tail(of, first)
            assert torch.equal(tail(x), whole[:, first:])
            assert tail._panels is not None and of._panels is not None
            shares = tail._panels[0].untyped_storage().data_ptr() == of._panels[0].untyped_storage().data_ptr()
            assert shares == (first == columns), "where a panel begins there"


@needs_compiler
def test_new_weights_are_read_again() -> None:
    decoder = tiny("opt")
    ids, mask = ragged_prompts()
    before = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=4)
    with torch.no_grad():
        for parameter in decoder.source.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    decoder.refresh()
    with kernels.only(choices.TORCH):
        want = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=4)
    got = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=4)
    assert torch.equal(got.tokens, want.tokens) and not torch.equal(got.tokens, before.tokens)
