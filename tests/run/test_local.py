"""Every way a worker can end becomes an answer or a record with its reason and the end of its log; none takes the driver along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness import errors
from harness.errors import BadInput, CellFailed
from harness.machine import system
from harness.run import executors
from harness.run.executors.local import LocalExecutor
from tests import workers as worker


@pytest.fixture(scope="module")
def workers() -> LocalExecutor:
    return LocalExecutor()


def failed(
    workers: LocalExecutor, function: Callable[..., object], *arguments: object, limit_s: float | None = None
) -> CellFailed:
    with pytest.raises(CellFailed) as caught:
        workers.call(function, *arguments, limit_s=limit_s)
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_answer_comes_with_what_the_machine_did(workers: LocalExecutor) -> None:
    outcome = workers.call(worker.answer, {"x": [1]})
    assert outcome.value == {"x": [1]}
    assert outcome.machine["seconds"] > 0 and 0 <= outcome.machine["cpu"]["foreign_share"] <= 1


def test_bad_input_stays_bad_input(workers: LocalExecutor) -> None:
    with pytest.raises(BadInput, match="new_tokens: too many"):
        workers.call(worker.refuse)


def test_an_exception_is_one_line_and_the_log_has_the_rest(workers: LocalExecutor) -> None:
    error = failed(workers, worker.fail)
    assert str(error) == "RuntimeError: the matrix is not square" and error.reason == errors.EXCEPTION
    assert {"first line of the log", "second line"} <= set(error.log)
    assert any("in fail" in line for line in error.log), "the traceback names the place"


def test_a_killed_worker_is_named_with_the_arm_it_ran(workers: LocalExecutor) -> None:
    """Defect 5: a failure is a record, never the previous result; and one arm's death is not another's."""
    error = failed(workers, worker.kill_itself, "CALM 0.9")
    assert error.reason == errors.KILLED and error.arm == "CALM 0.9"
    assert "signal 9" in str(error) and "CALM 0.9" in str(error) and error.log == ["loading"]


def test_a_kill_by_the_systems_memory_killer_is_out_of_memory(
    workers: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter((4, 5))
    monkeypatch.setattr(system, "oom_kills", lambda: next(counts))
    assert failed(workers, worker.kill_itself, "x").reason == errors.OUT_OF_MEMORY


def test_a_silent_exit_is_a_failure(workers: LocalExecutor) -> None:
    assert "exit status 3" in str(failed(workers, worker.leave, 3))
    assert "exit status 0" in str(failed(workers, worker.leave, 0))


def test_memory_that_runs_out_is_told_from_other_errors(workers: LocalExecutor) -> None:
    assert failed(workers, worker.exhaust).reason == errors.OUT_OF_MEMORY
    assert failed(workers, worker.exhaust_python).reason == errors.OUT_OF_MEMORY
    assert errors.reason_of("CUDA out of memory. Tried to allocate 2.00 GiB") == errors.OUT_OF_MEMORY
    assert errors.reason_of("shape '[3]' is invalid") == errors.EXCEPTION


def test_a_hung_worker_is_killed_at_its_limit_and_says_where_it_hung(workers: LocalExecutor, tmp_path: Path) -> None:
    error = failed(workers, worker.hang, str(tmp_path / "pid"), limit_s=3.0)
    assert error.reason == errors.TIMED_OUT and "3 s" in str(error) and error.arm == "Slow"
    assert any("stuck_here" in line for line in error.log), "the stack is in the log"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


DRIVER = """
import signal, sys
from harness.run.executors.local import LocalExecutor
from tests.workers import hang
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
if __name__ == "__main__":
    LocalExecutor().call(hang, sys.argv[1])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_its_driver(tmp_path: Path, how: signal.Signals) -> None:
    """A worker that outlived its killed driver would disturb whatever is measured next."""
    script, mark = tmp_path / "driver.py", tmp_path / "pid"
    script.write_text(DRIVER)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    driver = subprocess.Popen(
        [sys.executable, str(script), str(mark)], cwd=root, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        assert wait(lambda: mark.exists() and bool(mark.read_text()), 120)
        worker = int(mark.read_text())
        assert psutil.pid_exists(worker)
        driver.send_signal(how)
        driver.wait(60)
        assert wait(lambda: not psutil.pid_exists(worker), 30)
    finally:
        driver.kill()
        driver.wait()


def wait(condition: object, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def test_unknown_executor_is_bad_input() -> None:
    with pytest.raises(BadInput, match="executor: 'slurm' is not known; known: local, ray"):
        executors.create("slurm")
