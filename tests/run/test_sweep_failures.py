"""What a sweep does when things go wrong, on an executor that answers at once: nothing is lost, doubled or kept silent."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import errors
from harness.cli import main as cli
from harness.errors import BadInput, CellFailed
from harness.machine import environment
from harness.records.run import load
from harness.run import resume as resuming
from harness.run import shares, sweep
from harness.run.executors import local
from tests.fakes import FakeExecutor, suite

CELLS = 3 * (1 + 3 + 3)


def run(out: Path, fake: FakeExecutor, resume: bool = False, **changes: Any) -> int:
    return sweep.run_suite(suite(**changes), out, resume=resume, workers=fake).failed


def cells(out: Path) -> dict[tuple[str, str, Any], dict[str, Any]]:
    found = {}
    for cell in load(out).cells:
        key = cell["kind"], cell["arm"]["label"], cell.get("task") or cell["batch_size"]
        assert key not in found, f"{key} is there twice"
        found[key] = cell
    return found


def test_all_cells_once_and_small_batches_first(tmp_path: Path) -> None:
    fake = FakeExecutor()
    assert run(tmp_path, fake) == 0
    assert len(cells(tmp_path)) == CELLS
    assert fake.batches("full") == [1, 1, 2, 2, 4, 4] and fake.closed
    assert not (tmp_path / shares.PARTS).exists()
    assert not any(gate.stops for gate in load(tmp_path).gates)


@pytest.mark.parametrize("slots", [1, 3])
def test_an_arm_that_kills_its_worker_fails_alone(
    tmp_path: Path, slots: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defect 5: a failure is recorded as such with its reason and log, and the share is measured again without the arm."""

    def dies(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "speed" and arguments[2] == 2 and any(a["label"] == "Skip" for a in arguments[1]):
            raise CellFailed("the worker process died (signal 11)", errors.KILLED, ["last line"], "Skip")

    assert run(tmp_path, FakeExecutor(dies, slots)) == 1
    found = cells(tmp_path)
    assert len(found) == CELLS
    bad = [key for key, cell in found.items() if cell["status"] == "failed"]
    assert bad == [("speed", "Skip", 2)]
    assert found[bad[0]]["failure"] == {"reason": "killed", "log_tail": ["last line"]} and found[bad[0]]["runs"] == []
    assert len(found["speed", "full", 2]["runs"]) == len(found["speed", "Draft", 2]["runs"]) == 10
    assert "signal 11" in capsys.readouterr().err
    fake = FakeExecutor()
    assert run(tmp_path, fake, resume=True) == 0
    assert {function for function, _ in fake.calls} == {"prepare", "speed"} and set(fake.batches("full")) == {2}
    assert len(found["speed", "Skip", 4]["runs"]) == 10


def test_larger_batches_of_an_arm_without_memory_are_not_tried(tmp_path: Path) -> None:
    def exhausted(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "speed" and arguments[2] >= 2 and any(a["label"] == "Skip" for a in arguments[1]):
            raise CellFailed("the worker was killed because memory ran out", errors.OUT_OF_MEMORY, [], "Skip")

    fake = FakeExecutor(exhausted)
    assert run(tmp_path, fake) == 3
    found = cells(tmp_path)
    assert fake.batches("Skip") == [1, 1, 2, 2], "tried once by each process at 2, never at 4"
    assert found["speed", "Skip", 2]["failure"]["reason"] == errors.OUT_OF_MEMORY
    for kind in ("speed", "memory"):
        cell = found[kind, "Skip", 4]
        assert cell["failure"]["reason"] == errors.NOT_TRIED
        assert cell["error"] == "not tried: it ran out of memory at batch size 2"
    assert found["memory", "Skip", 2]["status"] == "ok", "alone it may fit where it did not beside others"
    assert found["speed", "full", 4]["status"] == found["speed", "Draft", 4]["status"] == "ok"


def test_a_share_that_nobody_is_guilty_of_fails_all_its_arms(tmp_path: Path) -> None:
    def late(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "speed" and arguments[2] == 4 and arguments[3] == 1:
            raise CellFailed("hung past its time limit", errors.TIMED_OUT)

    assert run(tmp_path, FakeExecutor(late)) == 3
    for label in ("full", "Skip", "Draft"):
        cell = cells(tmp_path)["speed", label, 4]
        assert cell["failure"]["reason"] == errors.TIMED_OUT and len(cell["runs"]) == 5, (
            "the other process's runs are kept"
        )


def test_processes_under_different_conditions_are_not_joined(tmp_path: Path) -> None:
    class Uneven(FakeExecutor):
        def _share(self, arm: Any, batch: int, process: int, place: int) -> Any:
            share = super()._share(arm, batch, process, place)
            share["conditions"]["cpu"] = f"processor {process if batch == 1 else 0}"
            return share

    assert run(tmp_path, Uneven()) == 3
    assert "cpu 'processor 0' and 'processor 1'" in cells(tmp_path)["speed", "full", 1]["error"]


def test_a_number_that_is_none_fails_its_cell_alone(tmp_path: Path) -> None:
    class Endless(FakeExecutor):
        def _peak_memory(self, *arguments: Any) -> Any:
            return {**super()._peak_memory(*arguments), "peak_rss_bytes": float("nan")}

    assert run(tmp_path, Endless(), batch_sizes=[1]) == 3
    assert "peak_rss_bytes is not a finite number" in cells(tmp_path)["memory", "full", 1]["error"]


@pytest.mark.parametrize("at", range(0, 19, 2))
def test_interrupted_at_any_job_it_goes_on(tmp_path: Path, at: int) -> None:
    count = iter(range(1000))

    def stop(function: str, arguments: tuple[Any, ...]) -> None:
        if next(count) == at:
            raise KeyboardInterrupt

    fake = FakeExecutor(stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fake)
    before = {key: cell["status"] for key, cell in cells(tmp_path).items()} if (tmp_path / "run.json").exists() else {}
    again = FakeExecutor()
    assert run(tmp_path, again, resume=True) == 0
    assert len(cells(tmp_path)) == CELLS and set(before.values()) <= {"ok"}
    asked = [f for f, _ in again.calls if f in ("quality", "peak_memory")]
    assert len(asked) == 3 + 9 - sum(kind != "speed" for kind, _, _ in before), "only what was missing was measured"


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "command", lambda: interrupted)
    monkeypatch.setattr("sys.argv", ["depthbench", "run", "quick", "--out", "my run"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().endswith("go on with: depthbench run quick --out 'my run' --resume")


def test_cells_joined_in_part_are_joined_again(tmp_path: Path) -> None:
    """Killed between two cells of a batch: all of them must hold repeats of the same processes, or pairs would be false."""
    assert run(tmp_path, FakeExecutor()) == 0
    measured = {p: FakeExecutor()._speed(None, load(tmp_path).record["arms"], 2, p) for p in (0, 1)}  # type: ignore[arg-type]
    for share in measured.values():
        for label, found in share.items():
            share[label] = {**found, "machine": {}, "runs": [{**r, "ttft_s": 9.0} for r in found["runs"]]}
    (tmp_path / shares.PARTS).mkdir()
    for p, share in measured.items():
        (tmp_path / shares.PARTS / f"speed-b2-p{p}.json").write_text(json.dumps(share))
    assert run(tmp_path, FakeExecutor(), resume=True) == 0
    for label in ("full", "Skip", "Draft"):
        assert {r["ttft_s"] for r in cells(tmp_path)["speed", label, 2]["runs"]} == {9.0}


def test_two_runs_may_not_write_to_one_folder(tmp_path: Path) -> None:
    def second(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "quality":
            with pytest.raises(BadInput, match=f"another run is writing to it .process {os.getpid()}."):
                run(tmp_path, FakeExecutor(), resume=True)

    assert run(tmp_path, FakeExecutor(second)) == 0
    with resuming.lock(tmp_path):
        pass


def test_resume_refuses_another_machine_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, FakeExecutor()) == 0
    record = load(tmp_path).record
    workers = FakeExecutor()
    monkeypatch.setattr(local, "LocalExecutor", FakeExecutor)
    monkeypatch.setattr(environment, "cpu_model", lambda: "Another CPU")
    with pytest.raises(BadInput, match='environment.cpu is ".*" there and "Another CPU" now'):
        run(tmp_path, workers, resume=True)
    assert load(tmp_path).record == record


def test_resume_takes_other_limits_and_refuses_other_settings(tmp_path: Path) -> None:
    assert run(tmp_path, FakeExecutor()) == 0
    assert run(tmp_path, FakeExecutor(), resume=True, time_limit_s=5, limits={"dispersion": 9}) == 0
    assert load(tmp_path).record["suite"]["limits"]["dispersion"] == 9
    paper = {"key": "xia2024specbench", "differs": "all", "arms": {"full": "PLD"}}
    assert run(tmp_path, FakeExecutor(), resume=True, title="Another", published=[paper]) == 0
    (beside,) = load(tmp_path).record["published"]
    assert (
        beside["paper"]["title"].startswith("Unlocking Efficiency")
        and load(tmp_path).record["suite"]["title"] == "Another"
    )
    with pytest.raises(BadInput, match="suite.new_tokens is 4 there and 5 now"):
        run(tmp_path, FakeExecutor(), resume=True, new_tokens=5)


def test_a_run_begun_by_older_code_goes_on(tmp_path: Path) -> None:
    """Its run.json lacks what was recorded later, its arms some of their keys; what is measured stays as it is."""
    assert run(tmp_path, FakeExecutor()) == 0
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    for key in ("contests", "energy_counters", "resumed"):
        record.pop(key, None)
    for arm in record["arms"]:
        arm.pop("trained")
    path.write_text(json.dumps(record))
    missing = next((tmp_path / "cells").glob("memory--full*b4.json"))
    missing.unlink()
    kept = {file: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    assert run(tmp_path, FakeExecutor(), resume=True) == 0
    assert missing.exists() and all(file.read_bytes() == content for file, content in kept.items())


def test_cells_of_two_versions_of_the_code_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, FakeExecutor()) == 0
    next((tmp_path / "cells").glob("memory--full*b4.json")).unlink()
    monkeypatch.setattr(environment, "repository", lambda root: ("f" * 40, False))
    assert run(tmp_path, FakeExecutor(), resume=True) == 0
    gate = next(g for g in load(tmp_path).gates if g.name == "one version of the code")
    assert gate.stops and gate.value == 2 and "1 cells" in gate.detail


@pytest.mark.parametrize("damage", [b"", b'{"schema_version": 1, "id": "sp', b"\x00\xff"])
def test_a_broken_cell_is_measured_again_and_the_rest_is_not(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, FakeExecutor()) == 0
    path = next((tmp_path / "cells").glob("memory--full*b4.json"))
    path.write_bytes(damage)
    fake = FakeExecutor()
    capsys.readouterr()
    assert run(tmp_path, fake, resume=True) == 0
    assert [f for f, _ in fake.calls] == ["prepare", "peak_memory"] and len(cells(tmp_path)) == CELLS
    problem, cell = capsys.readouterr().err.strip().splitlines()
    assert path.name in problem and problem.endswith("it is measured again")
    assert cell.startswith("[1/1 ") and "memory, batch 4, full: " in cell


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 pages."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    """One clear error; what was written is whole; with space it goes on to the full set."""
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * 200_000)
    out = small_disk / "run"
    with pytest.raises(
        BadInput, match="the disk is full; what was written before is kept, free some space and resume"
    ) as caught:
        run(out, FakeExecutor())
    assert "\n" not in str(caught.value)
    kept = cells(out)
    assert kept and all(cell["status"] == "ok" for cell in kept.values()) and not load(out).problems
    filler.unlink()
    assert run(out, FakeExecutor(), resume=True) == 0
    assert len(cells(out)) == CELLS


def test_a_read_only_file_system_is_found_out_before_anything_is_measured(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    fake = FakeExecutor()
    with pytest.raises(BadInput, match="read-only; name a folder that can be written"):
        run(small_disk / "run", fake)
    assert not fake.calls


@pytest.mark.parametrize("at", range(1, 60, 4))
def test_a_disk_that_fills_up_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The same at every place, on a disk that is full from the n-th file on."""
    real, count = os.fsync, iter(range(10_000))

    def full(descriptor: int) -> None:
        if next(count) >= at and not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="the disk is full"):
        run(tmp_path / "run", FakeExecutor())
    monkeypatch.setattr(os, "fsync", real)
    assert run(tmp_path / "run", FakeExecutor(), resume=True) == 0
    assert len(cells(tmp_path / "run")) == CELLS


def test_failed_cells_name_their_reason_from_the_list(tmp_path: Path) -> None:
    def wrong(function: str, arguments: tuple[Any, ...]) -> None:
        if function == "quality":
            raise BadInput("task restaurants: has no such split")

    assert run(tmp_path, FakeExecutor(wrong)) == 3
    for cell in cells(tmp_path).values():
        if cell["kind"] == "quality":
            assert cell["failure"]["reason"] in errors.REASONS and re.match(r"(task|the baseline)", cell["error"])
