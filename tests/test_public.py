"""`import depthbench`: the README's example runs, nothing heavy is loaded early, and somebody else's `methods` is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import depthbench
import harness
import methods

ROOT = Path(depthbench.__file__).resolve().parents[1]


def python(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, `path` before the project on its path."""
    places = {"PYTHONPATH": os.pathsep.join(map(str, (path, ROOT)))}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | places)


def test_the_examples_of_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    generating, adding = (part.partition("```")[0] for part in text.split("```python\n")[1:])
    found: dict[str, Any] = {}
    exec(generating, found)
    assert "Zizzi" in capsys.readouterr().out
    assert found["logits"].shape[:2] == found["ids"].shape
    exec(adding, found)
    out = depthbench.generate(found["model"], found["EveryOther"](), found["ids"], max_new_tokens=3)
    assert out.trace.layers[0, 1:].sum(1).tolist() == [12, 12]


def test_the_names_are_those_of_the_project() -> None:
    assert depthbench.create is methods.create and depthbench.load_model is harness.load_model
    assert depthbench.create("skipdecode", speedup=3) == depthbench.create("skipdecode(speedup=3)")
    assert set(depthbench.__all__) <= set(dir(depthbench))
    with pytest.raises(AttributeError, match="'depthbench' has no attribute 'loadmodel'"):
        _ = depthbench.loadmodel


def test_importing_it_and_asking_for_the_version_load_no_torch() -> None:
    code = "import sys, depthbench; print(depthbench.__version__); sys.exit('torch' in sys.modules)"
    assert python("-c", code).returncode == 0
    code = "import sys, runpy; sys.argv[1:] = ['--version']\ntry: runpy.run_module('depthbench', run_name='__main__')\n"
    done = python("-c", f"{code}except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, f"depthbench {depthbench.__version__}\n"), done.stderr


@pytest.mark.parametrize("name", ["methods", "harness"])
def test_somebody_elses_package_is_named(tmp_path: Path, name: str) -> None:
    """A project beside the user's own `methods/` must not fail with `module 'methods' has no attribute 'create'`."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = python("-c", "from depthbench import create", path=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last.startswith(f"ImportError: {tmp_path / name} is found first as the package {name!r}") and "rename" in last
    )
    done = python("-m", "depthbench", "list", "methods", path=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and str(tmp_path / name) in done.stderr


def test_one_that_was_imported_before_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reports", type(sys)("reports"))
    with pytest.raises(ImportError, match="reports"):
        depthbench.check_packages()
