"""`depthbench lm-eval`: lm-eval's evaluation of one method or several, in lm-eval's own formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.errors import CellFailed
from harness.records.limits import BASELINE

Json = dict[str, Any]
Rows = list[tuple[str, ...]]


def run(arguments: Sequence[str], **own: Any) -> Iterator[str | Rows]:
    """Evaluate, and yield what to print: lm-eval's table, tables of depths and differences, then where the results are.

    Args:
        arguments: options in lm-eval's own words.
        own: fields of `harness.tasks.lm_eval.command.Own`.

    Raises:
        BadInput: an option, task, data set, model, method or place that does not fit; before anything is computed where that can
            be told.
        CellFailed: an answer or a metric is not finite.
    """
    from harness.tasks.lm_eval import command

    yield from _evaluated(command.parse(arguments, command.Own(**own)))


def _evaluated(asked: Any) -> Iterator[str | Rows]:
    import psutil
    import torch
    from lm_eval.utils import make_table

    from harness.tasks.lm_eval import results as files
    from harness.tasks.lm_eval.bridge import MethodLM
    from harness.tasks.lm_eval.documents import compare
    from harness.tasks.lm_eval.evaluate import evaluate, load_tasks
    from harness.tasks.lm_eval.evaluate import expected_tokens as median_tokens

    torch.set_num_threads(asked.threads or psutil.cpu_count(logical=False) or 1)
    several = len(asked.methods) > 1
    places = [files.Place.tried(asked.output_path, f"{asked.model}, {name}", several) for name in asked.methods]
    lms = [MethodLM(asked.model, asked.methods[0], **asked.settings)]
    lms += [MethodLM(lms[0].decoder, name, **asked.settings) for name in asked.methods[1:]]
    loaded = load_tasks(asked.options, asked.data)
    expected: int | dict[str, int] = asked.expected_tokens or {
        name: tokens
        for name, task in loaded.tasks.items()
        if (tokens := median_tokens(lms[0], task, asked.options)) is not None
    }
    for lm in lms:
        lm.expect(expected)
    lms[0].beside(lms[1:])
    full: Json | None = None
    failed: list[str] = []
    for name, lm, place in zip(asked.methods, lms, places, strict=True):
        tracker = files.tracked(
            asked.model,
            name,
            {
                "system_instruction": asked.options.system_instruction,
                "chat_template": lm.chat_template(asked.options.apply_chat_template)
                if asked.options.apply_chat_template
                else None,
                "fewshot_as_multiturn": asked.options.fewshot_as_multiturn,
            },
        )
        results = evaluate(lm, asked.options, asked.data, loaded, asked.level)
        results["config"] |= {"model": "depthbench", "model_args": f"pretrained={asked.model},method={name}"}
        rows = compare(results, full) if full is not None else []
        results["depthbench"]["difference_to_full"] = rows
        full = results if lm.method.called == BASELINE and several else full
        yield f"{asked.model}, {name}: batch size {lm.batch_size}, {lm.decoder.depth} blocks"
        yield make_table(files.shown(results))
        if results.get("groups"):
            yield make_table(files.shown(results), "groups")
        yield _depths(results)
        yield from _notes(results)
        if rows:
            yield _differences(rows)
        if asked.show_config:
            kept = {key: value for key, value in results.items() if key != "samples"}
            yield json.dumps(kept, indent=2, default=str, ensure_ascii=False)
        files.write(place, results, tracker, asked.log_samples)
        yield f"written to {place.results}"
        failed += [f"{name}: {what}" for what in results["depthbench"]["not_finite"]]
    if failed:
        raise CellFailed("; ".join(failed))


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    for task, lost in results["depthbench"]["truncated"].items():
        yield (
            f"{task}: {lost['requests']} contexts were longer than the model and lost {lost['tokens']} tokens on the left"
        )
    for task, standing in results["depthbench"]["informative"].items():
        for metric, found in standing.items():
            if not found["informative"]:
                yield f"{task}, {metric}: uninformative, {found['reason']}"


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
    """Paired differences to full; `p, Holm` is that of a task's first metric, corrected over the tasks that are informative."""
    head = (
        "task",
        "metric",
        "method",
        "full",
        "difference [95 %]",
        "gained",
        "lost",
        "test",
        "p",
        "p, Holm",
        "documents",
    )
    table: Rows = [head]
    for row in rows:
        ends = "" if row["low"] != row["low"] else f" [{_number(row['low'])}, {_number(row['high'])}]"
        counts = ["" if row[key] is None else str(row[key]) for key in ("gained", "lost")]
        values = (_number(row["value"]), _number(row["full"]), f"{_number(row['difference'], '+')}{ends}")
        holm = "uninformative" if row["uninformative"] else "" if row["p_holm"] is None else f"{row['p_holm']:.3g}"
        p = "" if row["p"] != row["p"] else f"{row['p']:.3g}"
        table.append((row["task"], row["metric"], *values, *counts, row["test"], p, holm, str(row["documents"])))
    return table


def _number(value: float, sign: str = "") -> str:
    """Two decimals, or a power of ten where these would be the least of many digits."""
    return f"{value:{sign}.2f}" if abs(value) < 1e6 else f"{value:{sign}.3e}"
