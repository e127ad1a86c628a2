"""Going on with a run: only the same suite on the same machine, and only one process at a time. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.records.arms import Arm
from harness.records.differences import differences
from harness.records.folder import LOCK, RunStore
from harness.records.run_record import RunRecord
from harness.suites.suite import Suite


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        BadInput: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on this system: nothing to hold it with
        yield
        return
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            raise BadInput(
                f"output folder {folder}: another run is writing to it{f' (process {who})' if who else ''}; "
                "wait for it, or name another folder"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def go_on(store: RunStore, record: RunRecord, suite: Suite, *, here: bool) -> RunRecord:
    """The record to run with: a new one, or that of the run being resumed if it is the same one.

    Args:
        store: the run folder.
        record: what run.json would say of a new run.
        suite: what is run.
        here: cells are measured on this machine, so it must be the one that measured the others.

    Raises:
        BadInput: the folder holds a run of another suite, or one measured elsewhere; the first difference is named.
    """
    if not (store.path / "run.json").exists():
        return record
    before = store.read_run()
    now: RunRecord = json.loads(json.dumps(record))
    _same_code(store.path, before.get("arms") or [], now["arms"])
    pairs = [
        ("suite", _measures(before), suite.measures()),
        ("arms", before.get("arms"), _recorded(before.get("arms"), now["arms"])),
        ("expected_tokens", before.get("expected_tokens"), now["expected_tokens"]),
    ]
    if here and store.ids("ok"):
        pairs.append(("environment", _machine(before["environment"]), _machine(now["environment"])))
    for key, there, ours in pairs:
        for found in differences({key: there}, {key: ours})[:1]:
            raise BadInput(
                f"output folder {store.path}: holds a run with another {key.replace('_', ' ')}: "
                f"{found.name} is {_short(found.ours)} there and {_short(found.theirs)} now; "
                "name another folder, or repeat the command that began it"
            )
    begun, commit = before["environment"].get("commit"), now["environment"].get("commit")
    if begun != commit:
        print(
            f"{store.path}: begun at commit {str(begun)[:10]}, the code is now at {str(commit)[:10]}; "
            "what is measured already is kept, what is missing is measured with the code of now, and a gate says so",
            file=sys.stderr,
        )
    resumed = [*before.get("resumed", []), record["environment"]]
    return {**before, "suite": record["suite"], "published": record["published"], "resumed": resumed}


def _same_code(folder: Path, there: Sequence[Arm], now: Sequence[Arm]) -> None:
    """BadInput where the file of a method was edited since the run began: cells of two methods would stand under one name."""
    begun = {arm["label"]: arm["code"] for arm in there if "code" in arm}
    for arm in now:
        code, old = arm.get("code"), begun.get(arm["label"])
        if code is not None and old is not None and code["sha256"] != old["sha256"]:
            raise BadInput(
                f"output folder {folder}: {code['file']} was edited since the run began (sha256 {old['sha256'][:12]} there, "
                f"{code['sha256'][:12]} now), so {arm['label']} is another method; its text then is {folder / old['kept']}: "
                "put it back, or name another folder"
            )


def _measures(run: RunRecord) -> Mapping[str, Any] | None:
    """What of a stored suite changes a measurement, defaults filled in as they are now."""
    try:
        return Suite.model_validate(run["suite"]).measures()
    except (KeyError, ValueError):
        return None


def _machine(environment: Mapping[str, Any]) -> dict[str, str | None]:
    """What of an environment must be the same for numbers to stand in one table."""
    versions = environment.get("versions") or {}
    return {
        "cpu": (environment.get("cpu") or {}).get("model"),
        "gpu": ", ".join(gpu.get("name") or "unknown" for gpu in environment.get("gpu") or []) or None,
        "torch": versions.get("torch"),
        "transformers": versions.get("transformers"),
    }


def _recorded(there: Sequence[Arm] | None, now: Sequence[Arm]) -> list[dict[str, Any]]:
    """The arms of now without the keys that the stored arms do not have: those were not recorded then."""
    known = {key for arm in there for key in arm} if there else set(now[0])
    return [{key: value for key, value in arm.items() if key in known} for arm in now]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
