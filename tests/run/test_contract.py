"""`depthbench check`: the contract suite as a verb; a method that breaks the contract is told where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import methods
from harness.cli import main as cli
from harness.errors import BadInput, CellFailed
from harness.run import contract
from harness.run.contract import CHECKS

GOOD = '''
from dataclasses import dataclass
from typing import ClassVar

from harness.method import Schedule
from harness.plan import LayerPlan


@dataclass(frozen=True)
class EveryOther(Schedule):
    """Every second block."""

    name: ClassVar[str] = "every_other"
    start: int = 0
    skips: bool = True
    def no_skip(self, depth):
        return EveryOther(self.start, False)

    def layers(self, step, prompt_length, depth):
        return LayerPlan.of(range(self.start, depth, 2), depth) if self.skips else LayerPlan.full(depth)


@dataclass(frozen=True)
class SaysExact(EveryOther):
    """Calls itself exact and is not."""

    exact: ClassVar[bool] = True

    def no_skip(self, depth):
        return self


@dataclass(frozen=True)
class Raises(EveryOther):
    """Its own code is broken."""

    def layers(self, step, prompt_length, depth):
        return [][step.index]
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def outcome(spec: str) -> dict[str, str | None]:
    return {result.check: result.error for result in contract.check(methods.create(spec), models=("opt",))}


def test_a_method_from_a_file_passes_before_it_is_registered(mine: Path) -> None:
    found = outcome(f"{mine}:EveryOther(start=1)")
    assert set(found) == {check.name for check in CHECKS}
    assert found.pop("exact: the full model's tokens") is None, "it does not call itself exact"
    assert set(found.values()) == {""}


def test_what_is_broken_is_named(mine: Path) -> None:
    """The check can fail: a method that claims what it does not keep, and one that raises."""
    found = outcome(f"{mine}:SaysExact")
    assert "not the full model's" in str(found["exact: the full model's tokens"])
    assert "other tokens than the full model" in str(found["no skipping = the full model"])
    assert found["step by step = one parallel pass (score)"] == ""
    raised = outcome(f"{mine}:Raises")
    said = str(raised["a row in a padded batch = the row alone"])
    assert said.startswith("plan() fails at step 1: mine.py line 38, in layers: IndexError")


def test_a_trace_that_lies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.plan import StepTrace

    monkeypatch.setattr(StepTrace, "runs", lambda self, sublayer: [1] * 6)
    assert "ran" in str(outcome("fixed_exit(budget=2)")["layers in the trace = layers counted where they run"])


def test_flops_that_are_not_counted_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 18: a counter that counts nothing must not pass as agreement."""
    from harness.run.contract import FlopCounterMode

    monkeypatch.setattr(FlopCounterMode, "get_total_flops", lambda self: 0)
    assert "0 by torch" in str(outcome("full")["counted FLOPs = torch's counter, within 1 %"])


def test_the_verb_says_what_passed_and_fails_with_status_1(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.check, "__defaults__", (("opt",),))
    threads = torch.get_num_threads()
    good = CliRunner().invoke(cli.app, ["check", "full"])
    assert good.exit_code == 0 and good.output.count("passed") == len(CHECKS)
    bad = CliRunner().invoke(cli.app, ["check", f"{mine}:SaysExact"])
    assert isinstance(bad.exception, CellFailed) and "failed on 1" in bad.output
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nosuch", "no method named 'nosuch'"),
        ("nowhere.py:X", "there is no file nowhere.py"),
        ("{mine}:Nothing", "has no class 'Nothing'"),
        ("{mine}:EveryOther(first=1)", "no parameter named 'first'"),
        ("{mine}:EveryOther(", "cannot be read"),
        ("{bad}:X", "cannot be imported: SyntaxError"),
    ],
)
def test_bad_input_is_one_line(mine: Path, spec: str, message: str) -> None:
    (mine.parent / "bad.py").write_text("class")
    with pytest.raises(BadInput, match=message.replace("(", r"\(")) as caught:
        methods.create(spec.format(mine=mine, bad=mine.parent / "bad.py"))
    assert "\n" not in str(caught.value)
