"""A believable run folder without any model: the records a run leaves, written as JSON from a seeded generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.reports.synthetic_cells import Synthetic, memory, quality, speed

FULL = Synthetic("Full model", "full", "schedule", exact=True)
ARMS: tuple[Synthetic, ...] = (
    FULL,
    *(
        Synthetic(
            f"SkipDecode {x}x",
            "skipdecode",
            "schedule",
            {"speedup": x, "warmup": 1},
            "opt-e2e-mini/skipdecode-700",
            "trained",
            high=high,
            low=low,
            damage=damage,
        )
        for x, high, low, damage in ((2, 16, 8, 0.002), (3, 10, 6, 0.003), (5, 6, 4, 0.02))
    ),
    Synthetic(
        "SkipDecode 2x, schedule only",
        "skipdecode",
        "schedule",
        {"speedup": 2, "warmup": 1},
        trained="schedule only",
        high=16,
        low=8,
        damage=0.5,
    ),
    Synthetic(
        "CALM softmax 0.9",
        "calm",
        "exit",
        {"confidence": "softmax", "threshold": 0.9},
        "opt-e2e-mini/calm-700",
        "trained",
        high=11,
        low=8,
        damage=0.006,
        exit_tests=True,
    ),
    Synthetic(
        "Fixed exit 12",
        "fixed_exit",
        "schedule",
        {"layers": 12},
        "opt-e2e-mini/calm-700",
        "trained",
        high=12,
        low=12,
        damage=0.06,
    ),
    Synthetic(
        "Random skip 12",
        "random_skip",
        "schedule",
        {"layers": 12},
        trained="schedule only",
        high=12,
        low=12,
        damage=0.7,
    ),
    Synthetic(
        "CALM softmax 0.5",
        "calm",
        "exit",
        {"confidence": "softmax", "threshold": 0.5},
        "opt-e2e-mini/calm-700",
        "trained",
        high=7,
        low=5,
        damage=0.05,
        exit_tests=True,
    ),
    Synthetic(
        "CALM state 0.95",
        "calm",
        "exit",
        {"confidence": "state", "threshold": 0.95},
        "opt-e2e-mini/calm-700",
        "trained",
        high=14,
        low=12,
        damage=0.004,
        exit_tests=True,
    ),
    Synthetic(
        "CALM classifier 0.8",
        "calm",
        "exit",
        {"confidence": "classifier", "threshold": 0.8},
        "opt-e2e-mini/calm-700",
        "trained",
        high=9,
        low=8,
        damage=0.004,
        exit_tests=True,
    ),
    Synthetic(
        "SkipDecode 4x",
        "skipdecode",
        "schedule",
        {"speedup": 4, "warmup": 1},
        "opt-e2e-mini/skipdecode-700",
        "trained",
        high=7,
        low=5,
        damage=0.01,
    ),
    Synthetic(
        "Unified skipping 2x",
        "unified_skip",
        "schedule",
        {"speedup": 2},
        trained="trained",
        high=12,
        low=12,
        damage=0.02,
    ),
    Synthetic("D3 power law", "d3", "schedule", {"alpha": 0.9}, trained="schedule only", high=20, low=15, damage=0.2),
    Synthetic("ShortGPT 18", "shortgpt", "schedule", {"layers": 18}, high=18, low=18, damage=0.15),
    Synthetic("LayerSkip self-speculation", "layerskip", "draft", {"exit": 8, "draft": 6}, exact=True, high=14, low=14),
    *(
        Synthetic(
            f"FFN-SkipLLM {x}%",
            "ffn_skip",
            "gate",
            {"share": x},
            high=24 - x // 5,
            low=23 - x // 5,
            damage=x / 800,
            feed_only=True,
            tuned={"file": "ffn.json", "kind": "profile", "cost": {"forward_passes": 1, "seconds": 19.2}},
        )
        for x in (5, 15, 25, 35)
    ),
)


def write_run(
    folder: Path,
    arms: Sequence[Synthetic] = ARMS[:8],
    batch_sizes: Sequence[int] = (1, 4, 16),
    tasks: Sequence[str] = ("restaurants",),
    *,
    examples: int = 60,
    new_tokens: int = 48,
    processes: int = 2,
    repeats: int = 5,
    dtype: str = "float32",
    kinds: Sequence[str] = ("speed", "memory", "quality"),
    name: str = "quick",
) -> Path:
    """Write the run folder `folder` (made if missing) with one cell per arm, kind and batch size or task."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    records = [arm_record(arm) for arm in arms]
    run = {
        "schema_version": 1,
        "name": name,
        "suite": {
            "name": name,
            "model": "opt-e2e-mini",
            "methods": [{"name": r["spec"]} for r in records],
            "batch_sizes": list(batch_sizes),
            "tasks": [{"name": task} for task in tasks],
            "prompt_tokens": None,
            "new_tokens": new_tokens,
            "dtype": dtype,
            "device": "cpu",
            "processes": processes,
            "repeats": repeats,
            "seed": 0,
        },
        "arms": records,
        "environment": {
            "commit": "3f2c9d1e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d",
            "dirty": False,
            "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
            "os": "Linux 6.8.0 x86_64",
            "cpu": {
                "model": "Example Xeon 8481C @ 2.70GHz",
                "cores": 2,
                "threads": 2,
                "usable_cores": 2,
                "governor": None,
            },
            "memory_bytes": 16 * 1024**3,
            "load_average": [0.21, 0.18, 0.11],
            "threads": {"OMP_NUM_THREADS": "2"},
            "gpu": None,
            "date": "2026-11-24T08:00:00+00:00",
        },
        "started": "2026-11-24T08:00:00+00:00",
        "finished": "2026-11-24T08:04:12+00:00",
        "command": ["depthbench", "run", name, "--out", "results/quick"],
    }
    _dump(folder / "run.json", run)
    base = {
        "model": "opt-e2e-mini",
        "dtype": dtype,
        "device": "cpu",
        "threads": 2,
        "attention": "sdpa",
        "padding": "left",
        "seed": 0,
    }
    for index, (arm, record) in enumerate(zip(arms, records, strict=True)):
        for batch in batch_sizes:
            timing = {
                **base,
                "batch_size": batch,
                "new_tokens": new_tokens,
                "prompt_tokens": 46,
                "eos": "ignored",
                "cache": "preallocated",
                "prompts_hash": "a1b2c3d4e5f6",
            }
            if "speed" in kinds:
                write_cell(
                    folder,
                    "speed",
                    record,
                    timing,
                    f"b{batch}",
                    speed(arm, index, batch, new_tokens, processes, repeats),
                )
            if "memory" in kinds:
                write_cell(folder, "memory", record, timing, f"b{batch}", memory(arm, batch))
        for task in tasks:
            if "quality" in kinds:
                scored = {
                    **base,
                    "task": task,
                    "split": "test",
                    "batch_size": 8,
                    "max_new_tokens": 64,
                    "eos": "natural end",
                }
                write_cell(folder, "quality", record, scored, task, quality(arm, index, task, examples))
    return folder


