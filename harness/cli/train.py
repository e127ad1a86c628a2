"""The verb that makes weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import MAKE, MODELS, TASKS, Data, Device, complete, verb


def _recipes() -> Iterable[str]:
    from harness.train import recipes

    return recipes.names()


@verb(
    MAKE,
    "train opt-e2e-mini-calm-700 --data data --out calm",
    "train mine.yaml --out out --set stages.weights.steps=500",
)
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe (see `depthbench list recipes`) or a YAML file.", autocompletion=complete(_recipes)
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder of the finished checkpoint; <out>.work holds what is resumed.", metavar="DIR"
        ),
    ],
    data: Data = None,
    device: Device = "cpu",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Checkpoint to start from instead of the recipe's.",
            autocompletion=MODELS,
            metavar="MODEL",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Task to train on instead of the recipe's.", autocompletion=TASKS, metavar="TASK"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a key, e.g. --set stages.weights.steps=500 --set seed=1. May be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
) -> None:
    """Train weights for a method; a training that was stopped goes on from its last saved step.

    Several GPUs: start it with torchrun.
    """
    from harness.train import recipes
    from harness.train.train import train as run_recipe

    chosen = recipes.load_recipe(recipe, set_ or [], model=model, task=task)
    run_recipe(chosen, out, data=data, device=device)
