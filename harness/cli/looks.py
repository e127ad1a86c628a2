"""Verbs to look around before a run: what there is, and whether machine, method and measurement can be believed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer

from harness.cli.app import LOOK, METHODS, SUITES, Data, Device, Override, complete, count, print_table, verb
from harness.errors import CellFailed
from harness.machine.doctor import OK, Finding


@verb(LOOK, "list methods", name="list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="methods, models, suites, tasks or recipes.",
            autocompletion=complete(lambda: ("methods", "models", "suites", "tasks", "recipes")),
            metavar="WHAT",
        ),
    ],
) -> None:
    """List what there is to choose from: methods, models, suites, tasks or recipes."""
    from harness.cli import listing

    rows = listing.rows(what)
    print_table(rows, left=rows[0], least=("paper", "data", "source"))


@verb(LOOK, "doctor --out /scratch/results")
def doctor(
    out: Annotated[Path, typer.Option("--out", help="Where runs will be written.", metavar="DIR")] = Path("results"),
    device: Device = "cpu",
) -> None:
    """Say what would spoil a run on this machine now; exit status 1 if something would."""
    from harness.machine import doctor as doctors

    findings = [*doctors.examine(out, device), *_reading(device)]
    print_table(doctors.table(findings), left=("what", "found", "verdict", "what to do"))
    if bad := [finding.what for finding in findings if finding.verdict == doctors.BAD]:
        raise CellFailed(f"a run here now would mislead because of: {', '.join(bad)}")


def _reading(device: str) -> list[Finding]:
    """What the cores read per second now, and with which vectors and kernels; a GPU's rate is not measured here."""
    if device != "cpu":
        return []
    from harness.measure.probes import reading
    from harness.models.kernels import native

    found = reading.measure(psutil.cpu_count(logical=False) or 1)
    said = (
        f"{found.memory_gb_per_s:.1f} GB/s from memory ({found.memory_bytes / 1e6:.0f} MB), {found.cache_gb_per_s:.0f} GB/s "
        f"from cache ({found.cache_bytes / 1e6:.0f} MB), {found.threads} threads"
    )
    return [Finding("reading", said, OK), Finding("kernels", native.status(), OK)]


@verb(LOOK, "check 'skipdecode(speedup=2)'", "check mine.py:EveryOther")
def check(
    method: Annotated[
        str,
        typer.Argument(
            help='A method, e.g. "skipdecode(speedup=2)", or a class in a file, e.g. mine.py:EveryOther.',
            autocompletion=METHODS,
        ),
    ],
) -> None:
    """Check that a method keeps the contract, on tiny models; exit status 1 if it does not."""
    import methods
    from harness.cli import listing
    from harness.run import contract

    made = methods.create(method)
    table, failed = listing.checks(contract.check(made))
    print_table(table, left=("what must hold", "models"))
    for line in failed:
        typer.echo(line, err=True)
    if not failed:
        typer.echo(f"its own code takes {1e6 * contract.own_time(made):.0f} us per decode step at 3 rows of 6 blocks")
    if failed:
        raise CellFailed(f"{made} breaks the contract in {len(failed)} checks")


@verb(LOOK, "new-method every_other", "new-method sure_exit --family exit", name="new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, e.g. every_other; its file is NAME.py here.")],
    family: Annotated[
        Literal["schedule", "exit", "gate", "draft"],
        typer.Option("--family", help="What decides: a plan, an exit or a gate in every row, or a draft."),
    ] = "schedule",
) -> None:
    """Write a method of one's own to begin with: a file that passes check as it is.

    A schedule knows its plan before the step; with an exit rows stop, with a gate they choose sublayers; a draft is verified.
    """
    from harness.cli import listing

    for line in listing.new_method(name, family):
        typer.echo(line)


@verb(LOOK, "selfcheck --tries 20")
def selfcheck(
    suite: Annotated[
        str,
        typer.Argument(help="Suite with `full` twice on the same weights, or a YAML file.", autocompletion=SUITES),
    ] = "selfcheck",
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the tries; finished ones are kept.", metavar="DIR")
    ] = Path("results/selfcheck"),
    tries: Annotated[int, count("--tries", max=10_000, help="How many runs are made.", metavar="N")] = 20,
    data: Data = None,
    set_: Override = None,
) -> None:
    """Measure the full model against itself: no difference may be found in 19 of 20 tries."""
    from harness.run import selfcheck as checks
    from harness.suites import suite as config

    chosen = config.load_suite(suite, set_ or [])
    record = checks.check(
        chosen,
        out,
        tries,
        data=data,
        command=["depthbench", *sys.argv[1:]],
        tell=lambda line: typer.echo(line, err=True),
    )
    for line in checks.lines(record):
        typer.echo(line)
    typer.echo(out / checks.RECORD)
    if not record["passed"]:
        raise CellFailed("the measurement tells the full model from itself, or the machine is too noisy to say")
