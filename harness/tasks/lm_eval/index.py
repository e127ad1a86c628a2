"""lm-eval's list of its own tasks, read once for its files as they are and kept in the cache.

lm-eval reads all of its 14,000 task files wherever a task is named: 5 s or more, in every process. Of each it needs the name, what
kind it is, its tags and where it stands; the task itself is read again when it is loaded. Looking at the files' sizes and times,
which tells whether the list still holds, takes a fifth of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks._index import Entry, Kind, TaskIndex

from harness import cache
from harness.errors import BadInput

_FILE = "index.json"


@contextmanager
def quicker() -> Iterator[None]:
    """Within it lm-eval's own tasks are listed from the cache."""
    place: Any = import_module("lm_eval.tasks.manager")
    own = Path(place.__file__).parent

    class Kept(TaskIndex):  # type: ignore[misc]
        @staticmethod
        def build(paths: Iterable[Path], **settings: Any) -> dict[str, Entry]:
            first, *rest = paths
            if first != own:
                return TaskIndex.build([first, *rest], **settings)  # type: ignore[no-any-return]
            found = entries(own)
            return found | TaskIndex.build(rest, **settings) if rest else found

    was, place.TaskIndex = place.TaskIndex, Kept
    try:
        yield
    finally:
        place.TaskIndex = was


def entries(root: Path) -> dict[str, Entry]:
    """What `TaskIndex.build` finds in a folder of task files, without the files' contents."""
    target = cache.folder() / "lm-eval" / _stamp(root)

    def make(work: Path) -> None:
        found = TaskIndex.build([root])
        rows = [
            [name, entry.kind.name, entry.yaml_path and str(entry.yaml_path.relative_to(root)), sorted(entry.tags)]
            for name, entry in found.items()
        ]
        (work / _FILE).write_text(json.dumps(rows))

    try:
        rows = json.loads((cache.keep(target, _whole, make) / _FILE).read_text())
    except BadInput as error:
        if not isinstance(error.__cause__, OSError):
            raise
        return TaskIndex.build([root])  # type: ignore[no-any-return]
    return {
        name: Entry(name=name, kind=Kind[kind], yaml_path=root / path if path else None, tags=set(tags))
        for name, kind, path, tags in rows
    }


def _whole(found: Path) -> bool:
    """Whether the list has its end; it is put there whole or not at all, so no more can be wrong with it."""
    file = found / _FILE
    return file.is_file() and file.read_bytes().endswith(b"]")


def _stamp(root: Path) -> str:
    """Digest of lm-eval's version and every task file's place, size and time of change."""
    digest = hashlib.sha256(f"{lm_eval.__version__} {root}".encode())
    for place, size, changed in sorted(_files(str(root))):
        digest.update(f"{place} {size} {changed}\n".encode())
    return digest.hexdigest()[:24]


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.name.endswith(".yaml"):
                known = entry.stat()
                yield entry.path, known.st_size, known.st_mtime_ns
