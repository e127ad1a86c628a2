"""The bodies of a synthetic run's cells: speed, memory and quality of an arm, from a seeded generator."""

from __future__ import annotations

from dataclasses import dataclass, field
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


METRICS = (Bleu(), RougeL(), SlotErrorRate(lambda slot, value, text: value.lower() in text.lower()))

NAMES = ("The Golden Fern", "Blue Heron", "Café Müller", "Loch Fyne", "The Vaults", "Zizzi", "Strada", "The Punter")
FOODS = ("Italian", "Japanese", "French", "Indian", "English")
AREAS = ("riverside", "city centre")
PRICES = ("cheap", "moderate", "high")


def _budget(arm: Synthetic, step: int) -> float:
    t = min(step / 27, 1.0)
    return (1 - t) * arm.high + t * arm.low


def blocks(arm: Synthetic, steps: int) -> np.ndarray:
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


def speed(arm: Synthetic, index: int, batch: int, new_tokens: int, processes: int, repeats: int) -> dict[str, Any]:
    """A speed cell's body."""
    steps = new_tokens - 1
    shares = blocks(arm, steps)
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


def memory(arm: Synthetic, batch: int) -> dict[str, Any]:
    """A memory cell's body."""
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


def quality(arm: Synthetic, index: int, task: str, count: int) -> dict[str, Any]:
    """A quality cell's body."""
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
        "layers_by_position": [[round(float(v), 3) for v in row] for row in blocks(arm, 30)],
    }


def _damaged(text: str, damage: float, rng: np.random.Generator) -> str:
    words: list[str] = []
    for word in text.split():
        draw = rng.random()
        if draw < damage * 0.4:
            continue
        words.append(words[-1] if words and draw < damage else word)
    return " ".join(words)
