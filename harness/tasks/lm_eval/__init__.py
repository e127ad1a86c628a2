"""lm-eval's tasks, answered by a model under a method. `MethodLM` is the bridge, loaded on first use with torch and lm-eval."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.tasks.lm_eval.bridge import MethodLM

__all__ = ["MethodLM"]


def __getattr__(name: str) -> Any:
    """The bridge, on first use."""
    if name != "MethodLM":
        raise AttributeError(f"module 'harness.tasks.lm_eval' has no attribute {name!r}")
    return importlib.import_module("harness.tasks.lm_eval.bridge").MethodLM
