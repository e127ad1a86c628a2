"""Measure depth-adaptive decoding honestly: one engine, equal conditions, quality under the method."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.decode.engine import generate
    from harness.decode.forced import score
    from harness.models.load import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_model", "score"]

_WHERE = {"generate": "harness.decode.engine", "load_model": "harness.models.load", "score": "harness.decode.forced"}


def __getattr__(name: str) -> Any:
    """Load the API on first use, so that the torch-free parts (store, statistics, reports) stay free of torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
