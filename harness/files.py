"""Files that are whole or not there: atomic writing, reading of plain and gzip-compressed text, errors in one clear line."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.errors import BadInput, DiskFull


def unpacked(path: Path, content: bytes) -> bytes:
    """The content of a file, decompressed where its name ends in .gz.

    Raises:
        OSError: it is compressed, and cut off or damaged.
    """
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise OSError(str(error)) from None


def read_bytes(path: Path) -> bytes:
    """Content of a file, decompressed where its name ends in .gz; raises as `open` and `unpacked`."""
    return unpacked(path, path.read_bytes())


def digest(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits; raises as `open`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parsed(content: bytes) -> Any:
    """What JSON text holds; ValueError where it is no JSON, or no UTF-8."""
    try:
        return from_json(content)  # less than half of the time json takes
    except ValueError:  # refuses unpaired surrogates, which JSON may hold; and json says better what is wrong
        return json.loads(content.decode("utf-8"))


def write_atomically(target: Path, parts: Iterable[str]) -> None:
    """Write beside the target, flush to the disk, rename: a reader sees the old file or the new one, never a part."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                # An unpaired surrogate cannot be UTF-8; as a backslash escape it is valid JSON for itself.
                file.write(part.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can; the file's content is already safe."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(path: Path, what: str, *, folder: bool = False) -> None:
    """Find out before anything is computed whether a file can be written, or files in a folder; what is there stays as it is.

    Raises:
        BadInput: nothing can be written there, or a folder stands where a file shall be, or the other way round.
    """
    if path.is_dir() and not folder:
        raise BadInput(f"{what} {path}: is a folder; name a file")
    if folder and path.exists() and not path.is_dir():
        raise BadInput(f"{what} {path}: is a file; name a folder")
    parent = path if folder else path.parent
    missing = [place for place in (parent, *parent.parents) if not place.exists()]
    with clear_errors(path, what):
        try:
            parent.mkdir(parents=True, exist_ok=True)
            probe = parent / f".{'probe' if folder else path.name}.tmp"
            probe.write_bytes(b"1")
            probe.unlink()
        finally:
            for place in missing:
                with contextlib.suppress(OSError):
                    place.rmdir()


def set_aside(path: Path) -> Path | None:
    """Rename a file to a free `.broken` name; None where the folder does not allow it (it then stays as it is)."""
    names = (path.with_name(f"{path.name}{f'.{i}' if i else ''}.broken") for i in range(1000))
    aside = next(name for name in names if not name.exists())
    try:
        path.rename(aside)
    except OSError:
        return None
    return aside


_ADVICE = {
    errno.ENOSPC: "the disk is full; what was written before is kept, free some space and resume",
    errno.EDQUOT: "the disk quota is used up; what was written before is kept, free some space and resume",
    errno.EROFS: "the file system is read-only; name a folder that can be written",
    errno.EACCES: "no permission to write; name a folder that can be written",
    errno.EPERM: "no permission to write; name a folder that can be written",
    errno.ENOENT: "nothing can be made there; name a folder that can be written",
    errno.ENOTDIR: "a part of the path is a file; name a folder",
    errno.EEXIST: "a part of the path is a file; name a folder",
    errno.ENAMETOOLONG: "the name is too long; name a folder with a shorter path",
}


@contextlib.contextmanager
def clear_errors(path: Path, what: str) -> Iterator[None]:
    """Turn an OSError into one line that names the path and what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, one_line(error))
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else BadInput
        raise kind(f"{what} {path}: {advice}") from error


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
