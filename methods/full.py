"""Full model: every block at every position. The baseline every ratio divides by.

Cost: that of the model. There is nothing to train and nothing to skip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.method import Schedule
from harness.plan import LayerPlan, Step


@dataclass(frozen=True)
class Full(Schedule):
    """All blocks at every position."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "Full model"
    paper: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    skipped_kv: ClassVar[str] = "nothing is skipped"

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        """Everything."""
        return LayerPlan.full(depth)
