"""What only a process of its own can show: signals, output that is closed, full or left, a locale without UTF-8."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.cli import main as cli
from harness.cli import texts
from tests.cli.sweep import VERBS

PLAIN = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell command; `$D` stands for depthbench."""
    return subprocess.run(
        ["bash", "-c", command],
        env={**PLAIN, "D": f"{sys.executable} -m depthbench", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("$D list suites | head -0; exit ${PIPESTATUS[0]}", 0, ""),
        ("$D list suites >&-", 0, ""),
        ("$D list suites >/dev/full", 1, "standard output: No space left on device"),
        ("$D list colours 2>/dev/full", 2, ""),
        ("$D list $'\\xff'", 2, "argument 2"),
        ("PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C $D list suites", 0, ""),
    ],
)
def test_output_that_cannot_be_written_and_text_that_cannot_be_read(command: str, status: int, says: str) -> None:
    done = run(command)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert says in done.stderr and len(done.stderr.splitlines()) == bool(says)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on_and_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "r"
    command = [sys.executable, "-m", "depthbench", "run", "smoke", "--out", str(out)]
    driver = subprocess.Popen(
        command, env=PLAIN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    workers: list[psutil.Process] = []
    while driver.poll() is None and not workers:  # the server of workers, and one that prepares
        workers = [
            child
            for child in psutil.Process(driver.pid).children(recursive=True)
            if "forkserver" in " ".join(child.cmdline())
        ]
        time.sleep(0.05)
    os.killpg(driver.pid, number) if number is signal.SIGINT else driver.send_signal(number)
    try:
        printed, said = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 128 + number and not printed
    assert (
        said
        == f"depthbench: interrupted; what was measured is kept, go on with: depthbench run smoke --out {out} --resume\n"
    )
    _, left = psutil.wait_procs(workers, timeout=30)
    assert not left, "a worker outlived its driver"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_verb_ends_with_the_status_of_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def stopped(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(texts, "score_text", stopped)
    monkeypatch.setattr("sys.argv", ["depthbench", "score", "a", "b"])
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 128 + number and capsys.readouterr().err == "depthbench: interrupted\n"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("verb", cli.GOES_ON)
def test_verbs_that_go_on_say_how(verb: str) -> None:
    said = cli.interrupted([verb, "my suite", "--out", "o"])
    assert verb in VERBS and f"depthbench {verb} 'my suite' --out o" in said


def test_a_pool_that_a_library_ends_says_nothing() -> None:
    """Its processes are forks of this one and are ended with SIGTERM, which this one watches for itself."""
    code = (
        "import multiprocessing, time\n"
        "from harness.signals import Stopping\n"
        "with Stopping().watching():\n"
        "    fork = multiprocessing.get_context('fork'); near, far = fork.Pipe()\n"
        "    child = fork.Process(target=lambda: (far.send(1), time.sleep(60)))\n"
        "    child.start(); near.recv(); child.terminate(); child.join(); print(child.exitcode)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=PLAIN, capture_output=True, text=True)
    assert done.stdout == f"{-signal.SIGTERM}\n" and not done.stderr
