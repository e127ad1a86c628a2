"""What is made once and kept for every later process: where it stands, and how it is whole or not there. Torch-free.

`DEPTHBENCH_CACHE` names the folder; without it, it is `depthbench` in the folder the system has for such files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.files import clear_errors

VARIABLE = "DEPTHBENCH_CACHE"


def folder() -> Path:
    """The cache folder; nothing is made."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "depthbench"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "depthbench"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthbench"


def keep(target: Path, whole: Callable[[Path], bool], make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made where it is not there or not whole; one process makes it, others wait for it.

    Args:
        target: the folder, in `folder()`.
        whole: whether what stands there can be used.
        make: fills an empty folder, which then becomes `target` at once: killed half-way, it leaves none.

    Raises:
        BadInput: the cache cannot be written; the line names it and the variable that names another.
    """
    if target.is_dir() and whole(target):
        return target
    with clear_errors(target.parent, f"{VARIABLE}: cache folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target) as alone:
            if target.is_dir() and whole(target):  # made while this process waited
                return target
            if alone:  # nobody else is at work here, so what is left over was left by a process that was killed
                for left in target.parent.glob(f".{target.name}.*.part"):
                    shutil.rmtree(left, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
            try:
                make(work)
                work.chmod(0o755)  # mkdtemp's are for one user alone
                if target.exists():
                    os.replace(target, work.with_suffix(".old"))
                os.replace(work, target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
                shutil.rmtree(work.with_suffix(".old"), ignore_errors=True)
    return target


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[bool]:
    """Wait until no other process makes `target`; False where the system cannot tell."""
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with open(target.with_name(f".{target.name}.lock"), "a") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{target}: another process is making it; waiting", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            yield False
            return
        yield True
