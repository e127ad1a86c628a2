"""The kept list of lm-eval's tasks says what lm-eval finds itself, and no longer than its files are as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from harness.tasks.lm_eval import index

TASK = "task: {name}\ntag: [seen, {name}_tag]\ndataset_path: json\noutput_type: generate_until\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPTHBENCH_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "tasks"
    (own / "inner").mkdir(parents=True)
    (own / "a.yaml").write_text(TASK.format(name="a") + "doc_to_text: !function utils.text\n")
    (own / "inner" / "b.yaml").write_text("include: ../a.yaml\ntask: b\n")
    (own / "inner" / "both.yaml").write_text("group: both\ntask: [a, b]\n")
    (own / "none.yaml").write_text("dataset_path: json\n")
    return own


def told(found: dict[str, object]) -> dict[str, tuple[object, ...]]:
    return {name: (e.name, e.kind, e.yaml_path, e.tags) for name, e in found.items()}  # type: ignore[attr-defined]


def test_it_says_what_lm_eval_finds_and_reads_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"a", "b", "both", "seen", "a_tag"} == set(index.entries(folder))
    read = TaskIndex.build
    monkeypatch.setattr(TaskIndex, "build", lambda *_: pytest.fail("read again"))
    again = index.entries(folder)
    monkeypatch.setattr(TaskIndex, "build", read)
    assert told(again) == told(read([folder]))


def test_a_changed_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    index.entries(folder)
    (folder / "inner" / "b.yaml").write_text("include: ../a.yaml\ntask: other\n")
    (folder / "c.yaml").write_text(TASK.format(name="c"))
    assert {"other", "c"} <= set(index.entries(folder)) and "b" not in index.entries(folder)
    for kept in (tmp_path / "cache" / "lm-eval").rglob("index.json"):
        kept.write_text("[")  # damaged
    assert "c" in index.entries(folder)


def test_without_a_cache_lm_eval_reads_its_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no-folder").write_text("")
    monkeypatch.setenv("DEPTHBENCH_CACHE", str(tmp_path / "no-folder"))
    assert told(index.entries(folder)) == told(TaskIndex.build([folder]))


def test_tasks_of_ones_own_come_on_top(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(folder / "manager.py"))
    more = folder.parent / "more"
    more.mkdir()
    (more / "a.yaml").write_text(TASK.format(name="a"))
    with index.quicker():
        own, both = TaskManager(), TaskManager(include_path=str(more))
        alone = TaskManager(include_path=str(more), include_defaults=False)
    assert own.task_index["a"].yaml_path == folder / "a.yaml" and own.all_groups == ["both"]
    assert both.task_index["a"].yaml_path == more / "a.yaml" and "b" in both.all_tasks
    assert alone.all_subtasks == ["a"]
