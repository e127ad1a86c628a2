"""A run folder survives what happens to it: kills, full disks, broken files, other people's folders, other versions."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import files
from harness.errors import BadInput, CellFailed
from harness.records import readings, samples
from harness.records.folder import RunStore, cell_files
from harness.records.readings import Reading
from harness.records.run import load

ARM = {"label": "Full model", "method": "full", "checkpoint": "m/full", "params": {}}


def cell(cell_id: str = "speed-full-b1", **changes: object) -> dict:
    return {"id": cell_id, "kind": "speed", "status": "ok", "error": None, "arm": ARM, "batch_size": 1, **changes}


def run_folder(folder: Path, *cells: dict) -> RunStore:
    made = RunStore(folder)
    made.write_run({"name": "quick", "suite": {}, "arms": [ARM]})
    for each in cells or (cell(),):
        made.write_cell(each)
    return made


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_line(caught: pytest.ExceptionInfo) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_written_is_read_back(tmp_path):
    values = cell(output="Café \udc80 \u2028", step_s=[0.1, 1e-9], nested={"b": [1, None], "a": True})
    made = run_folder(tmp_path / "new" / "run", values)
    assert made.cells() == [{"schema_version": 1, **values}]
    assert made.read_run()["name"] == "quick"
    run = load(made.path)
    assert (run.record["schema_version"], run.cells, run.problems) == (1, made.cells(), ())


def test_key_order_is_kept(tmp_path):
    """The first metric of an example is the task's main one, so sorting keys would change verdicts."""
    made = run_folder(tmp_path, cell(stats={"rougeL": 1, "bleu": 2}))
    assert list(load(made.path).cells[0]["stats"]) == ["rougeL", "bleu"]


def test_resume_listing(tmp_path):
    """A resumed run must know what is done, what failed and what is missing, and replace rather than double."""
    made = run_folder(tmp_path, cell("a"), cell("b", status="failed", error="out of memory"), cell("m", kind="memory"))
    again = RunStore(tmp_path)
    assert again.ids() == {"a", "b", "m"}
    assert again.ids("ok") == {"a", "m"}
    assert again.cell("b") == again.cells()[1]
    assert again.cell("c") is None
    again.write_cell(cell("b"))
    assert again.ids("ok") == {"a", "b", "m"}
    assert [c["id"] for c in made.cells()] == ["a", "b", "m"]


KILLED = """
import os, signal, sys
from harness import files
from harness.records import folder as store
from harness.records import readings
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
s = store.RunStore(sys.argv[1])
s.write_cell({"id": sys.argv[2], "kind": "speed", "status": "ok", "arm": {"label": "x"}, "new": True})
"""


@pytest.mark.parametrize("cell_id", ["speed-full-b1", "another"])
def test_killed_between_temporary_file_and_rename(tmp_path, cell_id):
    """The old cell stays whole, a new one is simply missing, and the left-over is neither listed nor in the way."""
    run_folder(tmp_path)
    before = load(tmp_path).cells
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), cell_id], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list((tmp_path / "cells").glob(".*.tmp"))
    assert load(tmp_path).cells == before
    again = RunStore(tmp_path)
    assert (again.cell(cell_id) is not None) == (cell_id == "speed-full-b1")
    again.write_cell(cell(cell_id, new=True))
    assert not list((tmp_path / "cells").glob(".*.tmp"))
    assert next(c for c in again.cells() if c["id"] == cell_id)["new"] is True


def test_killed_before_run_json_can_be_started_again(tmp_path):
    RunStore(tmp_path)
    assert RunStore(tmp_path, resume=False).ids() == set()


