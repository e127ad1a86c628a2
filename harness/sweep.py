"""A suite to results: arms, jobs, worker processes, cells. A killed run goes on where it stopped.

Jobs: one `prepare`, which checks everything before anything is measured; then, per task, the quality of each arm; per batch
size and process, the speed of all arms interleaved; per batch size and arm, the memory of that arm alone. Every job runs in
a process of its own. A job that fails, or whose process dies, becomes a failed cell and the rest goes on.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness import environment, summary
from harness.config import BASELINE, Suite
from harness.errors import BadInput, CellFailed
from harness.store import RunStore

Json = dict[str, Any]

PARTS = "parts"
"""Folder inside a run for what single processes measured, until a cell is complete."""


def run_suite(
    suite: Suite, out: Path, *, data: Path | None = None, resume: bool = False, command: Sequence[str] = ()
) -> int:
    """Run a suite into a folder.

    Args:
        suite: from `harness.config.load_suite`, its names checked.
        out: run folder; made if missing.
        data: local data, for tasks that need it.
        resume: go on with a run in `out`; what is measured already is kept.
        command: the command line, kept for the report.

    Returns:
        How many cells failed.

    Raises:
        BadInput: before anything is measured, when something does not fit.
    """
    store = RunStore(out, resume=resume)
    jobs = _Jobs(suite, store, data)
    arms = [
        {"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": suite.checkpoint(e)}
        | ({} if e.tuned is None else {"tuned": e.tuned})
        for e in suite.methods
    ]
    # The baseline goes first: others are compared with its tokens.
    arms.sort(key=lambda arm: arm["method"] != BASELINE)
    prepared = jobs.call("prepare", suite, arms, data)
    record = {
        "name": suite.name,
        "suite": suite.plain(),
        "arms": prepared["arms"],
        "expected_tokens": prepared["expected_tokens"],
        "kernels": prepared["kernels"],
        "environment": environment.fingerprint(),
        "started": _now(),
        "finished": None,
        "command": list(command),
    }
    record = _continue(store, record)
    store.write_run(record)
    failed = jobs.run(record)
    store.write_samples()
    summary.write_summary(store)
    shutil.rmtree(store.path / PARTS, ignore_errors=True)
    store.write_run({**record, "finished": _now()})
    return failed


def _continue(store: RunStore, record: Json) -> Json:
    """The record to run with: a new one, or that of the run being resumed if it is the same suite."""
    if not (store.path / "run.json").exists():
        return record
    before = store.read_run()
    for key in ("suite", "arms", "expected_tokens"):
        if before.get(key) != json.loads(json.dumps(record[key])):
            raise BadInput(
                f"output folder {store.path}: holds a run with another {key.replace('_', ' ')}; "
                "name another folder, or repeat the command that began it"
            )
    resumed = [*before.get("resumed", []), record["environment"]]
    return {**before, "resumed": resumed}


class _Jobs:
    """The jobs of one suite and the cells they make."""

    def __init__(self, suite: Suite, store: RunStore, data: Path | None) -> None:
        self.suite, self.store, self.data = suite, store, data
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["harness.runner", "transformers.modeling_utils"])

    def run(self, record: Json) -> int:
        """Measure every cell that is not there yet; returns how many cells of the run failed."""
        suite, arms = self.suite, record["arms"]
        prepared = {key: record[key] for key in ("expected_tokens", "kernels")}
        (self.store.path / PARTS).mkdir(exist_ok=True)
        done = self.store.ids("ok")
        work: list[tuple[str, Callable[[], None]]] = []
        for index, entry in enumerate(suite.tasks):
            for arm in arms:
                cell = cell_id("quality", arm["label"], entry.name)
                if cell not in done:
                    quality = partial(self._quality, cell, arm, index, arms, prepared)
                    work.append((f"{entry.name}: {arm['label']}", quality))
        for batch in suite.batch_sizes:
            if any(cell_id("speed", arm["label"], f"b{batch}") not in done for arm in arms):
                for process in range(suite.processes):
                    work.append((f"speed, batch {batch}", partial(self._speed_part, batch, process, arms, prepared)))
                work.append((f"speed, batch {batch}", partial(self._speed_cells, batch, arms)))
            for arm in arms if suite.memory else ():
                cell = cell_id("memory", arm["label"], f"b{batch}")
                if cell not in done:
                    memory = partial(self._memory, cell, arm, batch, prepared)
                    work.append((f"memory, batch {batch}: {arm['label']}", memory))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task(suite.name, total=len(work))
            for what, job in work:
                progress.update(bar, description=what)
                job()
                progress.advance(bar)
        return len(self.store.ids("failed"))

    def call(self, function: str, *arguments: Any) -> Any:
        """Run `harness.runner.<function>` in a fresh process and return its result.

        Raises:
            BadInput: the function did.
            CellFailed: it raised anything else, or its process died.
        """
        receive, send = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(send, function, arguments), daemon=True)
        process.start()
        send.close()
        try:
            kind, value = receive.recv()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            cause = f"signal {-code}, out of memory?" if code < 0 else f"exit status {code}"
            raise CellFailed(f"the worker process died ({cause})") from None
        finally:
            receive.close()
        process.join()
        if kind == "bad":
            raise BadInput(value)
        if kind == "failed":
            raise CellFailed(value)
        return value

    def _quality(self, cell: str, arm: Json, index: int, arms: Sequence[Json], prepared: Json) -> None:
        baseline, entry = arms[0], self.suite.tasks[index]
        reference = None
        if arm["label"] != baseline["label"]:
            reference = self._baseline_tokens(cell_id("quality", baseline["label"], entry.name))
            if reference is None:
                fields = {"task": entry.name}
                self._write(
                    "quality", cell, arm, fields, f"the baseline {baseline['label']!r} has no outputs to compare with"
                )
                return
        self._measure(
            "quality", cell, arm, {"task": entry.name}, self.suite, arm, index, prepared, self.data, reference
        )

    def _baseline_tokens(self, cell: str) -> dict[str, list[int]] | None:
        found = next((c for c in self.store.cells("quality") if c["id"] == cell and c["status"] == "ok"), None)
        return None if found is None else {e["id"]: e["token_ids"] for e in found["examples"]}

    def _memory(self, cell: str, arm: Json, batch: int, prepared: Json) -> None:
        fields = {"batch_size": batch}
        self._measure("memory", cell, arm, fields, self.suite, arm, batch, prepared, self.data, function="peak_memory")

    def _measure(self, kind: str, cell: str, arm: Json, fields: Json, *arguments: Any, function: str = "") -> None:
        try:
            found = self.call(function or kind, *arguments)
        except (BadInput, CellFailed) as error:
            self._write(kind, cell, arm, fields, str(error))
        else:
            self._write(kind, cell, arm, {**fields, **found})

    def _part(self, batch: int, process: int) -> str:
        return f"{PARTS}/speed-b{batch}-p{process}.json"

    def _speed_part(self, batch: int, process: int, arms: Sequence[Json], prepared: Json) -> None:
        """One process's share of the speed cells of one batch size, kept until all shares are there."""
        path = self.store.path / self._part(batch, process)
        if _read(path) is not None:
            return
        try:
            found = self.call("speed", self.suite, arms, batch, process, prepared, self.data)
        except (BadInput, CellFailed) as error:
            found = {arm["label"]: {"status": "failed", "error": str(error), "runs": []} for arm in arms}
        self.store.write_text(self._part(batch, process), json.dumps(found))

    def _speed_cells(self, batch: int, arms: Sequence[Json]) -> None:
        """Join the processes' shares to one cell per arm. A share that failed fails the cell but keeps the others' runs."""
        shares = [_read(self.store.path / self._part(batch, p)) or {} for p in range(self.suite.processes)]
        for arm in arms:
            label = arm["label"]
            mine = [share[label] for share in shares if label in share]
            good = [share for share in mine if share["status"] == "ok"]
            error = next((share["error"] for share in mine if share["status"] != "ok"), None)
            fields: Json = {"batch_size": batch, **(good[0] if good else {})}
            fields["runs"] = [run for share in good for run in share["runs"]]
            for flag in ("finite", "repeatable"):
                if good:
                    fields[flag] = all(share[flag] for share in good)
            if good and error is None and not fields["finite"]:
                error = "logits are not finite"
            self._write("speed", cell_id("speed", label, f"b{batch}"), arm, fields, error)
        for process in range(self.suite.processes):
            (self.store.path / self._part(batch, process)).unlink(missing_ok=True)

    def _write(self, kind: str, cell: str, arm: Json, fields: Json, error: str | None = None) -> None:
        conditions = fields.get("conditions") or {}
        self.store.write_cell(
            {
                **fields,
                "id": cell,
                "kind": kind,
                "status": "ok" if error is None else "failed",
                "error": error,
                "arm": arm,
                "conditions": conditions,
                "conditions_hash": environment.conditions_hash(conditions),
            }
        )
        if error is not None:
            print(f"{cell}: failed: {error}", file=sys.stderr)


def cell_id(kind: str, label: str, what: str) -> str:
    """File name of a cell: the label in plain characters, with a digest of it when that loses anything."""
    slug = re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")[:80]
    digest = environment.conditions_hash({"label": label})[:6]
    task = re.sub(r"[^A-Za-z0-9.]+", "_", what)
    return f"{kind}--{slug or 'arm'}-{digest}--{task}"


def _work(connection: Connection, function: str, arguments: tuple[Any, ...]) -> None:
    """Body of a worker process: run one function of `harness.runner`, send what it returned or why it failed."""
    try:
        from harness import runner

        result = ("ok", getattr(runner, function)(*arguments))
    except BadInput as error:
        result = ("bad", str(error))
    except Exception as error:  # whatever a measurement raises becomes a failed cell, never a lost run
        result = ("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    with contextlib.suppress(BrokenPipeError):  # the run was stopped and waits for nobody
        connection.send(result)
    connection.close()


def _read(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
