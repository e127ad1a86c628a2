"""Reports from stored results alone: no rerun, no torch."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadInput, near

if TYPE_CHECKING:
    from harness.records.run import Run
    from reports.facts.wanted import Wanted

__all__ = ["write_report"]


def write_report(
    run_dirs: Sequence[Path | Run], out: Path | None = None, *, style: str = "page", wanted: Wanted | None = None
) -> Path:
    """Write one report on the runs in `run_dirs` and return the path of its page.

    Beside `report.html` stand `report.pdf`, `figures/` (SVG, PDF, PNG) and `tables/` (CSV, Markdown, LaTeX); in the folder
    of a single run `summary.csv` is written anew as well. The same results give the same bytes. Without the package typst there is
    no PDF and no PNG, and one line on standard error says so.

    Args:
        run_dirs: folders that hold a run.json, or runs that are read already. Runs under the same conditions are joined.
        out: the folder to write to, made if it is missing, or the HTML file; default: the first run's folder.
        style: what the files in `figures/` are drawn for: `page`, or `paper` (3.35 or 6.9 inches wide, serif type).
        wanted: which arms, batch sizes and metric are shown, in which order; default: everything.

    Raises:
        BadInput: no folder given, a folder without a readable run, an unknown style, or a place that cannot be written to.
    """
    from reports.draw.style import PAGE, SHEETS

    if style not in SHEETS:
        raise BadInput(f"report: style {style!r} is not known; {near(style, SHEETS)}")
    sheet = SHEETS[style]
    with _undisturbed():
        # What reads and draws takes long to load: bad input is refused before.
        from harness.records import summary
        from reports.draw import figures
        from reports.facts import load
        from reports.view.parts import Figure, Table, walk
        from reports.write import export, pdf, view
        from reports.write import html as render

        runs = load.load(run_dirs)
        page = _place(out or runs[0].folder or Path())
        shown = view.build(runs, wanted)
        printed = pdf.available()
        parts = [part for part in walk(shown) if isinstance(part, Figure)]
        drawings = {part.id: figures.draw(part, PAGE) for part in parts}
        with ThreadPoolExecutor() as pool:  # Typst leaves the interpreter free
            document = pool.submit(pdf.pdf, shown, drawings) if printed else None
            for_files = drawings if sheet == PAGE else {part.id: figures.draw(part, sheet) for part in parts}
            figure_files = pool.submit(export.figure_files, parts, for_files, sheet)
            table_files, html = export.table_files(shown), render.html(shown, drawings, printed=printed)
        made = {page.name: html.encode()} | ({f"{page.stem}.pdf": document.result()} if document else {})
        drawn, tabled = export.titles(shown, Figure), export.titles(shown, Table)
    for name, content in made.items():
        _write(page.with_name(name), content)
    if out is None and len(runs) == 1:
        _write(page.with_name("summary.csv"), summary.csv_text(runs[0].summary).encode("utf-8", "backslashreplace"))
    _replace(page.parent / "figures", figure_files.result(), drawn)
    _replace(page.parent / "tables", table_files, tabled)
    if not printed:
        print(
            "report: no PDF, and figures as SVG only: the package typst is not installed (pip install typst)",
            file=sys.stderr,
        )
    return page


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the collector of reference cycles: a report makes many objects, all of which live until it is written."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _place(out: Path) -> Path:
    """The HTML file to write: a path that ends in .html, else report.html in the folder."""
    return out if out.suffix.lower() in (".html", ".htm") and not out.is_dir() else out / "report.html"


def _write(path: Path, content: bytes) -> None:
    """Write all of the file or nothing: an earlier report stays until the new one is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise BadInput(
            f"report: cannot write {path} ({error.strerror or error}); choose another place with --out"
        ) from error


_LIST = "FILES.txt"


def _replace(folder: Path, files: dict[str, bytes], titles: Mapping[str, str]) -> None:
    """Write the files of a folder with a list of them; what an earlier list names and this one does not is removed.

    Nothing else in the folder is touched: it may be the reader's own.
    """
    earlier: list[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        earlier = [line.partition("\t")[0] for line in (folder / _LIST).read_text(encoding="utf-8").splitlines()]
    for name, content in files.items():
        _write(folder / name, content)
    for name in earlier:
        if name and name not in files and name != _LIST and Path(name).name == name:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    if files or earlier:
        lines = (f"{name}\t{titles.get(name.rpartition('.')[0], '')}\n" for name in sorted(files))
        _write(folder / _LIST, "".join(lines).encode("utf-8", "replace"))
