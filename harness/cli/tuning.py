"""Verbs that choose a method's parameters on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.cli.app import (
    MAKE,
    METHODS,
    MODELS,
    RUNS_ON,
    TASKS,
    TIMED,
    Data,
    Device,
    Dtype,
    Model,
    Threads,
    count,
    finite,
    print_table,
    text_file,
    verb,
)
from harness.errors import BadInput, CellFailed

Fixed = Annotated[
    str,
    typer.Argument(
        help='Method, parameters that stay fixed included, e.g. "calm(confidence=state)".', autocompletion=METHODS
    ),
]
Tried = Annotated[
    list[str] | None,
    typer.Option(
        "--try",
        help="Values to try, the most cautious first; repeat for more parameters. Without it: the method's own.",
        metavar="NAME=VALUE,...",
    ),
]
Limit = Annotated[
    int | None, count("--limit", help="First so many examples of each split. Without it: all.", metavar="N")
]


@verb(
    MAKE,
    "tune skipdecode --target-speedup 3 --data data --out sd-3x.json",
    "tune calm --budget 0.5 --data data --out calm-50.json",
    "tune seed --by predicted --data data --out seed.json",
)
def tune(
    method: Fixed,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="JSON file for the artefact; a suite uses it as {tuned: FILE}, or {tuned: FILE, at: BUDGET}.",
            metavar="FILE",
        ),
    ],
    model: Model = "opt-e2e-mini/full",
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="Task; chosen on its validation split, reported on its test split.",
            autocompletion=TASKS,
            metavar="TASK",
        ),
    ] = "e2e",
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="One of the task's metrics. Without it: its first.", metavar="METRIC"),
    ] = None,
    target_speedup: Annotated[
        float | None,
        typer.Option(
            "--target-speedup",
            min=1,
            help="Goal: the best score among settings at least so fast.",
            callback=finite,
            metavar="RATIO",
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-loss",
            min=0,
            help="Goal: the fastest setting that loses at most so many points of the metric.",
            callback=finite,
            metavar="POINTS",
        ),
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(
            "--budget",
            help="Goal: the share of the blocks' bytes that a token runs, such as 0.5. May be repeated; all share the trials.",
            metavar="SHARE",
        ),
    ] = None,
    by: Annotated[
        Literal["time", "layers", "predicted"],
        typer.Option(
            "--by",
            help="What fast means: the realised speed-up, the ratio of layers, or the predicted one (of drafts; no other goal).",
        ),
    ] = "time",
    tried: Tried = None,
    baseline_: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            help="Checkpoint of the full model compared with. Without it: --model.",
            autocompletion=MODELS,
            metavar="MODEL",
        ),
    ] = None,
    limit: Limit = None,
    data: Data = None,
    batch: Annotated[int, count("--batch", help="Batch size of the timing.", rich_help_panel=TIMED, metavar="N")] = 1,
    new_tokens: Annotated[
        int, count("--new-tokens", min=2, help="Tokens per row.", rich_help_panel=TIMED, metavar="N")
    ] = 24,
    repeats: Annotated[
        int, count("--repeats", help="Timed repeats of every setting.", rich_help_panel=TIMED, metavar="N")
    ] = 5,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Choose a method's parameters on validation data and report them on test data.

    The artefact keeps all that was tried and its cost. Give one goal: --target-speedup, --max-loss or --budget. Exit status 1
    where no setting reaches it.
    """
    from harness.suites import artefact
    from harness.tune import budgets, tries
    from harness.tune import tune as tuning
    from harness.tune.trials import make_setup

    if budget and (target_speedup is not None or max_loss is not None):
        raise BadInput("tune: --budget stands beside another goal; give one of them")
    budgets.check(budget or [])
    artefact.check_free(out)
    goal = None if budget else tuning.Goal(target_speedup, max_loss, by)
    setup = make_setup(
        task,
        model,
        metric,
        data,
        baseline_,
        batch_size=batch,
        new_tokens=new_tokens,
        repeats=repeats,
        threads=threads,
        device=device,
        dtype=dtype,
    )
    common: dict[str, Any] = {"tried": tried or (), "limit": limit, "test_limit": limit, "say": typer.echo}
    if goal is None:
        record = budgets.at_budgets(method, setup, budget or [], **common)
    else:
        record = tuning.tune(method, setup, goal, **common)
    artefact.write(out, record)
    print_table(tries.table(record), left=("setting", "out because"))
    typer.echo(f"{tries.cost_line(record['total_cost'])}\n{out}")
    if missed := [one["finding"] for one in record.get("choices", [record]) if one["parameters"] is None]:
        raise CellFailed("; ".join(missed))


