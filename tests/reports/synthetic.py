"""A believable run folder without any model: the records a run leaves, written as JSON from a seeded generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.tasks.base import Example
from harness.tasks.metrics import Bleu, RougeL, SlotErrorRate

DEPTH = 24
BLOCK_S, HEAD_S, EMBED_S, REST_S = 210e-6, 260e-6, 20e-6, 180e-6
BATCH_COST = {1: 1.0, 2: 1.1, 3: 1.2, 4: 1.25, 6: 1.4, 8: 1.6, 12: 2.0, 16: 2.3, 24: 3.1, 32: 3.9}


@dataclass(frozen=True)
class Synthetic:
    """One arm: how many blocks it runs (high to low over `horizon` steps) and how much its text suffers."""

    label: str
    method: str
    family: str
    params: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = "opt-e2e-mini/full"
    trained: str = "not needed"
    exact: bool = False
    high: int = DEPTH
    low: int = DEPTH
    damage: float = 0.0
    exit_tests: bool = False
    feed_only: bool = False
    """It skips feed-forward sublayers alone: every block's attention runs."""
    tuned: dict[str, Any] | None = None


FULL = Synthetic("Full model", "full", "schedule", exact=True)
ARMS: tuple[Synthetic, ...] = (
    FULL,
    *(
        Synthetic(
            f"SkipDecode {x}x",
            "skipdecode",
            "schedule",
            {"speedup": x, "warmup": 1},
            "opt-e2e-mini/skipdecode",
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
        "opt-e2e-mini/calm",
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
        "opt-e2e-mini/calm",
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
        "opt-e2e-mini/calm",
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
        "opt-e2e-mini/calm",
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
        "opt-e2e-mini/calm",
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
        "opt-e2e-mini/skipdecode",
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

METRICS = (Bleu(), RougeL(), SlotErrorRate(lambda slot, value, text: value.lower() in text.lower()))

NAMES = ("The Golden Fern", "Blue Heron", "Café Müller", "Loch Fyne", "The Vaults", "Zizzi", "Strada", "The Punter")
FOODS = ("Italian", "Japanese", "French", "Indian", "English")
AREAS = ("riverside", "city centre")
PRICES = ("cheap", "moderate", "high")


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
                    _speed(arm, index, batch, new_tokens, processes, repeats),
                )
            if "memory" in kinds:
                write_cell(folder, "memory", record, timing, f"b{batch}", _memory(arm, batch))
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
                write_cell(folder, "quality", record, scored, task, _quality(arm, index, task, examples))
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


def _budget(arm: Synthetic, step: int) -> float:
    t = min(step / 27, 1.0)
    return (1 - t) * arm.high + t * arm.low


def _blocks(arm: Synthetic, steps: int) -> np.ndarray:
    """Share of rows that ran block l at step k, [steps, DEPTH]."""
    out = np.zeros((steps, DEPTH))
    for k in range(steps):
        budget = _budget(arm, k)
        if arm.exit_tests:
            out[k] = 1 / (1 + np.exp((np.arange(DEPTH) - budget - 1.5 * np.sin(k)) / 1.6))
        elif arm.method in ("fixed_exit", "shortgpt"):
            out[k, : round(budget)] = 1
        elif arm.method in ("random_skip", "unified_skip", "ffn_skip", "layerskip"):
            out[k, np.unique(np.linspace(0, DEPTH - 1, round(budget)).round().astype(int))] = 1
        else:
            out[k, 0] = 1
            out[k, DEPTH - max(round(budget) - 1, 0) :] = 1
    return out


def _speed(arm: Synthetic, index: int, batch: int, new_tokens: int, processes: int, repeats: int) -> dict[str, Any]:
    steps = new_tokens - 1
    shares = _blocks(arm, steps)
    apart = {"attention": np.ones_like(shares), "feed": shares} if arm.feed_only else None
    layers = shares.sum(1) + (DEPTH - shares.sum(1)) / 2 * arm.feed_only
    computed = np.minimum(DEPTH, layers + (0.9 * np.log2(batch) * 2 if arm.exit_tests else 0))
    cost = BATCH_COST[batch]
    tests = computed * HEAD_S * 0.55 if arm.exit_tests else 0.0
    fill = (DEPTH - computed) * BLOCK_S * 0.18 if arm.exit_tests else 0.0
    clean = cost * (computed * BLOCK_S + HEAD_S + EMBED_S + REST_S + tests + fill) + 120e-6
    full = cost * (DEPTH * BLOCK_S + HEAD_S + EMBED_S + REST_S)
    runs = []
    for process in range(processes):
        for repeat in range(repeats):
            shared = np.random.default_rng([process, repeat, batch]).normal(1, 0.02)
            rng = np.random.default_rng([process, repeat, batch, index])
            noise = rng.lognormal(0, 0.03, steps) * np.where(rng.random(steps) < 0.01, 1.8, 1.0)
            runs.append(
                {
                    "process": process,
                    "repeat": repeat,
                    "order": index,
                    "prompt_set": repeat % 2,
                    "ttft_s": float(0.012 * cost * shared * rng.lognormal(0, 0.02)),
                    "step_s": [round(float(v), 7) for v in clean * shared * noise],
                    "step_tokens": [batch] * steps,
                }
            )
    block_flops = 2 * 12 * 128**2
    return {
        "batch_size": batch,
        "new_tokens": new_tokens,
        "prompt_tokens": 46,
        "prompts_hash": "a1b2c3d4e5f6",
        "runs": runs,
        "depth": DEPTH,
        "layers_by_position": [[round(float(v), 3) for v in row] for row in (apart or {}).get("attention", shares)],
        "sublayers_by_position": apart and {key: of.round(3).tolist() for key, of in apart.items()},
        "layers_per_token": float(DEPTH if arm.feed_only else layers.mean()),
        "attention_per_token": float(DEPTH if arm.feed_only else layers.mean()),
        "feed_per_token": float(shares.sum(1).mean()),
        "serial_attention_per_token": float(DEPTH if arm.feed_only else layers.mean()),
        "serial_feed_per_token": float(shares.sum(1).mean()),
        "computed_layers_per_token": float(computed.mean()),
        "flops_per_token": float(layers.mean() * block_flops * 1.2 + 2 * 128 * 2048),
        "exit_test_flops_per_token": float(layers.mean() * 2 * 128 * 2048) if arm.exit_tests else 0.0,
        "fill_flops_per_token": float((DEPTH - layers.mean()) * 4 * 128**2) if arm.exit_tests else 0.0,
        "head_flops_per_token": 2.0 * 128 * 2048,
        "prefill_flops": 46.0 * DEPTH * block_flops,
        "weight_bytes_per_token": float(computed.mean() * 12 * 128**2 * 4 / batch + 128 * 2048 * 4 / batch),
        "kv_cache_bytes": 2 * 4 * 128 * DEPTH * 94 * batch,
        "kv_written_bytes": int(2 * 4 * 128 * (46 * DEPTH + 48 * layers.mean()) * batch),
        "step_parts_s": {
            "block": BLOCK_S * cost,
            "head": HEAD_S * cost,
            "embed": EMBED_S * cost,
            "rest": REST_S * cost,
        },
        "ideal_step_s": float(full - cost * BLOCK_S * (DEPTH - layers.mean())),
        "ideal_full_step_s": float(full),
        "tokens_hash": f"{index if not arm.exact else 0:012x}",
        "finite": True,
        "repeatable": True,
    }


def _memory(arm: Synthetic, batch: int) -> dict[str, Any]:
    weights = 21_000_000
    return {
        "batch_size": batch,
        "baseline_rss_bytes": 310_000_000,
        "weights_bytes": weights,
        "peak_rss_bytes": 310_000_000
        + 2 * weights
        + 2 * 4 * 128 * DEPTH * 94 * batch
        + (1_500_000 if arm.exit_tests else 0),
        "cuda_peak_allocated_bytes": None,
        "cuda_reserved_bytes": None,
        "nvml_process_bytes": None,
        "energy_j_per_token": None,
    }


def _quality(arm: Synthetic, index: int, task: str, count: int) -> dict[str, Any]:
    examples, hidden = [], np.random.default_rng(7)
    for i in range(count):
        name, food, area, price = (
            values[int(hidden.integers(len(values)))] for values in (NAMES, FOODS, AREAS, PRICES)
        )
        prompt = f"name[{name}], food[{food}], priceRange[{price}], area[{area}]\n"
        references = (
            f"{name} serves {food} food at {price} prices in the {area} area.",
            f"In the {area} area, {name} is a {price} priced {food} restaurant.",
            f"{name} is a {food} restaurant in the {area} with {price} prices.",
        )
        reference_text = references[int(hidden.integers(3))].replace(
            "restaurant", "place" if hidden.random() < 0.35 else "restaurant"
        )
        output = _damaged(reference_text, arm.damage, np.random.default_rng([11, i, index]))
        example = Example(
            f"{task}-{i}", prompt, references, (("name", name), ("food", food), ("priceRange", price), ("area", area))
        )
        stats = {metric.name: metric.example(output, example) for metric in METRICS}
        words, right = output.split(), reference_text.split()
        stats["agreement"] = [float(sum(a == b for a, b in zip(words, right, strict=False))), float(max(len(words), 1))]
        tokens = max(len(words) + 3, 1)
        examples.append(
            {
                "id": example.id,
                "prompt": prompt,
                "output": output,
                "references": list(references),
                "tokens": tokens,
                "layers_per_token": float(np.mean([_budget(arm, k) for k in range(tokens)])),
                "stats": stats,
            }
        )
    tokens_total = sum(e["tokens"] for e in examples)
    return {
        "task": task,
        "split": "test",
        "batch_size": 8,
        "max_new_tokens": 64,
        "examples": examples,
        "depth": DEPTH,
        "layers_per_token": sum(e["layers_per_token"] * e["tokens"] for e in examples) / tokens_total,
        "tokens": tokens_total,
        "seconds": 1.9,
        "layers_by_position": [[round(float(v), 3) for v in row] for row in _blocks(arm, 30)],
    }


def _damaged(text: str, damage: float, rng: np.random.Generator) -> str:
    words: list[str] = []
    for word in text.split():
        draw = rng.random()
        if draw < damage * 0.4:
            continue
        words.append(words[-1] if words and draw < damage else word)
    return " ".join(words)
