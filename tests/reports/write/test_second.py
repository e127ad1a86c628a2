"""The process that does half of the work of a large report changes nothing in it, whatever becomes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reports.write import second
from reports.write.report import write_report

DIES_AT_ONCE = "raise SystemExit(3)"
DIES_AFTER_DRAWING = "from reports import second; second._files = lambda *a: exit(3); second.serve()"
DIES_AFTER_ROWS = "from reports import second; second._drawn = lambda *a: exit(3); second.serve()"
SAW_OTHER_CELLS = (
    "from reports import second; second._seen = lambda run: []; rows = second._rows; "
    "second._rows = lambda f: [(seen, {i: [] for i in r}) for seen, r in rows(f)]; second.serve()"
)
READ_NOTHING = "from reports import second; second._rows = lambda folders: []; second.serve()"
DIES_UNREAD = "import os; os.close(0); raise SystemExit(3)"
BROKEN = (DIES_AT_ONCE, DIES_AFTER_ROWS, DIES_AFTER_DRAWING, DIES_UNREAD, SAW_OTHER_CELLS, READ_NOTHING)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def alone(small_run: Path, tmp_path: Path) -> dict[str, bytes]:
    write_report([small_run], tmp_path / "alone")
    return contents(tmp_path / "alone")


@pytest.mark.parametrize(
    "serve",
    [second._SERVE, *BROKEN],
)
def test_the_report_is_the_same(
    small_run: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: str
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor: no second process is started")
    asked: list[str] = []

    def popen(command: list[str], **options: object) -> object:
        asked.append(command[-1])
        return started(command, **options)

    started = second.subprocess.Popen
    monkeypatch.setattr(second.subprocess, "Popen", popen)
    monkeypatch.setattr(second, "CELLS", 1)
    monkeypatch.setattr(second, "_SERVE", serve)
    write_report([small_run], tmp_path / "two")
    assert serve in asked
    made = contents(tmp_path / "two")
    assert set(made) == set(alone)
    assert [name for name, content in alone.items() if made[name] != content] == []
