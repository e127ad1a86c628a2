"""The folder in which a training keeps what it has saved so far, `<out>.work`: whose it is, and where to go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import write_atomically

_MARK, _TOKENIZER = "recipe.json", "tokenizer"
_FREE = ("keep",)
"""Keys of a recipe that change nothing of the steps: a training may go on under another value."""


def claim(work: Path, recipe: Mapping[str, Any]) -> bool:
    """Mark a folder as a recipe's; True where no training had saved a step there.

    Raises:
        BadInput: the folder holds saved steps of another recipe.
    """
    path = work / _MARK
    if any(work.glob("*/checkpoint-*")):
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError):
            raise BadInput(f"work: {work} holds saved steps but no readable {_MARK}; remove it") from None
        changed = [key for key, value in recipe.items() if before.get(key) != value and key not in _FREE]
        if changed:
            raise BadInput(
                f"work: {work} holds a training with another {changed[0]}; remove it, or give the recipe that began it"
            )
        return False
    # A tokenizer made for another recipe's data would be taken for this one's.
    shutil.rmtree(work / _TOKENIZER, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [json.dumps(recipe, indent=1) + "\n"])
    return True


def release(work: Path) -> None:
    """Undo `claim` for a training that never began; what else lies in the folder stays."""
    shutil.rmtree(work / _TOKENIZER, ignore_errors=True)
    (work / _MARK).unlink(missing_ok=True)
    if not any(work.iterdir()):
        work.rmdir()


def state_of(saved: Path) -> dict[str, Any]:
    """What the Trainer saved of its own state, the last file of a saved step; OSError or ValueError where it cannot be read."""
    return json.loads((saved / "trainer_state.json").read_text())  # type: ignore[no-any-return]


def restore(model: Any, saved: Path) -> None:
    """Put the weights of a saved step into a model; what a saved step leaves out stays as it is."""
    from safetensors.torch import load_file

    found = model.load_state_dict(load_file(saved / "model.safetensors"), strict=False)
    lost = set(found.missing_keys) - set(model._keys_to_ignore_on_save)
    if lost or found.unexpected_keys:
        raise BadInput(
            f"work: {saved} holds the weights of another model ({sorted(lost) + found.unexpected_keys}); remove it"
        )


def last_saved(stage: Path) -> Path | None:
    """The newest state of a stage that was saved whole; broken ones, left by a kill while saving, are removed.

    A state is whole when what the Trainer writes last can be read.
    """
    states = {path: path.name.removeprefix("checkpoint-") for path in stage.glob("checkpoint-*")}
    numbered = [path for path, number in states.items() if number.isdecimal()]
    for path in sorted(numbered, key=lambda path: -int(states[path])):
        try:
            state_of(path)
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
        else:
            return path
    return None