@pytest.mark.parametrize(
    "damage", [b"", b'{"schema_version": 1, "id": "spe', b"\xff\x00", b"[1]", b'{"schema_version": 1}']
)
def test_broken_cell_is_missing_reported_and_kept_aside(tmp_path, damage):
    made = run_folder(tmp_path, cell("good"), cell("bad"))
    path = tmp_path / "cells" / "bad.json"
    path.write_bytes(damage)

    read = load(tmp_path)  # reading alone must not change the folder
    assert [c["id"] for c in read.cells] == ["good"]
    assert len(read.problems) == 1
    assert "bad.json" in read.problems[0]
    assert "\n" not in read.problems[0]
    assert path.read_bytes() == damage

    assert made.cell("bad") is None
    assert made.ids() == {"good"}
    assert len(made.problems) == 1
    assert "bad.json.broken" in made.problems[0]
    assert (tmp_path / "cells" / "bad.json.broken").read_bytes() == damage
    made.write_cell(cell("bad"))
    path.write_bytes(b"{")  # broken once more: the first broken file must not be overwritten
    made.cells()
    assert {p.name for p in (tmp_path / "cells").glob("*.broken")} == {"bad.json.broken", "bad.json.1.broken"}


def test_a_copied_cell_is_not_counted_twice(tmp_path):
    made = run_folder(tmp_path)
    path = tmp_path / "cells" / "speed-full-b1.json"
    (tmp_path / "cells" / "copy.json").write_bytes(path.read_bytes())
    assert len(load(tmp_path).cells) == 1
    assert made.ids() == {"speed-full-b1"}


@pytest.mark.parametrize("name", ["run.json", "cells/speed-full-b1.json"])
@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_unknown_schema_version_is_refused_and_left_alone(tmp_path, name, version):
    """A file of a newer version is not broken: renaming it, or reading it as if it were known, would both be wrong."""
    run_folder(tmp_path, cell(), cell("other"))
    path = tmp_path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    before = tree(tmp_path)
    with pytest.raises(BadInput, match="schema_version") as caught:
        RunStore(tmp_path).cells()
    assert path.name in one_line(caught)
    assert repr(version) in str(caught.value)
    if name == "run.json":
        with pytest.raises(BadInput, match="schema_version"):
            load(tmp_path)
    else:  # one foreign cell does not make the others unreadable
        read = load(tmp_path)
        assert [c["id"] for c in read.cells] == ["other"]
        assert len(read.problems) == 1 and "schema_version" in read.problems[0] and path.name in read.problems[0]
    assert tree(tmp_path) == before


def test_foreign_folder_is_refused_and_loses_nothing(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "summary.csv").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(BadInput, match="not empty") as caught:
        RunStore(tmp_path)
    assert "thesis.tex" in one_line(caught)
    assert tree(tmp_path) == before
    assert not (tmp_path / "cells").exists()


