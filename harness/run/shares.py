"""What single processes measured of the arms at one batch size, kept until all are there, and the cell joined from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from harness.errors import EXCEPTION, BadInput, CellFailed, failure
from harness.machine.record import Machine
from harness.records.differences import differences, said
from harness.records.fields import SpeedFields, SpeedShare

PARTS = "parts"
"""Folder inside a run for what single processes measured, until a cell is complete."""
_OF_A_SHARE = ("status", "error", "failure", "machine")


def join(batch: int, shares: Sequence[SpeedShare]) -> tuple[SpeedFields, list[Machine], CellFailed | None]:
    """One speed cell from what single processes measured of an arm: its fields, the machine's records, why it failed if it did."""
    good = [share for share in shares if share["status"] == "ok"]
    first = {key: value for key, value in good[0].items() if key not in _OF_A_SHARE} if good else {}
    fields = cast(SpeedFields, {"batch_size": batch, **first})
    fields["runs"] = [run for share in good for run in share.get("runs") or ()]
    fields["breakdown"] = [parts for share in good for parts in share.get("breakdown") or ()]
    fields["reading"] = [one for share in good for one in share.get("reading") or ()]
    fields["fewer_blocks"] = [one for share in good for one in share.get("fewer_blocks") or ()]
    machine = [share["machine"] for share in good if share.get("machine")]
    if good:
        alike = len({share["tokens_hash"] for share in good}) == 1
        fields["finite"] = all(share["finite"] for share in good)
        fields["repeatable"] = alike and all(share["repeatable"] for share in good)
    bad = [share for share in shares if share["status"] != "ok"]
    if bad or not shares:
        told = bad[0].get("failure") if bad else None
        error = str(bad[0].get("error")) if bad else "no process measured it"
        return fields, machine, CellFailed(error, *((told["reason"], told["log_tail"]) if told else (EXCEPTION,)))
    for share in good[1:]:
        if apart := differences(good[0]["conditions"], share["conditions"]):
            return fields, machine, CellFailed(f"its processes ran under different conditions: {said(apart)}")
    return fields, machine, None if fields["finite"] else CellFailed("logits are not finite")


def lost(error: BadInput | CellFailed) -> SpeedShare:
    """A process's share of an arm that could not be measured."""
    return {"status": "failed", "error": str(error), "failure": failure(error), "runs": []}


def read(path: Path) -> dict[str, SpeedShare] | None:
    """What one process measured of each arm; None where that is not known yet."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
