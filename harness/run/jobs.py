"""The jobs of a suite and the cells they make.

Per task, the quality of each arm; per batch size and process, the speed of all arms interleaved; per batch size and arm, the
memory and the energy of that arm alone. Every job runs in a process of its own (`harness.run.executors`), and the bar is drawn
between jobs only: nothing prints while one measures. A job that fails, or whose process dies, becomes a failed cell and the rest
goes on; an arm that ran out of memory is not tried at larger batch sizes. Jobs that do not need each other run side by side where
the executor has several slots.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Literal, cast

from harness.errors import NOT_TRIED, TIMED_OUT, BadInput, CellFailed, failure
from harness.machine import turn
from harness.measure.alone import energy_per_token, peak_memory
from harness.measure.prepare import prepare
from harness.measure.quality import quality
from harness.measure.speed import speed
from harness.records.arms import Arm, Prepared
from harness.records.cells import Kind, cell_id
from harness.records.fields import EnergyFields, Idle, QualityFields, SpeedFields, SpeedShare
from harness.records.folder import RunStore
from harness.records.run_record import RunRecord
from harness.run import remeasure, shares
from harness.run.estimate import Pace, Work, scored, work
from harness.run.executors.base import Arguments, Executor, Outcome, T
from harness.run.executors.local import LocalExecutor
from harness.run.progress import Progress
from harness.run.remeasure import Again
from harness.run.writing import Cells, Fields
from harness.suites.suite import BASELINE, Suite
from harness.tasks.base import Example

Job = tuple[str, Callable[[], None], Work]

Alone = Literal["memory", "energy"]
_TIMED: frozenset[Callable[..., object]] = frozenset((prepare, speed, energy_per_token))
"""What must be alone on the device: beside another run their times would be of both."""


def _seconds_of(job: Callable[[], None]) -> float:
    """Do a job; what it took."""
    began = time.monotonic()
    job()
    return time.monotonic() - began


class Jobs:
    """The jobs of one suite and the cells they make."""

    def __init__(
        self, suite: Suite, store: RunStore, data: Path | None, workers: Executor, progress: Progress | None = None
    ) -> None:
        self.suite, self.store, self.data, self.workers = suite, store, data, workers
        self.progress = progress or Progress()
        self.cells = Cells(suite, store, self.progress)
        self.again: Mapping[int, Again] = {}
        """What is measured again although it is there, by batch size."""
        self._idles: list[Idle] = []
        """What energy cells read of idle devices that the run was not prepared on."""
        self._outputs: dict[str, dict[str, list[int]]] = {}
        """Token ids of a full model's scored outputs by cell and example: every other arm is compared with them."""

    def run(self, record: RunRecord, prompts: list[Example] | None = None) -> None:
        """Measure every cell that is not there yet; without `prompts` (of `prepare`) every process reads them for itself."""
        arms = record["arms"]
        now = (record.get("resumed") or [record["environment"]])[-1]
        self.cells.code = {"commit": now.get("commit"), "dirty": now.get("dirty")}
        prepared: Prepared = {
            "arms": arms,
            "expected_tokens": record["expected_tokens"],
            "kernels": record["kernels"],
            "energy_idles": [quiet] if (quiet := record.get("energy_idle")) else [],
        }
        if prompts is not None:
            prepared["prompts"] = prompts
        (self.store.path / shares.PARTS).mkdir(exist_ok=True)
        done = self.store.ids("ok")
        for problem in self.store.problems:
            print(f"{problem}; it is measured again", file=sys.stderr)
        stages = [*self._quality_stages(arms, prepared, done), *self._batch_stages(arms, prepared, done, record)]
        pace = Pace.measured(record.get("contests") or [])
        self.progress.plan([work for stage in stages for _, _, work in stage], pace, self.workers.slots)
        for stage in stages:
            self._stage(stage)

    def _quality_stages(self, arms: Sequence[Arm], prepared: Prepared, done: set[str]) -> list[list[Job]]:
        """The baseline's outputs, then those of the full model on other checkpoints, then the methods' own."""
        stages: list[list[Job]] = [[], [], []]
        for index, entry in enumerate(self.suite.tasks):
            for place, arm in enumerate(arms):
                cell = cell_id("quality", arm["label"], entry.name)
                if cell not in done:
                    job = partial(self._quality, cell, arm, index, arms, prepared)
                    stage = 0 if place == 0 else 1 if arm["method"] == BASELINE else 2
                    stages[stage].append((f"{entry.name}: {arm['label']}", job, scored(self.suite, entry)))
        return stages

    def _batch_stages(
        self, arms: Sequence[Arm], prepared: Prepared, done: set[str], record: RunRecord
    ) -> list[list[Job]]:
        """Per batch size, small ones first: the processes' shares of the speed, the cells joined from them, memory, energy."""
        stages: list[list[Job]] = []
        suite = self.suite
        # Passes of their own, each arm alone in a fresh process; energy only where a counter can be read.
        wanted: dict[Alone, bool] = {
            "memory": suite.memory,
            "energy": suite.energy and bool(record.get("energy_counters")),
        }
        for batch in sorted(suite.batch_sizes):
            shares: list[Job] = []
            join: list[Job] = []
            alone: list[Job] = []
            # Shares that are still there were joined to some cells only: joined again, all cells hold the same repeats.
            begun = any((self.store.path / self._part(batch, p)).exists() for p in range(suite.processes))
            timed, first = arms, 0
            missing = begun or any(cell_id("speed", arm["label"], f"b{batch}") not in done for arm in arms)
            if not missing and (again := self.again.get(batch)) is not None:
                timed = [arm for place, arm in enumerate(arms) if place == 0 or arm["label"] in again.reasons]
                first = again.first
            if missing or batch in self.again:
                processes = range(first, first + suite.processes)
                for process in processes:
                    what = f"speed, batch {batch}, process {process - first + 1} of {suite.processes}"
                    share = work(suite, "speed", batch, len(timed))
                    shares.append((what, partial(self._speed_part, batch, process, timed, prepared), share))
                joining = partial(self._speed_cells, batch, timed, processes)
                join.append((f"speed, batch {batch}", joining, work(suite, "join", batch, len(timed))))
            for kind in (kind for kind, asked in wanted.items() if asked):
                for arm in arms:
                    cell = cell_id(kind, arm["label"], f"b{batch}")
                    if cell not in done:
                        job = partial(self._alone, kind, cell, arm, batch, prepared)
                        alone.append((f"{kind}, batch {batch}: {arm['label']}", job, work(suite, kind, batch, 1)))
            stages += [shares, join, alone]
        return stages

    def _stage(self, jobs: Sequence[Job]) -> None:
        """Run jobs that do not need each other, as many at once as there are slots."""
        if self.workers.slots == 1 or len(jobs) < 2:
            for what, job, share in jobs:
                self.progress.begin(what, share)
                job()
                self.progress.end(share)
            return
        with ThreadPoolExecutor(self.workers.slots) as pool:
            running = {pool.submit(_seconds_of, job): (what, share) for what, job, share in jobs}
            self.progress.begin(jobs[0][0])
            try:
                for finished in as_completed(running):
                    self.progress.end(running[finished][1], finished.result())
                    self.progress.begin(running[finished][0])
            except BaseException:
                self.workers.close()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def call(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> Outcome[T]:
        """What a function of a worker returned in a fresh process; see `harness.run.executors.base.Executor`."""
        here = isinstance(self.workers, LocalExecutor)
        with turn.taken(self.suite.device, timed=function in _TIMED) if here else contextlib.nullcontext():
            return self.workers.call(function, *arguments, limit_s=self.suite.time_limit_s)

    def _quality(self, cell: str, arm: Arm, index: int, arms: Sequence[Arm], prepared: Prepared) -> None:
        baseline, entry = arms[0], self.suite.tasks[index]
        fields: QualityFields = {"task": entry.name}
        if (error := self.cells.hopeless(arm, 0)) is not None:
            self.cells.fail("quality", cell, arm, fields, error)
            return
        reference = lossless = None
        if arm["label"] != baseline["label"]:
            reference = self._tokens(baseline, entry.name)
            if reference is None:
                why = f"the baseline {baseline['label']!r} has no outputs to compare with"
                self.cells.fail("quality", cell, arm, fields, CellFailed(why, NOT_TRIED))
                return
        if arm["exact"] and arm["method"] != BASELINE:
            same = [a for a in arms if a["method"] == BASELINE and a["checkpoint"] == arm["checkpoint"]]
            lossless = self._tokens(same[0], entry.name) if same else None
        given = self.suite, arm, index, prepared, self.data, reference, lossless
        self._measure("quality", cell, arm, fields, quality, *given)

    def _tokens(self, arm: Arm, task: str) -> dict[str, list[int]] | None:
        """Token ids of a full model's scored outputs (of lm-eval tasks the answers) by example; None where there are none."""
        cell = cell_id("quality", arm["label"], task)
        if cell not in self._outputs:
            found = self.store.cell(cell)
            if found is None or found["kind"] != "quality" or found["status"] != "ok":
                return None
            self._outputs[cell] = {e["id"]: e.get("token_ids") or e.get("answer") or [] for e in found["examples"]}
        return self._outputs[cell]

    def _alone(self, kind: Alone, cell: str, arm: Arm, batch: int, prepared: Prepared) -> None:
        fields: SpeedFields = {"batch_size": batch}
        if (error := self.cells.hopeless(arm, batch)) is not None:
            self.cells.fail(kind, cell, arm, fields, error)
            return
        # The idle machine is read once per device: what a cell read of another one than the run was prepared on serves the next.
        known: Prepared = {**prepared, "energy_idles": [*(prepared.get("energy_idles") or []), *self._idles]}
        given = self.suite, arm, batch, known, self.data
        if kind == "memory":
            self._measure(kind, cell, arm, fields, peak_memory, *given)
        else:
            self._measure(kind, cell, arm, fields, energy_per_token, *given)

    def _measure(
        self,
        kind: Kind,
        cell: str,
        arm: Arm,
        fields: Fields,
        function: Callable[[*Arguments], Fields],
        *arguments: *Arguments,
    ) -> None:
        try:
            found = self.call(function, *arguments)
        except (BadInput, CellFailed) as error:
            self.cells.fail(kind, cell, arm, fields, error)
        else:
            if (quiet := cast(EnergyFields, found.value).get("idle")) and kind == "energy":
                self._idles.append(quiet)
            self.cells.write(kind, cell, arm, cast(Fields, {**fields, **found.value}), [found.machine])

    def _part(self, batch: int, process: int) -> str:
        return f"{shares.PARTS}/speed-b{batch}-p{process}.json"

    def _speed_part(self, batch: int, process: int, arms: Sequence[Arm], prepared: Prepared) -> None:
        """One process's share of the speed cells of one batch size, kept until all shares are there.

        When the process dies in the middle of one arm, the share is measured again without that arm.
        """
        path = self.store.path / self._part(batch, process)
        if shares.read(path) is not None:
            return
        found: dict[str, SpeedShare] = {}
        alive = []
        for arm in arms:
            if (error := self.cells.hopeless(arm, batch)) is not None:
                found[arm["label"]] = shares.lost(error)
            else:
                alive.append(arm)
        while alive:
            try:
                outcome = self.call(speed, self.suite, alive, batch, process, prepared, self.data)
            except (BadInput, CellFailed) as error:
                guilty = [arm for arm in alive if isinstance(error, CellFailed) and arm["label"] == error.arm]
                if failure(error)["reason"] == TIMED_OUT:
                    self.cells.hung(guilty, f"speed, batch {batch}")
                for arm in guilty or alive:
                    found[arm["label"]] = shares.lost(error)
                alive = [arm for arm in alive if arm not in guilty] if guilty else []
            else:
                found |= outcome.value
                for label in outcome.value:
                    found[label]["machine"] = outcome.machine
                break
        self.store.write_text(self._part(batch, process), json.dumps(found))

    def _speed_cells(self, batch: int, arms: Sequence[Arm], processes: Sequence[int]) -> None:
        """Join the processes' shares to one cell per arm. A share that failed fails the cell but keeps the others' runs.

        Where a cell is measured again it keeps what it held; one that fails now stays as it was.
        """
        paths = [self.store.path / self._part(batch, process) for process in processes]
        found = [shares.read(path) or {} for path in paths]
        for arm in arms:
            fields, machine, error = shares.join(batch, [each[arm["label"]] for each in found if arm["label"] in each])
            cell = cell_id("speed", arm["label"], f"b{batch}")
            before = self.store.cell(cell) if processes[0] else None  # the first processes have nothing before them
            if before is not None and before["kind"] == "speed":
                if error is not None:
                    self.progress.say(f"{cell}: measured again in vain, it stays as it was: {error}")
                    continue
                fields = remeasure.joined(before, fields, self.again[batch].reasons.get(arm["label"]))
                machine = [*(before.get("machine") or []), *machine]
            if error is None:
                self.cells.write("speed", cell, arm, fields, machine)
            else:
                self.cells.fail("speed", cell, arm, fields, error, machine)
        for path in paths:
            path.unlink(missing_ok=True)
