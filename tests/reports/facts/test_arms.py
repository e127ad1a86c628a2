"""What a report knows of an arm is read from the run's record of it."""

from __future__ import annotations

import json
from pathlib import Path

from harness.records.run import load
from reports.facts.arms import arms_of
from tests.reports.synthetic import ARMS, write_run


def test_a_full_model_of_fewer_blocks_is_known_by_the_blocks_of_the_runs_model(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ARMS[:2], (1,), examples=4, new_tokens=4)
    record = json.loads((folder / "run.json").read_text())
    record["arms"].append({**record["arms"][0], "label": "6 blocks", "of_blocks": 24})
    (folder / "run.json").write_text(json.dumps(record))
    arms = {arm.label: arm for arm in arms_of(load(folder))}
    assert [arms[name].shallower for name in ("Full model", ARMS[1].label, "6 blocks")] == [False, False, True]
    assert arms["Full model"].baseline and not arms["6 blocks"].baseline
