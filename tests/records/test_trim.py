"""A published copy of a run holds no texts of a data set and says what is missing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.files import read_bytes
from harness.records.trim import LIST, trim


def run_folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "cells").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "report.html").write_text("secret")
    (run / "samples.jsonl").write_text('{"prompt": "secret"}\n')
    (run / ".lock").write_text("123\n")
    example = {"id": "a", "prompt": "secret", "references": ["secret too"], "text": "said"}
    (run / "cells" / "quality.json").write_text(json.dumps({"kind": "quality", "examples": [example]}))
    (run / "cells" / "speed.json").write_text('{"kind": "speed",  "raw": [1]}')
    return run


def test_texts_go_and_hashes_stay(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    out = trim(run, tmp_path / "out")
    assert not any(b"secret" in read_bytes(path) for path in out.rglob("*.*") if path.is_file())
    assert json.loads(read_bytes(out / "cells" / "quality.json.gz"))["examples"] == [{"id": "a", "text": "said"}]
    assert read_bytes(out / "cells" / "speed.json.gz") == (run / "cells" / "speed.json").read_bytes()
    left = (out / LIST).read_text()
    for name in ("samples.jsonl", "cells/quality.json"):
        assert name in left and hashlib.sha256((run / name).read_bytes()).hexdigest() in left
    assert "speed.json" not in left
    assert not (out / ".lock").exists() and ".lock" not in left


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    names = ("cells/quality.json.gz", "cells/speed.json.gz", LIST)
    first, second = (trim(run, tmp_path / name) for name in ("one", "two"))
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    again = trim(first, tmp_path / "three")
    assert (again / LIST).read_text() == (first / LIST).read_text()
    assert (again / names[0]).read_bytes() == (first / names[0]).read_bytes()


def test_choices_of_lm_eval_tasks_go_with_the_answer_that_quotes_them(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    scored = {"id": "a", "output": "secret", "lm_eval": {"doc_id": 0, "continuations": ["secret"], "generated": False}}
    written = {"id": "b", "output": "said", "lm_eval": {"doc_id": 1, "continuations": [], "generated": True}}
    (run / "cells" / "quality.json").write_text(json.dumps({"kind": "quality", "examples": [scored, written]}))
    kept = json.loads(read_bytes(trim(run, tmp_path / "out") / "cells" / "quality.json.gz"))["examples"]
    assert kept == [
        {"id": "a", "lm_eval": {"doc_id": 0, "generated": False}},
        {"id": "b", "output": "said", "lm_eval": {"doc_id": 1, "generated": True}},
    ]


def test_where_things_lay_on_the_machine_goes(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    given = ["depthbench", "run", "quick", "--data", "/home/somebody/data", "--set", "seed=1", "--out", "results/quick"]
    (run / "run.json").write_text(json.dumps({"name": "r", "command": given}))
    out = trim(run, tmp_path / "out")
    said = ["depthbench", "run", "quick", "--data", "data", "--set", "seed=1", "--out", "results/quick"]
    assert json.loads((out / "run.json").read_text()) == {"name": "r", "command": said}
    assert "run.json" in (out / LIST).read_text()


def test_tables_only(tmp_path: Path) -> None:
    out = trim(run_folder(tmp_path), tmp_path / "out", cells=False)
    assert sorted(p.name for p in out.iterdir()) == [LIST, "run.json"]
    assert len((out / LIST).read_text().splitlines()) == 3


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run.json"):
        trim(tmp_path, tmp_path / "out")
    with pytest.raises(BadInput, match="is there already"):
        trim(run_folder(tmp_path), tmp_path)