def arm_record(arm: Synthetic) -> dict[str, Any]:
    """The arm as run.json and every cell hold it."""
    given = ", ".join(f"{k}={v}" for k, v in arm.params.items())
    return {
        "label": arm.label,
        "method": arm.method,
        "params": dict(arm.params),
        "spec": f"{arm.method}({given})" if given else arm.method,
        "checkpoint": arm.checkpoint,
        "family": arm.family,
        "exact": arm.exact,
        "trained": arm.trained,
        "paper": "",
        **({"tuned": arm.tuned} if arm.tuned else {}),
    }


def write_cell(
    folder: Path, kind: str, arm: dict[str, Any], conditions: dict[str, Any], tail: str, body: dict[str, Any]
) -> Path:
    """Write one cell; `body` may override status and error."""
    slug = "".join(c if c.isalnum() else "-" for c in arm["label"].lower())[:40]
    cell_id = f"{kind}-{slug}-{tail.replace(':', '-')}"
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:12]
    cell = {
        "schema_version": 1,
        "id": cell_id,
        "kind": kind,
        "status": "ok",
        "error": None,
        "arm": arm,
        "conditions": conditions,
        "conditions_hash": digest,
        **body,
    }
    return _dump(folder / "cells" / f"{cell_id}.json", cell)


def edit_cells(folder: Path, pattern: str, **changes: Any) -> int:
    """Overwrite keys of the cells whose file name matches, take out those that are None; returns how many there were."""
    files = sorted((folder / "cells").glob(pattern))
    for file in files:
        cell = json.loads(file.read_text()) | changes
        _dump(file, {key: value for key, value in cell.items() if key not in changes or value is not None})
    return len(files)


def _dump(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
