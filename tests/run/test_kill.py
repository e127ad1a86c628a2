"""Invariant 8: a run killed at any moment resumes and ends with the same set of cells, none lost, none double.

Real processes, real kills (SIGKILL) of the driver, of a worker, or of all of them, at random moments. The short version is part
of the suite; the one with 50 kills is marked slow.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from harness.records.folder import RunStore
from harness.records.run import load
from tests.run.test_sweep import write_suite

ROOT = Path(__file__).resolve().parents[2]


class Killer:
    """Starts a run again and again and kills it."""

    def __init__(self, suite: Path, folder: Path, seed: int, batches: int = 2) -> None:
        self.suite, self.folder, self.batches = suite, folder, batches
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.finished = 0

    @property
    def out(self) -> Path:
        return self.folder / f"run{self.finished}"

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "harness.cli", "run", str(self.suite), "--out", str(self.out), "--resume"]
        command += ["--set", f"batch_sizes={[1, 3][: self.batches]}"]
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def complete(self) -> float:
        """Let the run come to its end, check what it left, and go to a new folder; its seconds."""
        began = time.monotonic()
        process = self.start()
        # A worker that was killed is a failed cell, to be tried again; nothing else may go wrong.
        for _ in range(3):
            if process.wait(600) == 0:
                break
            process = self.start()
        assert process.returncode == 0, (self.folder / "log").read_text()[-3000:]
        check_folder(self.out, self.batches)
        self.finished += 1
        return time.monotonic() - began

    def kill(self, process: subprocess.Popen[bytes], after: float, whom: str) -> bool:
        """Kill after some seconds; False where the run had come to its end before."""
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            pass
        else:
            return False
        related = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if whom == "worker":
            # The process that measures is the youngest; where there is none yet, the driver's helper goes, as it may.
            related[-1].kill()
            self.kills[whom if len(related) > 1 else "driver"] += 1
            time.sleep(self.random.uniform(0, 1))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        elif whom == "driver":
            process.kill()
            self.kills[whom] += 1
            _, alive = psutil.wait_procs(related[1:], timeout=60)
            assert not alive, f"{alive} outlived the killed driver"
        else:
            os.killpg(process.pid, signal.SIGKILL)
            self.kills[whom] += 1
        process.wait()
        return True

    def rounds(self, count: int, longest_s: float) -> None:
        """So many kills at moments spread over the length of a whole run; a run that ends before is checked, a new one begun."""
        while sum(self.kills.values()) < count:
            whom = self.random.choice(("driver", "worker", "all"))
            process = self.start()
            if not self.kill(process, self.random.uniform(0.0, longest_s), whom):
                # Ended before the kill: done, or with cells of workers killed before, which the next start tries again.
                assert process.returncode in (0, 1), (self.folder / "log").read_text()[-3000:]
                if process.returncode == 0:
                    check_folder(self.out, self.batches)
                    self.finished += 1
                else:
                    assert RunStore(self.out).ids("failed"), (self.folder / "log").read_text()[-3000:]
                continue
            if (self.out / "run.json").exists():
                run = load(self.out)
                assert not run.problems, run.problems
        self.complete()


def check_folder(out: Path, batches: int) -> None:
    """Every cell once, whole and good; nothing left over."""
    run = load(out)
    assert run.record["finished"] and not run.problems
    found = [(c["kind"], c["arm"]["label"], c.get("task") or c["batch_size"]) for c in run.cells]
    assert len(found) == len(set(found)) == 3 * (2 * batches + 1) and all(c["status"] == "ok" for c in run.cells)
    for cell in run.cells:
        if cell["kind"] == "speed":
            assert [(r["process"], r["repeat"]) for r in cell["runs"] if "again" not in r] == [(0, r) for r in range(5)]
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len({(line["label"], line["id"]) for line in lines}) == len(lines) == 3 * 4
    left = [p.name for p in out.rglob("*") if p.name.endswith((".tmp", ".broken")) or p.name == "parts"]
    assert not left, left


def test_killed_at_random_moments_it_ends_with_every_cell_once(checkpoint: Path, tmp_path: Path) -> None:
    killer = Killer(write_suite(tmp_path, checkpoint), tmp_path, seed=1, batches=1)
    process = killer.start()
    # Not before something was measured: three kills must not all fall into the start.
    for target, whom in ((1, "driver"), (5, "all")):
        end = time.monotonic() + 120
        while process.poll() is None and len(list((killer.out / "cells").glob("[!.]*.json"))) < target:
            assert time.monotonic() < end
            time.sleep(0.01)
        killer.kill(process, killer.random.uniform(0, 0.3), whom)
        process = killer.start()
    process.kill()
    process.wait()
    killer.complete()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_kills(checkpoint: Path, tmp_path: Path) -> None:
    killer = Killer(write_suite(tmp_path, checkpoint), tmp_path, seed=int(os.environ.get("KILL_SEED", "0")))
    whole = killer.complete()
    began = time.monotonic()
    killer.rounds(50, whole)
    print(f"{dict(killer.kills)} kills over {killer.finished} finished runs in {time.monotonic() - began:.0f} s")
