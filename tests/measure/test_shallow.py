"""A model of fewer blocks beside the run's: an arm of `full`, counted against the run's model; everything else stays refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import BadInput
from harness.measure.prepare import prepare
from harness.records import believable
from harness.records.run import Run, load
from harness.run import plan
from harness.run.sweep import run_suite
from harness.suites.suite import Suite
from tests.fakes import InProcess


def shallower(checkpoint: Path, out: Path, **changes: Any) -> Path:
    """The checkpoint's first two blocks of four, as a model."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    layers = model.model.decoder.layers
    del layers[2:]
    model.config.num_hidden_layers = 2
    for key, value in changes.items():
        setattr(model.config, key, value)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(out)
    return out


def suite(checkpoint: Path, *arms: Any) -> Suite:
    return Suite.model_validate(
        {
            "name": "shallow",
            "model": str(checkpoint),
            "methods": ["full", {"name": "full", "label": "Again"}, *arms],
            "batch_sizes": [1],
            "tasks": [{"name": "restaurants", "limit": 3}],
            "new_tokens": 4,
            "processes": 1,
            "repeats": 2,
            "threads": 1,
            "max_new_tokens": 5,
            "memory": True,
            "energy": False,
        }  # fmt: skip
    )


@pytest.fixture(scope="module")
def shallow(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shallower(checkpoint, tmp_path_factory.mktemp("shallow") / "two")


@pytest.fixture(scope="module")
def run(checkpoint: Path, shallow: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "shallow"
    arms = ({"name": "full", "label": "Two", "checkpoint": str(shallow)}, {"name": "fixed_exit", "budget": 2})
    run_suite(suite(checkpoint, *arms), out, workers=InProcess())
    return load(out)


def test_its_work_is_that_of_a_fixed_exit_of_as_many_blocks(run: Run) -> None:
    for kind in (run.speed, run.quality):
        two, half, full = (
            next(c for c in kind if c["arm"]["label"] == label) for label in ("Two", "fixed_exit(budget=2)", "full")
        )
        assert two["status"] == "ok" and two["conditions_hash"] == full["conditions_hash"]
        for key in ("depth", "layers_per_token", "executed_share", "weight_bytes_per_token", "flops_per_token"):
            if key in half:
                assert two[key] == pytest.approx(half[key], rel=1e-9), key  # type: ignore[literal-required]
        if "predicted_step_s" in two:
            assert two["predicted_full_step_s"] == full["predicted_full_step_s"]
            assert two["predicted_step_s"] == pytest.approx(half["predicted_step_s"])
            assert believable.byte_limit(full, two) == pytest.approx(believable.byte_limit(full, half))
    assert len({c["conditions_hash"] for c in run.cells if c["kind"] == "memory"}) == 1
    rows = {row["label"]: row for row in run.frame().to_dict("records")}
    assert rows["Two"]["layer_ratio"] == pytest.approx(2) and rows["full"]["layer_ratio"] == pytest.approx(1)


def test_it_is_no_control_of_the_same_work(run: Run) -> None:
    assert run.full is not None and run.full["label"] == "full"
    assert [label for label, _ in believable.same_work(run, 1)] in ([], ["Again"])
    gate = next(gate for gate in run.gates if gate.name == "conditions identical across arms")
    assert gate.status == "passed", gate.detail
    alike = next(gate for gate in run.gates if gate.name == "blocks of the full model take alike")
    assert "Two" not in alike.detail


def test_its_plan_counts_its_own_blocks(checkpoint: Path, shallow: Path) -> None:
    arms = ({"name": "full", "label": "Two", "checkpoint": str(shallow)}, {"name": "fixed_exit", "budget": 2})
    found = {
        cell.label: cell.flops or 0 for cell in plan.plan(suite(checkpoint, *arms), None).cells if cell.kind == "speed"
    }
    assert found["Two"] < found["fixed_exit(budget=2)"] < found["full"], (
        "a fixed exit runs the prompt through all blocks"
    )


def test_what_is_more_than_fewer_blocks_stays_refused(checkpoint: Path, shallow: Path, tmp_path: Path) -> None:
    def refused(arm: dict[str, Any], said: str, model: Path = checkpoint) -> None:
        asked = suite(model, arm)
        arms = [
            {"label": e.title, "method": e.name, "spec": e.spec, "checkpoint": asked.checkpoint(e)}
            for e in asked.methods
        ]
        with pytest.raises(BadInput, match=said):
            prepare(asked, arms, None)

    other = {"name": "fixed_exit", "budget": 1, "checkpoint": str(shallow)}
    refused(
        other, "one suite compares weights of one shape; one of fewer blocks may stand beside them under full alone"
    )
    refused({"name": "full", "label": "Deep", "checkpoint": str(checkpoint)}, "has other sizes", shallow)
    changed = shallower(checkpoint, tmp_path / "changed", rope_scale=3)
    refused(
        {"name": "full", "label": "Other", "checkpoint": str(changed)},
        "has configuration.rope_scale 3, .* generate alike",
    )