def test_foreign_run_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"scripts": {}}')
    with pytest.raises(BadInput, match="schema_version"):
        RunStore(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_ver')
    with pytest.raises(BadInput, match="cannot be read"):
        RunStore(tmp_path)
    assert tree(tmp_path) == {"run.json": b'{"schema_ver'}


def test_folder_with_a_run_needs_resume(tmp_path):
    run_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("a reader's own file does not make a run foreign")
    with pytest.raises(BadInput, match="--resume"):
        RunStore(tmp_path, resume=False)
    assert RunStore(tmp_path).ids() == {"speed-full-b1"}


def test_output_that_is_a_file_or_below_one(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInput, match="file") as caught:
            RunStore(path)
        one_line(caught)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_folder_is_found_out_at_once(tmp_path, monkeypatch, code):
    """Before the first measurement, not after it. Tests may run as root, so the error is made by hand."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(BadInput, match=r"read-only|no permission") as caught:
        RunStore(tmp_path / "run")
    assert str(tmp_path / "run") in one_line(caught)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_read_only_folder_for_real(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(BadInput, match="no permission"):
        RunStore(tmp_path / "locked" / "run")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_full_disk_keeps_what_was_written(tmp_path, monkeypatch, where):
    made = run_folder(tmp_path)
    before = tree(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, where, full)
    for write in (
        lambda: made.write_cell(cell("new")),
        lambda: made.write_cell(cell(changed=True)),
        lambda: made.write_run({"name": "other"}),
        lambda: made.write_text("summary.csv", "a,b\n"),
    ):
        with pytest.raises(BadInput, match="disk is full") as caught:
            write()
        one_line(caught)
    assert tree(tmp_path) == before  # no temporary file is left to fill the disk further


def test_no_number_that_is_none_in_disguise(tmp_path):
    """NaN is not JSON, and a reader would take it for a value; the message says which number it is."""
    made = run_folder(tmp_path)
    with pytest.raises(CellFailed, match=r"speed-full-b1: runs\.1\.ttft_s is not a finite number"):
        made.write_cell(cell(runs=[{"ttft_s": 1.0}, {"ttft_s": float("nan")}]))
    assert "runs" not in made.cells()[0]


@pytest.mark.parametrize(
    "changes",
    [{"id": "../run"}, {"id": ".hidden"}, {"kind": "sped"}, {"status": "done"}, {"arm": {}}, {"id": "a" * 200}],
)
def test_records_that_are_no_cells(tmp_path, changes):
    made = run_folder(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="write_cell"):
        made.write_cell({**cell(), **changes})
    assert tree(tmp_path) == before


def test_missing_run(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"no run\.json"):
        load(tmp_path)


def test_samples_are_rebuilt_from_the_cells(tmp_path, monkeypatch):
    def read(metric: str) -> Reading | None:
        return Reading(metric, "higher", lambda t: 100 * t[..., 0] / t[..., 1]) if metric != "unknown" else None

    monkeypatch.setattr(readings, "reading", read)
    other = {**ARM, "label": "CALM", "method": "calm"}

    def example(number: int, found: list[float]) -> dict:
        text = {"id": f"e{number}", "prompt": "name[Café]\n", "output": "Café", "references": ["Café."]}
        return {**text, "tokens": 3, "layers_per_token": 12.0, "stats": {"bleu": found, "unknown": [1.0]}}

    def scored(cell_id: str, arm: dict, *examples: dict, status: str = "ok") -> dict:
        return cell(cell_id, kind="quality", arm=arm, task="toy", examples=list(examples), status=status)

    made = run_folder(
        tmp_path,
        scored("a-calm", other, example(0, [1.0, 4.0]), example(1, [0.0, 0.0])),
        scored("z-full", ARM, example(0, [4.0, 4.0])),
        scored("failed", {**ARM, "label": "third"}, example(0, [4.0, 4.0]), status="failed"),
    )
    made.write_run({"arms": [ARM, other]})
    samples.write_samples(made, load(tmp_path))
    written = samples.write_samples(made, load(tmp_path)).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    assert [(line["label"], line["id"]) for line in lines] == [("Full model", "e0"), ("CALM", "e0"), ("CALM", "e1")]
    assert [line["scores"] for line in lines] == [
        {"bleu": 100.0, "unknown": None},
        {"bleu": 25.0, "unknown": None},
        {"bleu": None, "unknown": None},
    ]
    assert list(lines[0]) == [
        "task", "label", "method", "checkpoint", "id", "prompt", "output", "references", "scores", "tokens",
        "layers_per_token",
    ]  # fmt: skip


def test_numpy_floats_are_numbers(tmp_path):
    made = run_folder(tmp_path, cell(layers_per_token=np.float64(24)))
    assert made.cells()[0]["layers_per_token"] == 24.0


def test_the_torch_free_parts_stay_torch_free():
    """Reading a run on a laptop must not take torch's seconds and gigabyte."""
    code = (
        "import sys, harness.records.folder, harness.stats.intervals, harness.records.summary, harness.machine.environment; "
        "import harness.suites.suite, harness.records.gates, harness.records.compare, harness.machine.doctor; "
        "import harness.machine.monitor, harness.run.executors.local, harness.run.resume; "
        "from harness.suites.suite import read_suite; read_suite('quick'); harness.machine.environment.fingerprint(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_compressed_cells_are_read_as_well(tmp_path):
    """Published copies hold them so; a damaged one is a cell that is missing, with one line that says so."""
    made = run_folder(tmp_path)
    plain = load(made.path)
    paths = cell_files(made.path)
    for path in paths:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    read = load(made.path)
    assert (read.record, read.cells) == (plain.record, plain.cells)
    assert made.cells() == plain.cells and all(made.cell(one["id"]) == one for one in plain.cells)
    cut = cell_files(made.path)[0]
    cut.write_bytes(cut.read_bytes()[:-9])
    damaged = load(made.path)
    assert len(damaged.cells) == len(plain.cells) - 1
    assert len(damaged.problems) == 1 and cut.name in damaged.problems[0] and "\n" not in damaged.problems[0]
