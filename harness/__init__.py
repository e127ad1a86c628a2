"""Measure depth-adaptive decoding honestly: one engine, equal conditions, quality under the method."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engine import generate
    from harness.models import load_model
    from harness.scoring import score

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_model", "score"]

_WHERE = {"generate": "harness.engine", "load_model": "harness.models", "score": "harness.scoring"}


def __getattr__(name: str) -> Any:
    """Load the API on first use, so that the torch-free parts (store, statistics, reports) stay free of torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
