"""What the verbs of `depthbench` share: the application, options that mean the same everywhere, tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="depthbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[
    Path | None, typer.Option("--data", help="Folder with local data (looked up as DIR/<task>/ and DIR/).")
]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="Bundled name, smollm2-135m, local folder, .gguf file or hub id; see `depthbench list models`."
    ),
]
MethodSpec = Annotated[str, typer.Option("--method", help='Method with parameters, e.g. "skipdecode(speedup=2)".')]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]


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


def print_table(rows: list[tuple[str, ...]], left: tuple[str, ...]) -> None:
    """Print rows, the first one the header; numbers to the right, the columns named in `left` to the left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in left else "right")
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)
