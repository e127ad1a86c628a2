"""Kernels of every width in turn, and what they did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from harness.models import fused
from harness.models.kernels import native


@pytest.fixture(params=native.isas() or [None])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every width of this processor in turn."""
    if request.param is None:
        pytest.skip("no kernels for this processor")
    with native.using(request.param):
        if native.library() is None:
            pytest.skip(native.status())
        yield request.param


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernels did, block by block, while a test runs."""
    seen: list[str] = []
    original = fused.Stack.run

    def counted(self: fused.Stack, codes: Any, *more: Any) -> torch.Tensor | None:
        out = original(self, codes, *more)
        if out is not None:
            names = {native.ATTEND: "attend", native.FEED: "feed", native.FILL: "fill"}
            seen.extend(name for _, does, _ in codes for code, name in names.items() if does & code)
        return out

    monkeypatch.setattr(fused.Stack, "run", counted)
    return seen
