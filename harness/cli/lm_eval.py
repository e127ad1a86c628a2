"""`depthbench lm-eval`: lm-eval's evaluation of one method, in lm-eval's own formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import write_atomically
from harness.records.limits import BASELINE

Json = dict[str, Any]
Rows = list[tuple[str, ...]]


def run(
    model: str,
    method: str,
    tasks: str,
    *,
    data: Path | None = None,
    output_path: Path | None = None,
    log_samples: bool = False,
    with_full: bool = False,
    batch_size: str = "16",
    max_batch_size: int | None = None,
    expected_tokens: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    limit: str | None = None,
    seed: str = "0,1234,1234,1234",
    threads: int | None = None,
    **settings: Any,
) -> Iterable[str | Rows]:
    """Evaluate, write what was asked for, and yield what to print: lm-eval's table, then tables of depths and differences.

    Raises:
        BadInput: an option, task, data set, model or method that does not fit; before anything is computed where that can be told.
    """
    import psutil
    import torch
    from lm_eval.utils import make_table

    from harness.tasks.lm_eval.bridge import MethodLM
    from harness.tasks.lm_eval.documents import compare
    from harness.tasks.lm_eval.evaluate import Options, evaluate, load_tasks
    from harness.tasks.lm_eval.evaluate import expected_tokens as median_tokens

    torch.set_num_threads(threads or psutil.cpu_count(logical=False) or 1)
    options = Options(
        tuple(filter(None, (name.strip() for name in tasks.split(",")))),
        limit=_limit(limit),
        seeds=_seeds(seed),
        bootstrap_iters=settings.pop("bootstrap_iters", 100_000),
        **settings,
    )
    if log_samples and output_path is None:
        raise BadInput("log_samples: needs a place; give --output-path DIR")
    lm = MethodLM(model, method, batch_size, dtype=dtype, device=device, max_batch_size=max_batch_size)
    loaded = load_tasks(options, data)
    expected: int | dict[str, int] = expected_tokens or {
        name: tokens for name, task in loaded.tasks.items() if (tokens := median_tokens(lm, task, options)) is not None
    }
    lm.expect(expected)
    results = evaluate(lm, options, data, loaded)
    rows: list[Json] = []
    if with_full and lm.method.called != BASELINE:
        full = MethodLM(lm.decoder, BASELINE, batch_size, expected_tokens=expected, max_batch_size=max_batch_size)
        reference = evaluate(full, options, data)
        results["depthbench"]["difference_to_full"] = rows = compare(results, reference)
    name = f"{model}, {method}"
    if output_path is not None:
        yield f"written to {_write(output_path, name, results, log_samples)}"
    yield f"{name}: batch size {lm.batch_size}, {lm.decoder.depth} blocks"
    yield make_table(results)
    if results.get("groups"):
        yield make_table(results, "groups")
    yield _depths(results)
    for task, lost in results["depthbench"]["truncated"].items():
        yield (
            f"{task}: {lost['requests']} contexts were longer than the model and lost {lost['tokens']} tokens on the left"
        )
    if rows:
        yield _differences(rows)


def _limit(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"limit: {text!r} is not a number; give documents per task, or a share below 1") from None


def _seeds(text: str) -> tuple[int | None, int | None, int | None, int | None]:
    parts = [part.strip() for part in text.split(",")]
    try:
        values = [None if part == "None" else int(part) for part in parts]
        one, two, three, four = values * 4 if len(values) == 1 else values
    except ValueError:
        raise BadInput(
            f"seed: {text!r} is not one number or four (python,numpy,torch,fewshot), e.g. 0,1234,1234,1234"
        ) from None
    return one, two, three, four


def _depths(results: Mapping[str, Any]) -> Rows:
    """Blocks per token of every task: over the tokens that decode steps predicted, and over all scored or generated ones."""
    table: Rows = [("task", "requests", "tokens", "layers per token", "of them after a decode step", "expected tokens")]
    planned = results["depthbench"]["identity"]["expected_tokens"]
    for task, samples in results["samples"].items():
        unique = {sample["doc_id"]: sample for sample in samples}.values()
        requests = [layers for sample in unique for layers in sample["layers"]]
        every = [blocks for layers in requests for blocks in layers]
        later = [blocks for layers in requests for blocks in layers[1:]]
        horizon = planned.get(task, "") if isinstance(planned, Mapping) else planned
        means = [f"{sum(part) / len(part):.2f}" if part else "" for part in (every, later)]
        table.append((task, str(len(requests)), str(len(every)), *means, str(horizon)))
    return table


def _differences(rows: Iterable[Mapping[str, Any]]) -> Rows:
    table: Rows = [
        ("task", "metric", "method", "full", "difference [95 %]", "gained", "lost", "McNemar p", "documents")
    ]
    for row in rows:
        ends = "" if row["low"] != row["low"] else f" [{row['low']:.2f}, {row['high']:.2f}]"
        test = row["mcnemar"]
        counts = (str(test["gained"]), str(test["lost"]), f"{test['p']:.3g}") if test else ("", "", "")
        values = (f"{row['value']:.2f}", f"{row['full']:.2f}", f"{row['difference']:+.2f}{ends}")
        table.append((row["task"], row["metric"], *values, *counts, str(row["documents"])))
    return table


def _write(path: Path, name: str, results: Json, log_samples: bool) -> Path:
    """lm-eval's files: `results_<date>.json`, and `samples_<task>_<date>.jsonl` where wanted."""
    from lm_eval.utils import handle_non_serializable, sanitize_list, sanitize_model_name

    def text(record: Any, **settings: Any) -> str:
        return json.dumps(record, default=handle_non_serializable, ensure_ascii=False, **settings) + "\n"

    date = datetime.now().isoformat().replace(":", "-")
    whole = path.suffix == ".json"
    folder = path.parent if whole else path / sanitize_model_name(name)
    target = path.with_name(f"{path.stem}_{date}.json") if whole else folder / f"results_{date}.json"
    folder.mkdir(parents=True, exist_ok=True)
    samples = results["samples"]
    kept = {key: value for key, value in results.items() if key != "samples"}
    write_atomically(target, [text({**kept, "model_source": "depthbench", "model_name": name}, indent=2)])
    for task, rows in samples.items() if log_samples else ():
        lines = []
        for row in rows:
            given = {
                f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(arguments)}
                for i, arguments in enumerate(row["arguments"])
            }
            answers = {key: sanitize_list(row[key]) for key in ("resps", "filtered_resps")}
            lines.append(text({**row, **answers, "arguments": given, "target": str(row["target"])}))
        write_atomically(folder / f"samples_{task}_{date}.jsonl", lines)
    return target
