"""What the imports of a source tree say about its layout, read from the text: lazy imports and those for types count too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("harness", "methods", "reports", "depthbench")

CONTRACT, FACE = "harness (contract)", "harness (face)"
ORDER = (
    CONTRACT,  # errors, files, spec, plan, method: the modules of `harness` itself
    "methods",
    "harness.stats",
    "harness.machine",
    "harness.tasks",
    "harness.records",
    "harness.suites",
    "harness.models",
    "harness.decode",
    "harness.tasks.lm_eval",
    "harness.train",
    "harness.measure",
    "harness.peers",
    "harness.tune",
    "harness.run",
    "reports",
    "reports.facts",
    "reports.view",
    "reports.draw",
    "reports.write",
    FACE,  # harness/__init__
    "harness.cli",
    "depthbench",
)
"""Every room, from the bottom up: a room imports only those before it."""
ONLY = {
    "harness.stats": {CONTRACT},
    "harness.records": {CONTRACT, "harness.stats", "harness.machine", "harness.tasks"},
    "methods": {CONTRACT},
    **dict.fromkeys(
        ("reports", "reports.facts", "reports.view", "reports.draw", "reports.write"),
        {CONTRACT, "harness.stats", "harness.records", "reports", "reports.facts", "reports.view", "reports.draw"},
    ),
}
"""Rooms that may import no more than these, themselves and nothing else."""
NO_TORCH = ("harness.records", "harness.stats", "reports")
TRANSFORMERS = ("harness.models", "harness.train", "harness.peers")
NAMES = ("methods", "harness.suites", "harness.train.recipes", "harness.records.limits")
"""Where a method's name may be spelt; `harness.records.limits` has the baseline's, once."""
OTHER_MEANINGS = {
    ("harness.models.load", "full"): "a variant of bundled weights",
    ("harness.tasks.lm_eval.documents", "full"): "a column: the value of the full model",
    ("harness.cli.lm_eval", "full"): "the same column",
    (None, "seed"): "what random numbers begin with, everywhere but in methods",
    ("reports.draw.style", None): "swatches, the same in every report; a method without one gets the next that is free",
}
"""Words that are spelt like a method's name, by module; None: all of them there, or that word wherever it stands."""


@dataclass(frozen=True)
class Import:
    """One import: who imports what, and whether that happens as soon as the importing module is imported."""

    module: str
    target: str
    at_once: bool


