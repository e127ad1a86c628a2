"""Loading: what is accepted, and one clear line for everything else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from harness.errors import BadInput
from harness.models.load import load_model
from tests.conftest import FAMILY_SETTINGS, TINY, tiny


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
    assert names <= {".json", ".safetensors", ".csv", ".svg"}, "weights, the card and the loss curve"
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
    assert "known: float32" in refused(checkpoint, dtype="int3")
    assert "is not a device" in refused(checkpoint, device="gpu-please")
    if not torch.cuda.is_available():
        assert "is not there" in refused(checkpoint, device="cuda")


THETA = {"rope_theta": 10000.0}
REFUSED = [
    ("llama", {"rope_parameters": {**THETA, "rope_type": "spiral"}}, "rope_parameters.rope_type='spiral'"),
    (
        "llama",
        {"rope_parameters": {**THETA, "rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor=0.5",
    ),
    ("qwen2", {"rope_parameters": {**THETA, "rope_type": "default", "mrope_section": [2, 2]}}, "mrope_section"),
    ("llama", {"hidden_act": "wiggle"}, "hidden_act='wiggle'"),
    ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    ("mistral", {"sliding_window": 0}, "sliding_window=0"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "layer_types has 'chunked_attention'"),
    (
        "qwen3",
        {"layer_types": ["sliding_attention"] * 2},
        "layer_types has 'sliding_attention'.*without sliding_window",
    ),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
    (
        "gemma3_text",
        {"rope_parameters": {"full_attention": {**THETA, "rope_type": "spiral"}}},
        "rope_parameters.full_attention.rope_type='spiral'",
    ),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gpt_neox", {"rope_parameters": {**THETA, "rope_type": "proportional"}}, "rope_type='proportional'"),
    ("opt", {"activation_function": "prelu"}, "activation_function='prelu'"),
    ("llama", {"per_layer_config": {"0": {"intermediate_size": 32}}}, "per_layer_config is set"),
    ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact=True"),
]


@pytest.mark.parametrize(("family", "change", "message"), REFUSED)
def test_what_is_not_computed_exactly_is_refused(
    family: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Before any weight is read: the folder has none worth reading."""
    settings = {**FAMILY_SETTINGS[family], "num_hidden_layers": 2, "model_type": family, **change}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"")
    line = refused(tmp_path)
    assert re.search(message, line) and "support" in line


@pytest.mark.parametrize(
    ("family", "rope"),
    [("phi3", {"rope_type": "linear", "factor": 2.0}), ("llama", {"rope_type": "llama3", "factor": 2.0})],
)
def test_what_transformers_does_not_take_is_one_line_too(family: str, rope: dict[str, object], tmp_path: Path) -> None:
    settings = {**FAMILY_SETTINGS[family], "num_hidden_layers": 2, "model_type": family, "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "cannot be loaded" in refused(tmp_path) and "rope_parameters" in refused(tmp_path)


def test_a_mistral_with_layer_types_is_refused() -> None:
    """Read from a file such a config is another family to transformers, a model object is computed without them."""
    with pytest.raises(BadInput, match="layer_types=.* of mistral is not supported"):
        tiny("mistral", depth=2, layer_types=["full_attention", "sliding_attention"])


def test_a_model_without_output_matrix_is_refused() -> None:
    from transformers import LlamaConfig, LlamaModel

    model = LlamaModel(LlamaConfig(**FAMILY_SETTINGS["llama"], num_hidden_layers=1))
    assert "no output matrix" in refused(model)


def test_mixtures_of_experts_are_refused(tmp_path: Path) -> None:
    for family in ("mixtral", "qwen2_moe", "qwen3_moe"):
        (tmp_path / "config.json").write_text(json.dumps({**TINY, "model_type": family}))
        (tmp_path / "model.safetensors").write_bytes(b"")
        assert f"{family!r} is not supported; supported are bloom, gemma2" in refused(tmp_path)
