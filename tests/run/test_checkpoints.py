"""A suite runs on weights of the same names from elsewhere."""

from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.run.checkpoints import taken_from
from harness.suites.suite import load_suite

SUITE = """
model: opt-e2e-mini
methods: [full, skipdecode(speedup=2), {name: calm, checkpoint: opt-e2e-mini/calm-700}]
batch_sizes: [1]
tasks: [restaurants]
"""


def test_checkpoints_of_a_folder_stand_in_place_of_those_of_the_same_name(tmp_path: Path) -> None:
    """What is not there stays; a folder that holds none is a mistake, not the bundled weights measured under another name."""
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    there = tmp_path / "again" / "opt-e2e-mini" / "calm-700"
    with pytest.raises(BadInput, match="holds none of the suite's checkpoints"):
        taken_from(load_suite(path), tmp_path / "again")
    there.mkdir(parents=True)
    (there / "delta.json").write_text("{}")
    suite = taken_from(load_suite(path), tmp_path / "again")
    assert [suite.checkpoint(entry) for entry in suite.methods] == ["opt-e2e-mini", "opt-e2e-mini", str(there)]
    assert [entry.title for entry in suite.methods] == [entry.title for entry in load_suite(path).methods]
