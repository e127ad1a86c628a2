"""Methods that live outside the project: a class in a file, in an installed package, or one that a package offers by name.

    mine.py:EveryOther(after=2)          a file, by its path
    package.module:EveryOther            a module that Python can import
    every_other                          an entry point of the group `depthbench.methods`

The text of the file is what runs under the name, so its hash is part of what a run is. A file is read anew when it was edited: the
class that comes back then is another one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

from harness.errors import BadInput, one_line

GROUP = "depthbench.methods"
"""Entry points of this group are methods, accepted by their names."""
FAMILIES = "Schedule, Gate, Exit or Draft of harness.method"

_loaded: dict[tuple[Path, str], ModuleType] = {}
"""Modules of files by path and hash."""


@dataclass(frozen=True)
class Source:
    """Where a class that is not the project's own came from.

    Attributes:
        place: what `methods.create` takes for it, without parameters.
        file: the file's name.
        path: where it was read.
        sha256: of its text.
        text: of the file, whole.
    """

    place: str
    file: str
    path: str
    sha256: str
    text: str


def is_place(name: str) -> bool:
    """Whether a name says where a class is: `file.py:Class` or `package.module:Class`."""
    return ":" in name


def absolute(spec: str, folder: Path | None = None) -> str:
    """The spec with the whole path of its file, if it has one: what still means the same in another process.

    Args:
        spec: with or without parameters.
        folder: where the file is looked for first; None: only in the working folder.
    """
    path, suffix, rest = spec.partition(".py:")
    if not suffix:
        return spec
    place = Path(f"{path}.py").expanduser()
    beside = [] if folder is None else [folder / place]
    found = next((each for each in beside if each.is_file()), place)
    return f"{os.path.abspath(found)}:{rest}"


def short(spec: str) -> str:
    """The spec with its file's name alone: how tables name it."""
    path, suffix, rest = spec.partition(".py:")
    return f"{Path(path).name}.py:{rest}" if suffix else spec


def offered() -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages offer, by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def load(place: str, base: type) -> type:
    """The class at a place, its `source` filled in.

    Args:
        place: `file.py:Class`, `package.module:Class`, or a name among `offered()`.
        base: what it must derive.

    Raises:
        BadInput: there is no such file, module or class, it cannot be imported, or it is no method; one line.
    """
    where, _, name = place.rpartition(":")
    if not where:
        offer = offered()[place]
        where, name = offer.module, offer.attr
    if not name.isidentifier():
        raise BadInput(f"method: {place!r} names no class; write file.py:Class(key=value)")
    if where.endswith(".py"):
        module, path = _file(Path(where).expanduser())
    else:
        module = _module(where)
        path = Path(getattr(module, "__file__", None) or "")
    cls = vars(module).get(name)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        own = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        has = f"; it has {', '.join(own)}" if own else ""
        raise BadInput(f"method: {where} has no class {name!r} that derives {FAMILIES}{has}")
    _check(cls, place)
    text = module.__dict__.get("__depthbench_text__") or _text(path)
    sha = hashlib.sha256(text.encode()).hexdigest()
    cls.source = Source(place, path.name, str(path), sha, text)  # type: ignore[attr-defined]
    for attribute, value in (("name", name), ("title", name), ("paper", "not published")):
        if not hasattr(cls, attribute):
            setattr(cls, attribute, value)
    return cls


def said(error: BaseException, source: Source | None) -> str:
    """An exception as one line, with the line of the method's own file that it came from."""
    frames = [] if source is None else traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if source is not None and frame.filename == source.path]
    where = f"{Path(own[-1].filename).name} line {own[-1].lineno}, in {own[-1].name}: " if own else ""
    return where + one_line(error)


def _check(cls: type, place: str) -> None:
    """BadInput unless a method can be made of the class."""
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise BadInput(
            f"method: {place} does not define {', '.join(f'{each}()' for each in missing)}; see harness.method"
        )
    declared = [k for k, v in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(v)]
    if declared and "__dataclass_fields__" not in vars(cls):
        raise BadInput(
            f"method: {place} has parameters but is no dataclass; write @dataclass(frozen=True) above the class"
        )
    if not dataclasses.is_dataclass(cls):
        raise BadInput(f"method: {place} is no dataclass; write @dataclass(frozen=True) above the class")


def _file(path: Path) -> tuple[ModuleType, Path]:
    """The module of a file as it is now."""
    if not path.is_file():
        raise BadInput(f"method: there is no file {path}; write file.py:Class(key=value)")
    path = Path(os.path.abspath(path))
    text = _text(path)
    sha = hashlib.sha256(text.encode()).hexdigest()
    if (path, sha) in _loaded:
        return _loaded[path, sha], path
    # Named after the text: classes of two versions of a file are told apart, and those of one version are the same.
    module = ModuleType(f"depthbench_method_{path.stem}_{sha[:12]}")
    module.__file__ = str(path)
    module.__dict__["__depthbench_text__"] = text
    sys.modules[module.__name__] = module  # dataclasses and type hints look their module up
    try:
        code: CodeType = compile(text, str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except Exception as error:  # the file's own error, of whatever kind
        del sys.modules[module.__name__]
        alone = (
            "; a method's file stands alone, or is part of an installed package"
            if isinstance(error, ImportError)
            else ""
        )
        raise BadInput(f"method: {path} cannot be imported: {one_line(error)}{alone}") from None
    _loaded[path, sha] = module
    return module, path


def _module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(
            f"method: {name[:80]!r} is neither a Python file nor a module; write file.py:Class or package.module:Class"
        )
    if importlib.util.find_spec(name.partition(".")[0]) is None and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a command has the folder of its script there, not the working one
    try:
        return importlib.import_module(name)
    except Exception as error:  # the module's own error, of whatever kind
        why = one_line(error)
        raise BadInput(
            f"method: {name} cannot be imported: {why}; write file.py:Class or package.module:Class"
        ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"method: {path} cannot be read ({one_line(error)}); give a Python file") from None
