"""One job in one fresh process, watched: what it returned, or why it failed with the end of its log. Torch-free.

A worker that raises, is killed, runs out of memory or hangs past its limit becomes a `CellFailed` with its reason; it never
takes the driver with it. A worker whose driver is gone ends itself: a run that was killed leaves nothing that would disturb
the next one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection as channels
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from typing_extensions import override

from harness.errors import EXCEPTION, KILLED, OUT_OF_MEMORY, TIMED_OUT, BadInput, CellFailed, one_line, reason_of
from harness.machine import system
from harness.machine.monitor import Monitor
from harness.measure.running import doing, said
from harness.run.executors.base import BEAT_S, Arguments, Executor, Outcome, T
from harness.signals import deaf_children

LOG_LINES = 30
_LOG_BYTES = 16_384
_PRELOADED = (
    *("torch", "transformers.modeling_utils", "transformers.modeling_layers"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
)


class LocalExecutor(Executor):
    """One process at a time on this machine: two would disturb each other's times."""

    slots = 1

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")

    @override
    def call(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments, limit_s: float | None = None
    ) -> Outcome[T]:
        # What workers are forked from has these loaded, and what the first job's module imports.
        self._context.set_forkserver_preload([*_PRELOADED, function.__module__])
        descriptor, name = tempfile.mkstemp(prefix="depthbench-", suffix=".log")
        os.close(descriptor)
        log = Path(name)
        try:
            return self._call(log, function, arguments, limit_s)
        finally:
            log.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held."""

    def _wait(self, things: list[Any], limit_s: float | None, log: Path) -> list[Any]:
        """As `multiprocessing.connection.wait`, with signs of life."""
        ends = None if limit_s is None else time.monotonic() + limit_s
        while True:
            left = BEAT_S if ends is None else min(BEAT_S, max(ends - time.monotonic(), 0.0))
            ready = channels.wait(things, left)
            if ready or (ends is not None and time.monotonic() >= ends):
                return ready
            if self.alive is not None:
                self.alive(doing(_last(log)))

    def _call(
        self, log: Path, function: Callable[..., T], arguments: tuple[Any, ...], limit_s: float | None
    ) -> Outcome[T]:
        receive, send = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(send, str(log), function, arguments), daemon=True)
        kills = system.oom_kills()
        message: tuple[str, Any] | None = None
        with Monitor() as monitor:
            with deaf_children():  # and what is forked from the server
                forkserver.ensure_running()
            process.start()
            send.close()
            try:
                # The sentinel too: a grandchild that inherited the pipe would keep it open after the worker's death.
                ready = self._wait([receive, process.sentinel], limit_s, log)
                if ready and receive.poll(0):
                    with contextlib.suppress(EOFError, OSError):
                        message = receive.recv()
                if not ready:
                    _show_stacks(process.pid)
            finally:
                receive.close()
                if message is None:
                    process.kill()
                process.join()
        if message is None:
            tail, arm = read_tail(log)
            raise _died(process.exitcode or 0, not ready, limit_s, system.oom_kills() > kills, tail, arm)
        kind, value = message
        if kind == "bad":
            raise BadInput(value)
        if kind == "failed":
            tail, arm = read_tail(log)
            raise CellFailed(value["error"], value["reason"], tail, arm)
        return Outcome(value["result"], monitor.record(value["cpu_s"]))


def read_tail(log: Path) -> tuple[list[str], str | None]:
    """The last lines of a worker's log, and the arm that ran last, if the worker said so."""
    rest, arm = said(_last(log))
    return rest[-LOG_LINES:], arm


def _last(log: Path) -> list[str]:
    """The last lines of a log; none where it cannot be read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _LOG_BYTES, 0))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _died(code: int, late: bool, limit_s: float | None, oom: bool, tail: list[str], arm: str | None) -> CellFailed:
    """The failure of a process that sent nothing."""
    during = f" while running {arm}" if arm else ""
    if late:
        what = f"the worker process hung past its time limit of {limit_s:g} s{during} and was killed; see time_limit_s"
        return CellFailed(what, TIMED_OUT, tail, arm)
    if code >= 0:
        reason = max((reason_of(line) for line in tail), key=lambda r: r == OUT_OF_MEMORY, default=EXCEPTION)
        return CellFailed(f"the worker process died (exit status {code}){during}", reason, tail, arm)
    name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else str(-code)
    if code == -signal.SIGKILL and oom:
        what = f"the worker process was killed by the system because memory ran out (signal 9){during}"
        return CellFailed(what, OUT_OF_MEMORY, tail, arm)
    hint = ", out of memory?" if code == -signal.SIGKILL else ""
    return CellFailed(f"the worker process died (signal {-code}, {name}{hint}){during}", KILLED, tail, arm)


def _show_stacks(pid: int | None) -> None:
    """Ask a hung worker to write where it is into its log; it is killed in a moment in any case."""
    if pid is not None:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
        threading.Event().wait(0.5)


def _work(connection: Connection, log: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Body of a worker process: call a function, send what it returned or why it failed."""
    _begin(log)
    message: tuple[str, Any]
    try:
        result = function(*arguments)
        message = ("ok", {"result": result, "cpu_s": _cpu_seconds()})
    except BadInput as error:
        message = ("bad", str(error))
    except Exception as error:  # whatever a measurement raises becomes a failed cell, never a lost run
        traceback.print_exc()
        message = ("failed", {"error": one_line(error), "reason": reason_of(error)})
    sys.stderr.flush()
    with contextlib.suppress(BrokenPipeError):  # the run was stopped and waits for nobody
        connection.send(message)
    connection.close()


def _begin(log: str) -> None:
    """Send what is printed to the log, show stacks on demand, leave Ctrl-C to the driver and end when it does."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    except OSError:  # the driver was stopped while this began and took the log with it: nobody reads what is said here
        descriptor = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    _end_with(multiprocessing.parent_process())


def _end_with(driver: Any) -> None:
    """End this process when the driver's is gone, however it went."""

    def wait() -> None:
        driver.join()
        os._exit(1)

    if driver is not None:
        threading.Thread(target=wait, name="end with the driver", daemon=True).start()


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