@verb(MAKE, "profile 'static_prune(count=7)' --data data --out sleb-7.json")
def profile(
    method: Annotated[
        str,
        typer.Argument(
            help='Method and what it shall find, e.g. "static_prune(order=sleb, count=7)".', autocompletion=METHODS
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="JSON file for the artefact; a suite uses it as {tuned: FILE}.", metavar="FILE"),
    ],
    model: Model = "opt-e2e-mini/full",
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="Task whose prompts and first references are the text.",
            autocompletion=TASKS,
            metavar="TASK",
        ),
    ] = "e2e",
    split: Annotated[Literal["train", "validation"], typer.Option("--split", help="Split of the task.")] = "validation",
    text: Annotated[
        Path | None, typer.Option("--text", help="A text file instead of a task.", metavar="FILE", callback=text_file)
    ] = None,
    windows: Annotated[int, count("--windows", help="Examples of the task, or windows of the text.", metavar="N")] = 32,
    tokens: Annotated[int, count("--tokens", min=2, help="Tokens of each window at most.", metavar="N")] = 256,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="For orders by a task's score: one of its metrics. Without it: its first.",
            metavar="METRIC",
        ),
    ] = None,
    seed: Annotated[int, count("--seed", min=0, help="Of the windows' places in a text.", metavar="N")] = 0,
    batch: Annotated[int, count("--batch", help="Windows at once.", rich_help_panel=RUNS_ON, metavar="N")] = 8,
    data: Data = None,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Let a training-free method learn from data what it skips.

    The artefact has the data's hash and what the learning cost.
    """
    import torch

    import methods
    from harness.models.load import load_model
    from harness.suites import artefact
    from harness.tune.profile import Source
    from harness.tune.profile import profile as learn

    artefact.check_free(out)
    chosen = methods.create(method)
    if threads is not None:
        torch.set_num_threads(threads)
    decoder = load_model(model, device=device, dtype=dtype)
    source = Source(text, task, split, windows, tokens, seed, metric)
    found, record = learn(chosen, decoder, source, data=data, batch_size=batch)
    artefact.write(out, record)
    cost = record["cost"]
    typer.echo(
        f"{found}\n{cost['forward_passes']} passes over {record['data']['tokens_each']} tokens each at most, "
        f"{cost['generated_tokens']} tokens generated, {cost['seconds']:.0f} s\n{out}"
    )


@verb(MAKE, "calibrate calm --promise textual:0.2 --data data --out calm.json")
def calibrate(
    method: Fixed,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="JSON file for the artefact; a folder where there are several promises.", metavar="PLACE"
        ),
    ],
    model: Model = "opt-e2e-mini/calm-700",
    task: Annotated[
        str,
        typer.Option("--task", help="Task; calibrated on its validation split.", autocompletion=TASKS, metavar="TASK"),
    ] = "e2e",
    metric: Annotated[str, typer.Option("--metric", help="Metric the loss is made of.", metavar="METRIC")] = "rougeL",
    promise: Annotated[
        list[str] | None,
        typer.Option(
            "--promise",
            help="textual:DELTA (unlike the full model) or risk:DELTA (worse than it). May be repeated. "
            "Without it: textual:0.1.",
            metavar="KIND:DELTA",
        ),
    ] = None,
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon", help="A promise may fail with this probability.", callback=finite, metavar="PROBABILITY"
        ),
    ] = 0.05,
    tried: Tried = None,
    check_splits: Annotated[
        int,
        count(
            "--check-splits",
            min=0,
            help="Check the promise on so many random splits of validation and test data.",
            metavar="N",
        ),
    ] = 0,
    limit: Limit = None,
    data: Data = None,
    batch: Annotated[int, count("--batch", help="Rows decoded together.", rich_help_panel=RUNS_ON, metavar="N")] = 32,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Choose the boldest setting that keeps a promise: a loss of at most delta, with high probability.

    Learn-then-Test calibration: the expected loss is at most delta with probability 1 - epsilon.
    """
    from harness.suites import artefact
    from harness.tune import calibrate as calibration
    from harness.tune.trials import make_setup

    goals = [calibration.goal_of(text, epsilon) for text in promise or ["textual:0.1"]]
    files = artefact.places(out, promise or [])
    setup = make_setup(
        task,
        model,
        metric,
        data,
        None,
        quality_batch_size=batch,
        threads=threads,
        device=device,
        dtype=dtype,
        compact_exits=True,
    )
    records = calibration.calibrate(
        method, setup, goals, tried=tried or (), limit=limit, splits=check_splits, say=typer.echo
    )
    for file, record in zip(files, records, strict=True):
        typer.echo(artefact.write(file, record))
