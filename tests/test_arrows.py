"""Imports go one way, and what must not be known in a room is not imported there. Every check is shown to notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import methods
from tests import arrows
from tests.arrows import Tree

ROOT = Path(__file__).resolve().parents[1]


def method_names(tree: Tree) -> list[str]:
    return arrows.method_names(tree, methods.names())


CHECKS: list[Callable[[Tree], list[str]]] = [
    arrows.upward,
    arrows.circles,
    arrows.torch,
    arrows.transformers,
    method_names,
]


@pytest.fixture(scope="module")
def tree() -> Tree:
    found = Tree(ROOT)
    assert len(found.texts) > 150 and len(found.imports) > 1000, "the sources are not where they were looked for"
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_arrows_point_one_way(tree: Tree, check: Callable[[Tree], list[str]]) -> None:
    assert check(tree) == []


def test_every_exception_is_needed(tree: Tree) -> None:
    """A word that is no longer spelt needs no excuse."""
    spelt = [line.split(" spells ") for line in _without_excuses(tree)]
    said = {(module, name.strip("'")) for module, name in (pair for pair in spelt if len(pair) == 2)}
    for module, name in arrows.OTHER_MEANINGS:
        assert any(module in (m, None) and name in (n, None) for m, n in said), f"{module}: {name} is not spelt there"


def _without_excuses(tree: Tree) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrows, "OTHER_MEANINGS", {})
        return method_names(tree)


LAZY = "def use():\n    {}\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"
PLAIN = "{}\n"


@pytest.mark.parametrize("how", [PLAIN, LAZY, TYPES], ids=["plain", "lazy", "types"])
@pytest.mark.parametrize(
    "check, module, line, said",
    [
        (arrows.upward, "harness/measure/speed.py", "from harness.run import sweep", "(harness.measure -> harness.run)"),
        (arrows.upward, "harness/decode/engine.py", "import harness.measure.speed", "harness.decode -> harness.measure"),
        (arrows.upward, "harness/plan.py", "from harness.models import decoder", "harness (contract) -> harness.models"),
        (arrows.upward, "harness/models/decoder.py", "from ..decode import engine", "harness.models -> harness.decode"),
        (arrows.upward, "methods/calm.py", "from harness.records import folder", "methods -> harness.records"),
        (arrows.upward, "reports/view/view.py", "from harness.suites import suite", "reports.view -> harness.suites"),
        (arrows.upward, "harness/stats/paired.py", "import harness", "harness.stats -> harness (face)"),
        (arrows.upward, "harness/shed/tools.py", "import os", "harness.shed.tools: its folder has no place"),
        (arrows.circles, "harness/stats/paired.py", "from harness.records import folder", "harness.records <-> harness.stats"),
        (arrows.torch, "harness/records/folder.py", "import torch", "harness.records.folder imports torch"),
        (arrows.torch, "reports/text.py", "from torch.nn import functional", "reports.text imports torch.nn"),
        (arrows.transformers, "harness/measure/speed.py", "import transformers", "harness.measure.speed imports transformers"),
        (method_names, "harness/run/sweep.py", "import methods.calm", "harness.run.sweep imports methods.calm"),
        (method_names, "harness/run/sweep.py", "from methods import calm", "harness.run.sweep imports methods.calm"),
        (method_names, "harness/run/sweep.py", "name = 'calm'", "harness.run.sweep spells 'calm'"),
    ],
)  # fmt: skip
def test_a_wrong_arrow_is_noticed(
    tmp_path: Path, check: Callable[[Tree], list[str]], module: str, line: str, said: str, how: str
) -> None:
    """A sound tree of one module a room, then the same with one wrong line, however it is imported."""
    _sound(tmp_path)
    assert [found for each in CHECKS for found in each(Tree(tmp_path))] == []
    _write(tmp_path, module, how.format(line))
    found = check(Tree(tmp_path))
    assert any(said in each for each in found), found


def test_torch_that_others_bring_along_is_noticed(tmp_path: Path) -> None:
    """Through a chain of modules and a package's `__init__`, but not through what only a call would import."""
    _sound(tmp_path)
    _write(tmp_path, "harness/tasks/metrics.py", LAZY.format("import torch"))
    _write(tmp_path, "harness/records/folder.py", "from harness.tasks import metrics\n")
    assert arrows.torch(Tree(tmp_path)) == []
    _write(tmp_path, "harness/tasks/metrics.py", "try:\n    from harness.machine.nvml import gpu\nfinally:\n    pass\n")
    _write(tmp_path, "harness/machine/__init__.py", "import torch\n")
    assert any("harness.records.folder brings torch along" in each for each in arrows.torch(Tree(tmp_path)))


def _write(root: Path, place: str, text: str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.relative_to(root).parents[:-1]:
        (root / folder / "__init__.py").touch()
    path.write_text(text)


def _sound(root: Path) -> None:
    """One module a room, each importing one of a room below."""
    files = {
        "harness/__init__.py": "",
        "harness/plan.py": "import torch\n",
        "harness/stats/paired.py": "import numpy\n",
        "harness/machine/nvml.py": "",
        "harness/tasks/metrics.py": "",
        "harness/records/folder.py": "from harness.stats import paired\n",
        "harness/suites/suite.py": "NAMES = ['calm', 'full']\n",
        "harness/models/decoder.py": "import transformers\nfrom harness import plan\n",
        "harness/decode/engine.py": "from harness.models.decoder import Decoder\n",
        "harness/measure/speed.py": "from harness.decode import engine\n",
        "harness/run/sweep.py": "from harness.measure import speed\n",
        "methods/calm.py": "from harness.plan import LayerPlan\nname = 'calm'\n",
        "reports/text.py": "",
        "reports/view/view.py": "from harness.records import folder\nfrom reports import text\n",
    }
    for place, text in files.items():
        _write(root, place, text)
