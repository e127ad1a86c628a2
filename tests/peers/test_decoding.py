"""The comparison with other engines."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from harness.cli import main as cli
from harness.errors import BadInput
from harness.peers import decoding
from harness.peers.engines import PEERS
from tests.gguf_file import tiny_gguf

SMALL = {
    "model": "random:opt-e2e-mini", "batch_sizes": (2,), "prompt_tokens": 6, "new_tokens": 4, "repeats": 3, "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": ("depthbench", "vllm")}, "'vllm' is not known"),
        ({"engines": ("transformers",)}, "depthbench must be among them"),
        ({"batch_sizes": (0,)}, "batch"),
        ({"new_tokens": 1}, "new_tokens: 1 is out of range"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_settings_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        decoding.Settings(**{**SMALL, **change})  # type: ignore[arg-type]


def test_engines_take_turns_on_the_same_weights() -> None:
    record = decoding.measure(decoding.Settings(**SMALL, engines=("depthbench", "transformers", "transformers-static")))  # type: ignore[arg-type]
    assert record["problems"] == []
    rows = {row["engine"]: row for row in record["rows"]}
    assert list(rows) == ["depthbench", "transformers", "transformers-static"]
    for row in rows.values():
        assert row["equal_tokens"] == 1.0
        assert len(row["whole_s"]) == len(row["first_token_s"]) == 3
        assert row["decode_ratio"]["low"] <= row["decode_ratio"]["value"] <= row["decode_ratio"]["high"]
        assert row["weight_gb_per_s"] > 0
    assert rows["depthbench"]["decode_ratio"]["value"] == 1
    assert record["contests"][0]["rows"] == 2 and record["reading"][0]["memory_gb_per_s"] > 0
    profile = record["profile"]["2"]
    assert len(profile["parts_s"]["attention"]) == 3 and profile["kernels"]
    json.dumps(record)
    table = decoding.table(record)
    assert len(table) == 4 and {len(row) for row in table} == {len(table[0])}


def test_a_checkpoints_own_penalties_and_beams_are_no_work_of_any_engine(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "asks"))
    asked = {"repetition_penalty": 1.9, "num_beams": 3, "suppress_tokens": list(range(2, 200)), "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    found = {name: engine(str(folder), "float32", "cpu", 1) for name, engine in PEERS.items()}
    tokens = [engine.run(prompts, 12) for engine in found.values()]
    assert tokens[0] == tokens[1] == tokens[2]
    assert "num_beams=3, repetition_penalty=1.9" in found["depthbench"].said


def test_ctranslate2_gives_the_same_tokens() -> None:
    pytest.importorskip("ctranslate2", reason="the extra `peers` is not installed")
    record = decoding.measure(decoding.Settings(**SMALL, engines=("depthbench", "ctranslate2")))  # type: ignore[arg-type]
    assert record["problems"] == []
    assert record["rows"][1]["equal_tokens"] == 1.0


def test_llamacpp_gives_the_same_tokens(tmp_path: Path) -> None:
    """Its own conversion of a GGUF file to single precision, made here of a tiny random model."""
    pytest.importorskip("gguf", reason="the extra `llamacpp` is not installed")
    pytest.importorskip("llama_cpp", reason="the extra `llamacpp` is not installed")
    file = tiny_gguf(tmp_path / "tiny.gguf")
    record = decoding.measure(
        decoding.Settings(**{**SMALL, "model": str(file), "batch_sizes": (1, 3)}, engines=("depthbench", "llamacpp"))  # type: ignore[arg-type]
    )
    assert record["problems"] == []
    assert [row["equal_tokens"] for row in record["rows"]] == [1.0] * 4


def test_llamacpp_reads_gguf_files_alone() -> None:
    pytest.importorskip("llama_cpp", reason="the extra `llamacpp` is not installed")
    record = decoding.measure(decoding.Settings(**SMALL, engines=("depthbench", "llamacpp")))  # type: ignore[arg-type]
    assert record["problems"] == ["llamacpp: llamacpp: reads GGUF files alone; give --model path/to/file.gguf"]


def test_an_engine_that_cannot_run_the_model_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    command = [
        *("baseline", "--model", "random:opt-e2e-mini", "--dtype", "bfloat16", "--engines", "depthbench,ctranslate2"),
        *(
            "--batch",
            "1",
            "--new-tokens",
            "2",
            "--repeats",
            "1",
            "--prompt-tokens",
            "4",
            "--threads",
            "1",
            "--out",
            str(out),
        ),
    ]
    monkeypatch.setattr(sys, "argv", ["depthbench", *command])
    cli.main()
    said = capsys.readouterr().err
    assert "left out or fallen back: ctranslate2" in said
    assert "GB/s from memory" in said
    assert [row["engine"] for row in json.loads(out.read_text())["rows"]] == ["depthbench"]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "is there already" in capsys.readouterr().err
