"""Data sets of lm-eval's tasks from local files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.tasks.lm_eval import data as lm_eval_data


def test_any_data_set_is_read_from_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "lm_eval" / "facts" / "easy"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(b'{"a": 3}\n'))
    (folder / "dev.csv").write_text('a\n"x\ny"\n')
    found = lm_eval_data.read(tmp_path, "nobody/facts", "easy")
    assert found == {"test": [{"a": 1}, {"a": 2}], "train": [{"a": 3}], "dev": [{"a": "x\ny"}]}
    with pytest.raises(
        BadInput, match=r"data set nobody/hard \(x\): no local file .* DIR/lm_eval/hard/x/<split>.jsonl"
    ):
        lm_eval_data.read(tmp_path, "nobody/hard", "x")
    (folder / "test.jsonl").write_text('{"a": 1}\n[2]\n')
    with pytest.raises(BadInput, match=r"test.jsonl, line 2: not an object"):
        lm_eval_data.read(tmp_path, "nobody/facts", "easy")
    (folder / "test.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(BadInput, match=r"test.jsonl, line 2: not JSON"):
        lm_eval_data.read(tmp_path, "nobody/facts", "easy")


def test_authors_files_become_what_the_hub_has(tmp_path: Path) -> None:
    root = tmp_path / "lm_eval"
    for folder in ("blimp", "lambada", "truthfulqa", "wikitext2"):
        (root / folder).mkdir(parents=True)
    (root / "blimp" / "adjunct_island.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n')
    (root / "lambada" / "lambada_test.jsonl").write_text('{"text": "a b"}\n')
    mc = {"question": "q", "mc1_targets": {"x": 1, "y": 0}, "mc2_targets": {"x": 1, "y": 0, "z": 1}}
    (root / "truthfulqa" / "mc_task_v1.json").write_text(json.dumps([mc]))
    (root / "wikitext2" / "wiki.test.raw").write_text(
        " \n = One = \n \n text \n \n = = Part = = \n more \n = Two = \n end \n"
    )
    assert lm_eval_data.read(tmp_path, "nyu-mll/blimp", "adjunct_island")["train"][0]["sentence_bad"] == "b"
    assert lm_eval_data.read(tmp_path, "EleutherAI/lambada_openai", "default")["test"] == [{"text": "a b"}]
    (row,) = lm_eval_data.read(tmp_path, "truthfulqa/truthful_qa", "multiple_choice")["validation"]
    assert row["mc2_targets"] == {"choices": ["x", "y", "z"], "labels": [1, 0, 1]}
    pages = lm_eval_data.read(tmp_path, "EleutherAI/wikitext_document_level", "wikitext-2-raw-v1")["test"]
    assert [page["page"].split("\n")[0].strip() for page in pages] == ["= One =", "= Two ="]
    assert "Part" in pages[0]["page"]
