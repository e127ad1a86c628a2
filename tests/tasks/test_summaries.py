"""CNN/DailyMail and TL;DR: prompt form, files, and prompts that are too long."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from harness import tasks
from harness.errors import BadInput
from harness.tasks.base import Example
from harness.tasks.prompts import fit

DATA = Path(__file__).resolve().parents[2] / "data"


class Words:
    """A tokenizer that takes words and line feeds for tokens, and two for a word that follows a line feed."""

    def __call__(self, texts: Any) -> Any:
        one = isinstance(texts, str)
        ids = [self._ids(text) for text in ([texts] if one else texts)]
        return type("Encoded", (), {"input_ids": ids[0] if one else ids})

    def _ids(self, text: str) -> list[int]:
        return [0] * (len(text.split()) + text.count("\n"))


def write_csv(path: Path, header: tuple[str, ...], *rows: tuple[str, ...]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def test_articles_stand_between_instruction_and_cue(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "test.csv",
        ("article", "highlights", "id"),
        ("(CNN)A storm.\nIt passed . ", "Storm passes .\nNo harm .", "a1"),
    )
    (example,) = tasks.create("cnn_dm", tmp_path).examples("test")
    assert example.prompt == "Summarize the following article:\n\n(CNN)A storm.\nIt passed .\n\nSummary:"
    assert example.references == ("Storm passes . No harm .",)
    assert example.cut is not None
    assert example.prompt[slice(*example.cut)] == "(CNN)A storm.\nIt passed ."


@pytest.mark.parametrize("post", ["TITLE: Late\n\nPOST: I was late.", "TITLE: Late\n\nPOST: I was late.\n\nTL;DR:"])
def test_posts_end_with_one_cue(tmp_path: Path, post: str) -> None:
    (tmp_path / "tldr").mkdir()
    lines = [json.dumps({"prompt": post, "completion": " Was late.\u2028 "}), ""]
    (tmp_path / "tldr" / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (example,) = tasks.create("tldr", tmp_path).examples("test")
    assert example.prompt == "TITLE: Late\n\nPOST: I was late.\n\nTL;DR:"
    assert example.references == ("Was late.",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test.jsonl", "", "no rows"),
        ("test.jsonl", "{", "line 1: not JSON"),
        ("test.jsonl", '{"prompt": "a"}\n', "line 1: no text 'completion'"),
        ("test.jsonl", '{"prompt": "a", "completion": 3}\n', "line 1: no text 'completion'"),
        ("test.jsonl", '{"prompt": "a", "completion": " "}\n', "line 1: completion is empty"),
        ("test.csv", "prompt,label\na,b\n", "line 1: no column 'completion'"),
    ],
)
def test_malformed_files_are_refused_with_their_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as caught:
        tasks.create("tldr", tmp_path).examples("test")
    assert said in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_a_missing_file_names_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"no validation file in .*put validation.jsonl there \(columns prompt,completion\)"
    ):
        tasks.create("tldr", tmp_path).examples("validation")


def test_long_prompts_lose_words_of_the_middle_only() -> None:
    body = " ".join(f"w{i}" for i in range(50))
    example = Example("x-0", f"Read:\n\n{body}\n\nSummary:", ("s",), cut=(7, 7 + len(body)))
    (short,), count = fit([example], Words(), 20, "x")
    assert count == 1
    assert short.prompt.startswith("Read:\n\nw0 w1 ") and short.prompt.endswith("\n\nSummary:")
    assert len(Words()(short.prompt).input_ids) == 20
    assert short.cut is not None and short.prompt[slice(*short.cut)] == " ".join(f"w{i}" for i in range(14))
    # What fits stays as it is, to the letter, and shortening twice changes nothing.
    assert fit([example], Words(), 56, "x") == ([example], 0)
    assert fit([example], Words(), None, "x") == ([example], 0)
    assert fit([short], Words(), 20, "x") == ([short], 0)


def test_a_prompt_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(BadInput, match=r"max_prompt_tokens: 2 is too few .*nothing may be cut"):
        fit([Example("x-0", "one two three\n", ("s",))], Words(), 2, "x")
    with pytest.raises(BadInput, match="not enough may be cut"):
        fit([Example("x-0", "one two three four", ("s",), cut=(0, 3))], Words(), 2, "x")


def test_metrics_are_chosen_by_name_and_order() -> None:
    task = tasks.create("cnn_dm")
    assert [metric.name for metric in task.chosen_metrics(None)] == ["rougeL", "rouge1", "rouge2", "bleu"]
    assert [metric.name for metric in task.chosen_metrics(["bertscore", "bleu"])] == ["bertscore", "bleu"]
    with pytest.raises(BadInput, match="task cnn_dm has no metric 'rouge'; did you mean 'rougeL'"):
        task.chosen_metrics(["rouge"])


def test_the_local_slice_when_it_is_there() -> None:
    if not (DATA / "cnn_dm" / "test_500.csv").is_file():
        pytest.skip("the CNN/DailyMail slice is not here (looked in data/cnn_dm)")
    examples = tasks.create("cnn_dm", DATA).examples("test")
    assert len(examples) == 500
    fitted, count = fit(examples, Words(), 400, "cnn_dm")
    assert 250 < count < 500  # half of the articles have more than 500 words
    assert all(e.prompt.endswith("\n\nSummary:") and len(e.prompt.split()) <= 400 for e in fitted)
