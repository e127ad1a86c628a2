r"""The public face of the project: load a model, create a method, generate and score.

    from depthbench import create, generate, load_model

    model = load_model("opt-e2e-mini/skipdecode-700")
    ids = model.tokenizer(["name[Zizzi]\n"], return_tensors="pt").input_ids
    out = generate(model, create("skipdecode(speedup=3)"), ids)

`import depthbench` loads nothing else: torch comes with the first name that needs it.
"""

from __future__ import annotations

import importlib
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness import __version__, generate, load_model, score
    from methods import create

__all__ = ["__version__", "create", "generate", "load_model", "score"]

_PACKAGES = ("harness", "methods", "reports")
_ROOT = Path(__file__).resolve().parent.parent


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'depthbench' has no attribute {name!r}")
    check_packages()
    return getattr(importlib.import_module("methods" if name == "create" else "harness"), name)


def __dir__() -> list[str]:
    return [*__all__, "check_packages"]


def check_packages() -> None:
    """Find out whether the packages depthbench is made of are its own; their names are common ones.

    Raises:
        ImportError: another package of the name stands first on the path. One line that names it and what to do.
    """
    for name in _PACKAGES:
        place = _place(name)
        if place is None:
            raise ImportError(
                f"depthbench needs its package {name!r}, which is not installed; install depthbench again"
            )
        if place.resolve() != _ROOT / name:
            raise ImportError(
                f"{place} is found first as the package {name!r}, where depthbench needs its own; "
                f"rename it, or put {_ROOT} before it on the path (PYTHONPATH)"
            )


def _place(name: str) -> Path | None:
    """The folder or file that `import <name>` takes; None where there is none."""
    if (loaded := sys.modules.get(name)) is not None:
        spec = loaded.__spec__
        folders = list(getattr(loaded, "__path__", ()))
    else:
        spec = util.find_spec(name)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if folders:
        return Path(folders[0])
    return None if spec is None or spec.origin is None else Path(spec.origin)
