"""Verbs that make weights and choose parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Data, Device, Dtype, Model, app, print_table
from harness.errors import CellFailed


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `depthbench list recipes`) or a YAML file.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the finished checkpoint; <out>.work holds what is resumed.")
    ],
    data: Data = None,
    device: Device = "cpu",
    model: Annotated[
        str | None, typer.Option("--model", help="Checkpoint to start from instead of the recipe's.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Task to train on instead of the recipe's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, e.g. --set stages.weights.steps=500 --set seed=1."),
    ] = None,
) -> None:
    """Train weights for a method; an interrupted training goes on from its last saved step. Several GPUs: torchrun."""
    from harness.train import recipes
    from harness.train.train import train as run_recipe

    chosen = recipes.load_recipe(recipe, set_ or [], model=model, task=task)
    run_recipe(chosen, out, data=data, device=device)


@app.command()
def tune(
    method: Annotated[
        str, typer.Argument(help='Method, parameters that stay fixed included, e.g. "calm(confidence=state)".')
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON file for the artefact; a suite uses it as {tuned: FILE}.")],
    model: Model = "opt-e2e-mini/full",
    task: Annotated[
        str, typer.Option("--task", help="Task; chosen on its validation split, reported on its test split.")
    ] = "e2e",
    metric: Annotated[
        str | None, typer.Option("--metric", help="One of the task's metrics; default its first.")
    ] = None,
    target_speedup: Annotated[
        float | None, typer.Option("--target-speedup", help="Best score among settings at least so fast.")
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option("--max-loss", help="Fastest setting that loses at most so many points of the metric."),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="What fast means: time (realised speed-up) or layers (ratio).")
    ] = "time",
    tried: Annotated[
        list[str] | None,
        typer.Option(
            "--try", help="Values to try, name=value,value,...; repeat for more parameters. Default: the method's."
        ),
    ] = None,
    baseline_: Annotated[
        str | None, typer.Option("--baseline", help="Checkpoint of the full model compared with; default: --model.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Batch size of the timing.")] = 1,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens per row when timed.")] = 24,
    repeats: Annotated[int, typer.Option("--repeats", help="Timed repeats of every setting.")] = 5,
    limit: Annotated[int | None, typer.Option("--limit", help="First so many examples of each split.")] = None,
    data: Data = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; default: one per physical core.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Choose a method's parameters on validation data and report them on test data, with all that was tried and its cost."""
    from harness.suites import artefact
    from harness.tune import tune as tuning
    from harness.tune.trials import make_setup

    artefact.check_free(out)
    goal = tuning.Goal(target_speedup, max_loss, by)
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
    record = tuning.tune(method, setup, goal, tried=tried or (), limit=limit, test_limit=limit, say=typer.echo)
    artefact.write(out, record)
    print_table(tuning.table(record), left=("setting", "out because"))
    typer.echo(f"{tuning.cost_line(record['total_cost'])}\n{out}")
    if record["parameters"] is None:
        raise CellFailed(record["finding"])


@app.command()
def profile(
    method: Annotated[
        str, typer.Argument(help='Method and what it shall find, e.g. "static_prune(order=sleb, count=7)".')
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON file for the artefact; a suite uses it as {tuned: FILE}.")],
    model: Model = "opt-e2e-mini/full",
    task: Annotated[str, typer.Option("--task", help="Task whose prompts and first references are the text.")] = "e2e",
    split: Annotated[str, typer.Option("--split", help="Its split: train or validation.")] = "validation",
    text: Annotated[Path | None, typer.Option("--text", help="A text file instead of a task.")] = None,
    windows: Annotated[int, typer.Option("--windows", help="Examples of the task, or windows of the text.")] = 32,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each at most.")] = 256,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What orders by a task's score go by; default its first.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the windows' places in a text.")] = 0,
    batch: Annotated[int, typer.Option("--batch", help="Windows at once.")] = 8,
    data: Data = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; default: one per physical core.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Let a training-free method learn from data what it skips; the artefact has the data's hash and what it cost."""
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


@app.command()
def calibrate(
    method: Annotated[
        str, typer.Argument(help='Method, parameters that stay fixed included, e.g. "calm(confidence=state)".')
    ],
    out: Annotated[
        Path, typer.Option("--out", help="JSON file for the artefact; a folder where there are several promises.")
    ],
    model: Model = "opt-e2e-mini/calm",
    task: Annotated[str, typer.Option("--task", help="Task; calibrated on its validation split.")] = "e2e",
    metric: Annotated[str, typer.Option("--metric", help="Metric the loss is made of.")] = "rougeL",
    promise: Annotated[
        list[str] | None,
        typer.Option(
            "--promise", help="textual:DELTA (unlike the full model) or risk:DELTA (worse than it); may be repeated."
        ),
    ] = None,
    epsilon: Annotated[float, typer.Option("--epsilon", help="A promise may fail with this probability.")] = 0.05,
    tried: Annotated[
        list[str] | None,
        typer.Option(
            "--try", help="Values to try, name=value,value,..., the most cautious first. Default: the method's."
        ),
    ] = None,
    check_splits: Annotated[
        int,
        typer.Option("--check-splits", help="Check the promise on so many random splits of validation and test data."),
    ] = 0,
    limit: Annotated[int | None, typer.Option("--limit", help="First so many examples of each split.")] = None,
    batch: Annotated[int, typer.Option("--batch", help="Rows decoded together.")] = 32,
    data: Data = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; default: one per physical core.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Learn-then-Test calibration: the boldest setting whose expected loss is at most delta with probability 1 - epsilon."""
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
