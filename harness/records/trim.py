"""A copy of a run that may be published: without a data set's texts and the machine's paths, with the hashes of what was left out.

Cells are compressed: raw values are many, and a repository keeps them for ever.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import read_bytes, write_atomically
from harness.records.folder import LOCK

LIST = "LEFT_OUT.txt"
_OWNED = ("prompt", "references", "token_ids")
_REASON = "prompts, references and token ids taken out: data of the task, or to be had again from the outputs"
# They quote the texts; whoever wants them renders the copy.
_RENDERED = {"report.html", "report.pdf", "figures", "tables"}
_LEFT = {"samples.jsonl": "written from the quality cells when the run ended"}


def trim(run: Path, out: Path, *, cells: bool = True) -> Path:
    """Copy a run folder to `out`, its reports aside.

    Args:
        run: a finished run.
        out: must not exist.
        cells: False leaves the cells out as well, for a run of which the tables are enough.

    Raises:
        BadInput: `run` is no run, or `out` is there already.
    """
    if not (run / "run.json").is_file():
        raise BadInput(f"{run}: no run.json; name a folder that `depthbench run` wrote")
    if out.exists():
        raise BadInput(f"out: {out} is there already; name another folder")
    # What an earlier copy left out is still missing from a copy of it.
    lines = [(run / LIST).read_text()] if (run / LIST).exists() else []
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run)
        named = name.with_suffix("") if name.suffix == ".gz" else name
        if name.parts[0] in _RENDERED or str(name) in (LIST, LOCK):
            continue
        text = read_bytes(path)
        kept: bytes | None = text
        reason = ""
        if str(name) in _LEFT:
            kept, reason = None, _LEFT[str(name)]
        elif name.parts[0] == "cells" and not cells:
            kept, reason = None, "the tables are enough here"
        elif named.parts[0] == "cells" and named.suffix == ".json":
            kept = _without_texts(text)
            reason = _REASON if kept != text else ""
        elif str(name) == "run.json":
            kept = _without_places(text)
            reason = "of whole paths in the command the last part is left" if kept != text else ""
        if kept is not None:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if named.parts[0] == "cells" and named.suffix == ".json":
                # Without a time of its own: the same cell is the same file.
                target.with_name(f"{named.name}.gz").write_bytes(gzip.compress(kept, mtime=0))
            else:
                target.write_bytes(kept)
        if reason:
            digest = hashlib.sha256(text).hexdigest()
            lines.append(f"{named}  as measured: {len(text)} bytes  sha256 {digest}  ({reason})\n")
    if lines:
        write_atomically(out / LIST, lines)
    return out


def _without_places(text: bytes) -> bytes:
    """A run's record without where its data and results lay on the machine: nobody else has these folders."""
    record = json.loads(text)
    command = record.get("command")
    if not isinstance(command, list):
        return text
    kept = [Path(word).name if isinstance(word, str) and word.startswith("/") else word for word in command]
    if kept == command:
        return text
    return json.dumps({**record, "command": kept}, ensure_ascii=False, separators=(",", ":")).encode()


def _without_texts(text: bytes) -> bytes:
    """A cell without the prompts and references of its examples."""
    cell = json.loads(text)
    examples = cell.get("examples") if isinstance(cell, dict) else None
    if not isinstance(examples, list):
        return text
    kept = [_without(example) for example in examples]
    if kept == examples:
        return text
    cell["examples"] = kept
    return json.dumps(cell, ensure_ascii=False, separators=(",", ":")).encode()


def _without(example: dict[str, Any]) -> dict[str, Any]:
    """An example without what its data set wrote: of a multiple-choice task that is its choices, and so the answer's text."""
    kept = {key: value for key, value in example.items() if key not in _OWNED}
    if isinstance(scored := example.get("lm_eval"), dict):
        kept["lm_eval"] = {key: value for key, value in scored.items() if key != "continuations"}
        if not scored.get("generated"):
            kept.pop("output", None)
    return kept
