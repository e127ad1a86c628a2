"""Reports from stored results alone: no rerun, no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from harness.errors import BadInput

__all__ = ["write_report"]


def write_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one HTML report on the runs in `run_dirs` and return its path.

    Args:
        run_dirs: folders that hold a run.json.
        out: the file to write, or a folder for `report.html`; default: `report.html` in the first run's folder.

    Raises:
        BadInput: no folder given, a folder without a readable run, or a place that cannot be written to.
    """
    from reports import load, render, view  # the drawing library loads only when a report is made

    runs = load.load([Path(folder) for folder in run_dirs])
    target = Path(run_dirs[0]) if out is None else Path(out)
    if target.is_dir():
        target = target / "report.html"
    _write(target, render.html(view.build(runs)))
    return target


def _write(path: Path, text: str) -> None:
    """Write all of the file or nothing: an earlier report stays until the new one is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise BadInput(
            f"report: cannot write {path} ({error.strerror or error}); choose another place with out"
        ) from error
