"""Runs on one machine take turns: a timed job is alone, others share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import methods
from harness.errors import CellFailed
from harness.machine import turn
from harness.peers import decoding, scoring
from harness.tune.trials import Trials
from tests.tune.test_tune import setup

pytest.importorskip("fcntl")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn.tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("first", [True, False])
def test_nothing_is_timed_beside_another_run(first: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with turn.taken("cpu", timed=first):
        with (
            pytest.raises(CellFailed, match="another run used cpu of this machine for 0 minutes"),
            turn.taken("cpu", timed=True, limit_s=0),
        ):
            pass
        assert "another run uses cpu of this machine; waiting" in capsys.readouterr().err
        with turn.taken("cuda:0", timed=True, limit_s=0):
            pass
        with turn.taken("cpu", timed=False, limit_s=0):  # goes on, and says so where it would have waited
            assert bool(capsys.readouterr().err) == first
    with turn.taken("cpu", timed=True, limit_s=0):
        assert not capsys.readouterr().err


def test_a_lock_dies_with_its_process() -> None:
    child = os.fork()
    if not child:
        with turn.taken("cpu", timed=True):
            os._exit(0)
    os.waitpid(child, 0)
    with turn.taken("cpu", timed=True, limit_s=0):
        pass


def test_without_a_place_for_the_lock_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHBENCH_LOCKS", str(tmp_path / "nowhere"))
    with turn.taken("cpu", timed=True, limit_s=0), turn.taken("cpu", timed=True, limit_s=0):
        pass


TIMED: dict[str, Callable[[], object]] = {
    "baseline": lambda: decoding.measure(decoding.Settings(model="random:opt-e2e-mini")),
    "scoring-speed": lambda: scoring.measure(scoring.Settings(model="random:opt-e2e-mini")),
    "tune": lambda: Trials(setup(), [methods.create("fixed_exit(budget=2)")], "validation", 2).time([0]),
}


@pytest.mark.parametrize("what", TIMED)
def test_whatever_takes_times_is_alone(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with turn.taken("cpu", timed=False):  # another run that takes none
        monkeypatch.setattr(turn, "taken", partial(turn.taken, limit_s=0))
        with pytest.raises(CellFailed, match="nothing is timed beside it"):
            TIMED[what]()
