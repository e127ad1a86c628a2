"""Named configurations without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import methods
from harness import load_model
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.models.load import FAMILIES
from harness.models.shapes import SHAPES
from harness.records.run import load
from harness.records.summary import summarise
from harness.run.sweep import run_suite
from harness.suites.suite import load_suite

SUITE = """
model: random:opt-e2e-mini
methods: [full, "skipdecode(speedup=5)"]
batch_sizes: [2]
prompt_tokens: 8
new_tokens: 4
processes: 1
repeats: 5
energy: false
threads: 1
"""


def test_every_shape_is_a_configuration_of_a_supported_family() -> None:
    for name, settings in SHAPES.items():
        assert settings["model_type"] in FAMILIES, name
        AutoConfig.for_model(**settings)


def test_weights_are_the_same_every_time_and_finite() -> None:
    one, two = load_model("random:opt-e2e-mini"), load_model("random:opt-e2e-mini")
    for (name, a), b in zip(one.source.named_parameters(), two.source.parameters(), strict=True):
        assert torch.equal(a, b) and bool(a.isfinite().all()), name
    assert one.tokenizer is None and one.depth == 24
    ids = torch.arange(2, 12).unsqueeze(0)
    out = generate(one, methods.create("full"), ids, max_new_tokens=4, stop_at_eos=False)
    want = one.source.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4, do_sample=False
    )
    assert torch.equal(out.tokens, want[:, 10:])


def test_unknown_shapes_are_refused_with_near_ones() -> None:
    with pytest.raises(BadInput, match=r"no shape named 'opt-125b'; did you mean 'opt-125m'"):
        load_model("random:opt-125b")


def test_a_suite_without_tasks_measures_speed_and_memory_and_leaves_quality_empty(tmp_path: Path) -> None:
    file = tmp_path / "shape.yaml"
    file.write_text(SUITE)
    assert run_suite(load_suite(file), tmp_path / "run").failed == 0
    rows = summarise(load(tmp_path / "run"))
    assert [row["label"] for row in rows] == ["full", "skipdecode(speedup=5)"]
    for row in rows:
        assert row["status"] == "ok" and row["tpot_ms"] > 0 and row["peak_memory_mb"] > 0
        assert not any("/" in key for key in row)
    assert rows[1]["layers_per_token"] < 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("prompt_tokens: null", "tasks: none is given"),
        ("tasks: [restaurants]", "a random: shape has no trained weights"),
    ],
)
def test_a_suite_needs_prompts_from_somewhere(tmp_path: Path, change: str, message: str) -> None:
    file = tmp_path / "shape.yaml"
    key = change.partition(":")[0]
    file.write_text("\n".join(line for line in SUITE.splitlines() if not line.startswith(key)) + f"\n{change}\n")
    with pytest.raises(BadInput, match=message):
        load_suite(file)
