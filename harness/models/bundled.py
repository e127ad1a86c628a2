"""The bundled checkpoints by name. Torch-free: a shell asks for them while somebody types."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"

WHOLE, DELTA = "config.json", "delta.json"
"""The file a folder is known by: as a whole checkpoint, as the difference to one (delta.py)."""


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or as a difference."""
    return any((folder / file).is_file() for file in (WHOLE, DELTA))


def bundled() -> list[str]:
    """Names of the bundled checkpoints, `model/variant`."""
    return sorted(f"{p.parent.name}/{p.name}" for p in ASSETS.glob("*/*") if is_checkpoint(p))
