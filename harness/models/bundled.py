"""The bundled checkpoints by name. Torch-free: a shell asks for them while somebody types."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def bundled() -> list[str]:
    """Names of the bundled checkpoints, `model/variant`."""
    return sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in ASSETS.glob("*/*/config.json"))
