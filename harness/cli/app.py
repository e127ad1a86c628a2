"""What the verbs of `depthbench` share: the application, options that mean the same everywhere, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.cli.verbs import GROUPS, Verb, Verbs

app = typer.Typer(
    name="depthbench",
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with `depthbench run quick`. Every verb has its own `--help` with examples.",
)

MEASURE, LOOK, MAKE = GROUPS

MOST = 2**31 - 1
"""Largest count an option takes: what torch and the operating system can count to."""


def verb(
    group: str, *examples: str, name: str | None = None, context_settings: dict[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a verb of a group; `--help` ends with the examples, written without `depthbench`."""
    lines = "\n".join(f"  depthbench {example}" for example in examples)
    title = "Example:" if len(examples) == 1 else "Examples:"
    return app.command(
        name, cls=Verb, rich_help_panel=group, epilog=f"\b\n{title}\n{lines}", context_settings=context_settings
    )


def complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What the shell offers for an option: the names that begin as what is typed."""

    def found(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return found


def _models() -> Iterable[str]:
    from harness.models.bundled import bundled
    from harness.models.named import NAMED

    return [*bundled(), *NAMED]


def _methods() -> Iterable[str]:
    import methods

    return methods.names()


def _tasks() -> Iterable[str]:
    from harness import tasks

    return tasks.names()


def _suites() -> Iterable[str]:
    from harness.suites.suite import suite_names

    return suite_names()


def finite(value: float | None) -> float | None:
    """Refuse what is no number: a range does not."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is out of range; give a finite number.")
    return value


def device_name(value: str) -> str:
    """Refuse what names no device; whether the machine has it is for torch to say."""
    from harness.suites.suite import DEVICE

    if not DEVICE.fullmatch(value):
        raise typer.BadParameter(f"{value[:40]!r} is not a device; give cpu, cuda or cuda:N.")
    return value


def folder(value: Path | None) -> Path | None:
    """Refuse what is no folder that can be read."""
    if value is not None and not value.is_dir():
        raise typer.BadParameter(f"there is no folder {value}; name one with local data.")
    return value


def text_file(value: Path | None) -> Path | None:
    """Refuse what is no file that can be read."""
    if value is not None and not value.is_file():
        raise typer.BadParameter(f"there is no file {str(value)[:200]}; name a text file.")
    return value


MODELS, METHODS, TASKS, SUITES = map(complete, (_models, _methods, _tasks, _suites))

count = partial(typer.Option, min=1, max=MOST)
"""An option that counts something: 1 or more."""

RUNS_ON, TIMED = "Where and how it runs", "What is timed"
"""Groups of options."""

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        callback=folder,
        help="Folder with local data, looked up as DIR/<task>/ and DIR/.",
        metavar="DIR",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Bundled name, smollm2-135m, local folder, .gguf file or hub id; see `depthbench list models`.",
        autocompletion=MODELS,
        metavar="MODEL",
    ),
]
MethodSpec = Annotated[
    str,
    typer.Option(
        "--method",
        help='Method with parameters, e.g. "skipdecode(speedup=2)"; see `depthbench list methods`.',
        autocompletion=METHODS,
        metavar="METHOD",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="cpu, cuda or cuda:N.", callback=device_name, rich_help_panel=RUNS_ON, metavar="DEVICE"
    ),
]
DtypeName = Literal["float32", "bfloat16", "float16"]
Dtype = Annotated[
    DtypeName,
    typer.Option(
        "--dtype",
        help="Type of the weights in memory: float32, bfloat16 or float16.",
        rich_help_panel=RUNS_ON,
        metavar="TYPE",
    ),
]
Threads = Annotated[
    int | None,
    count("--threads", help="CPU threads. Without it: one per physical core.", rich_help_panel=RUNS_ON, metavar="N"),
]
Record = Annotated[
    Path | None, typer.Option("--out", help="JSON file for the record, raw seconds included.", metavar="FILE")
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a key, e.g. --set repeats=10 --set 'batch_sizes=[1,8]' --set tasks.0.limit=50. May be repeated.",
        metavar="KEY=VALUE",
    ),
]


def _version(asked: bool) -> None:
    if asked:
        from harness import __version__

        typer.echo(f"depthbench {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Measure depth-adaptive decoding (layer skipping, early exit) under equal conditions."""


def print_table(rows: Sequence[tuple[str, ...]], left: tuple[str, ...], least: Sequence[str] = ()) -> None:
    """Print rows, the first one the header; numbers to the right, the columns named in `left` to the left.

    Args:
        rows: all of one length.
        left: columns of text.
        least: columns that a narrow terminal may do without, the least important one first; off a terminal all are kept.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    from harness.cli.listing import fitting

    console = Console()
    # A log has lines of any length.
    width = console.width if console.is_terminal else None
    shown, dropped = fitting(rows, least, width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown[0]:
        text = column in left
        table.add_column(
            column, justify="left" if text else "right", overflow="fold", no_wrap=not text or width is None
        )
    for row in shown[1:]:
        table.add_row(*row)
    if width is None:
        console = Console(
            width=sum(max(map(cell_len, column)) + 2 for column in zip(*shown, strict=True)), soft_wrap=True
        )
    console.print(table, markup=False)
    if dropped:
        typer.echo(f"left out for want of width: {', '.join(dropped)}")
