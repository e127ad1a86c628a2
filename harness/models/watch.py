"""Notices that a model object was changed after its weights were read."""

from __future__ import annotations

from typing import Any


class Watch:
    """A model object as it is now.

    Weights count as changed where torch counts the change (`copy_`, an optimiser's step, `load_state_dict`) or another Parameter
    stands in their place; writing through `.data` goes unnoticed. A look takes some 0.1 ms at 300 tensors.

    Args:
        source: a transformers model.
    """

    def __init__(self, source: Any) -> None:
        modules = list(source.modules())
        self._modules = [(module._modules, tuple(map(id, module._modules.values()))) for module in modules]
        self._places = [(module._parameters, key) for module in modules for key in module._parameters]
        self._weights = self._now()

    def modules_changed(self) -> bool:
        """Whether a module was added, replaced or taken out."""
        return any(tuple(map(id, held.values())) != known for held, known in self._modules)

    def weights_changed(self) -> bool:
        """Whether a weight is not what it was."""
        return self._now() != self._weights

    def _now(self) -> list[tuple[int, int]]:
        found = (held.get(key) for held, key in self._places)
        return [(0, 0) if p is None else (id(p), -1 if p.is_inference() else p._version) for p in found]