class Tree:
    """The modules of a source tree and their imports.

    Args:
        root: folder that holds the packages.
    """

    def __init__(self, root: Path) -> None:
        paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
        self.texts = {self._name(path.relative_to(root)): ast.parse(path.read_text()) for path in paths}
        self.packages = {self._name(path.relative_to(root)) for path in paths if path.name == "__init__.py"}
        self.imports = [found for module, tree in self.texts.items() for found in self._imports(module, tree)]

    @staticmethod
    def _name(path: Path) -> str:
        return ".".join(path.with_suffix("").parts).removesuffix(".__init__")

    def _imports(self, module: str, tree: ast.Module) -> Iterator[Import]:
        at_once = set(_statements(tree.body))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                home = module.split(".") if module in self.packages else module.split(".")[:-1]
                above = home[: len(home) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                # `from package import module` is an import of the module.
                targets = [f"{base}.{a.name}" if f"{base}.{a.name}" in self.texts else base for a in node.names]
            elif isinstance(node, ast.Call) and _called(node) == "import_module" and node.args:
                targets = [v for v in (getattr(node.args[0], "value", None),) if isinstance(v, str)]
            else:
                continue
            for target in dict.fromkeys(targets):
                yield Import(module, target, node in at_once)

    def ours(self, target: str) -> str | None:
        """The module of this tree that an import means; None for somebody else's."""
        while target and target not in self.texts:
            target = target.rpartition(".")[0]
        return target or None

    def room(self, module: str) -> str | None:
        """The room a module lives in; None where it has no place in `ORDER`."""
        if module == "harness":
            return FACE
        inside = [room for room in ORDER if module == room or module.startswith(f"{room}.")]
        if inside:
            return max(inside, key=len)
        return (
            CONTRACT
            if module.startswith("harness.") and module.count(".") == 1 and module not in self.packages
            else None
        )


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    """What runs as soon as a module is imported: no bodies of functions, nothing for types alone."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, field, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _statements(handler.body)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _within(module: str, rooms: Sequence[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _arrows(tree: Tree) -> Iterator[tuple[str, str, Import]]:
    """Imports of another room: whose, which."""
    for each in tree.imports:
        target = tree.ours(each.target)
        ours, theirs = tree.room(each.module), None if target is None else tree.room(target)
        if ours is not None and theirs is not None and ours != theirs:
            yield ours, theirs, each


def upward(tree: Tree) -> list[str]:
    """Imports of a room that does not stand below, or that the importing one may not know."""
    found = [f"{module}: its folder has no place in ORDER" for module in tree.texts if tree.room(module) is None]
    for ours, theirs, each in _arrows(tree):
        if ORDER.index(theirs) > ORDER.index(ours) or theirs not in ONLY.get(ours, {theirs}):
            found.append(f"{each.module} imports {each.target} ({ours} -> {theirs})")
    return found


def circles(tree: Tree) -> list[str]:
    """Rooms that reach each other."""
    arrows: dict[str, set[str]] = {}
    for ours, theirs, _ in _arrows(tree):
        arrows.setdefault(ours, set()).add(theirs)
    reached = {room: _reached(arrows, room) for room in arrows}
    return [
        f"{a} <-> {b}"
        for a in sorted(reached)
        for b in sorted(reached)
        if a < b and b in reached[a] and a in reached[b]
    ]


def _reached(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    seen, left = set[str](), [start]
    while left:
        for target in arrows.get(left.pop(), ()):
            if target not in seen:
                seen.add(target)
                left.append(target)
    return seen


def torch(tree: Tree) -> list[str]:
    """Imports of torch where there must be none: named at all in these rooms, or brought along when they are imported."""
    heavy = ("torch", "transformers", "lm_eval", "accelerate", "peft")
    named = [
        f"{i.module} imports {i.target}"
        for i in tree.imports
        if _within(i.module, NO_TORCH) and _within(i.target, heavy)
    ]
    arrows: dict[str, set[str]] = {}
    brings: set[str] = set()
    for each in tree.imports:
        if not each.at_once:
            continue
        if _within(each.target, heavy):
            brings.add(each.module)
        elif (target := tree.ours(each.target)) is not None:
            # Importing a module runs the `__init__` of every package around it.
            parts = target.split(".")
            arrows.setdefault(each.module, set()).update(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    along = [
        f"{module} brings torch along through {', '.join(sorted(reached))}"
        for module in tree.texts
        if _within(module, NO_TORCH) and (reached := _reached(arrows, module) & brings)
    ]
    return named + along


def transformers(tree: Tree) -> list[str]:
    """Imports of transformers outside the rooms that know it."""
    return [
        f"{each.module} imports {each.target}"
        for each in tree.imports
        if _within(each.target, ("transformers",)) and not _within(each.module, TRANSFORMERS)
    ]


def method_names(tree: Tree, names: Iterable[str]) -> list[str]:
    """Modules that spell a method's name, or import its module, outside the places for it."""
    known = set(names)
    found = []
    for module, text in tree.texts.items():
        if _within(module, NAMES):
            continue
        spelt = {
            node.value for node in ast.walk(text) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for name in sorted(spelt & known):
            if not {(module, name), (module, None), (None, name)} & set(OTHER_MEANINGS):
                found.append(f"{module} spells {name!r}")
        found += [
            f"{module} imports {each.target}"
            for each in tree.imports
            if each.module == module and any(_within(each.target, (f"methods.{name}",)) for name in known)
        ]
    return found
