"""Loading: what is accepted, and one clear line for everything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from harness.errors import BadInput
from harness.models import load_model


def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_a_folder_loads_in_each_dtype(checkpoint: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        decoder = load_model(checkpoint, dtype=dtype)
        assert str(decoder.dtype) == f"torch.{dtype}"
        assert decoder.tokenizer.padding_side == "left"
        assert decoder.eos_token_ids == (1,)


def test_weights_are_stored_as_half_precision_safetensors_only(checkpoint: Path) -> None:
    from safetensors import safe_open

    names = {path.suffix for path in checkpoint.rglob("*") if path.is_file()}
    assert names <= {".json", ".safetensors"}
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def refused(model: object, **options: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_model(model, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_names() -> None:
    assert "neither bundled" in refused("opt-e2e-minni")
    assert "neither bundled" in refused("./no/such/folder")


def test_missing_config(tmp_path: Path) -> None:
    assert "config.json" in refused(tmp_path)


def test_broken_config(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(checkpoint, tmp_path)
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in refused(folder)


def test_unsupported_architecture(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(checkpoint, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    assert "'mamba' is not supported; supported are" in refused(folder)
    assert "is not supported" in refused(torch.nn.Linear(2, 2))


def test_truncated_weights(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "damaged or truncated" in refused(folder)


def test_missing_weights(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy(checkpoint, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.decoder.layers.1.fc1.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 of its weights, model.decoder.layers.1.fc1.weight first" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refused(folder)


def test_pickle_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(checkpoint, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickle" in refused(folder)


def test_dtype_and_device(checkpoint: Path) -> None:
    assert "give one of float32" in refused(checkpoint, dtype="int3")
    assert "is not a device" in refused(checkpoint, device="gpu-please")
    if not torch.cuda.is_available():
        assert "is not there" in refused(checkpoint, device="cuda")
