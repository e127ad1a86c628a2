"""Verbs around runs: measuring, rendering, comparing, and whether they can be believed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from harness.cli.app import Data, Device, app, print_table
from harness.errors import CellFailed
from harness.machine.doctor import OK, Finding


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="Name of a suite (see `depthbench list suites`) or a YAML file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default results/<suite>.")] = None,
    data: Data = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Override a key, e.g. --set repeats=10 --set 'batch_sizes=[1,8]' --set tasks.0.limit=50."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; measured cells are kept.")
    ] = False,
    executor: Annotated[
        str, typer.Option("--executor", help="local, or ray: spread the cells over a Ray cluster.")
    ] = "local",
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print every cell, its estimated memory and FLOPs and what is missing; run nothing."
        ),
    ] = False,
) -> None:
    """Run a suite: quality, speed and memory of every method; writes cells, samples.jsonl, summary.csv and report.html."""
    from harness import tasks
    from harness.cli import listing
    from harness.records import gates
    from harness.run import executors, sweep
    from harness.suites import suite as config
    from reports.write.report import write_report

    chosen = config.load_suite(suite, set_ or [])
    config.check_tasks(chosen, tasks.names())
    if plan:
        return _print_plan(chosen, data)
    folder = out or Path("results") / chosen.name
    command = ["depthbench", *sys.argv[1:]]
    workers = executors.create(executor)
    done = sweep.run_suite(chosen, folder, data=data, resume=resume, command=command, workers=workers)
    report_path = write_report([done])
    print_table(listing.summary_rows(done.summary), left=("label", "verdict"))
    typer.echo(f"{folder / 'summary.csv'}\n{report_path}")
    for line in gates.lines(done.gates):
        typer.echo(line, err=True)
    stopped = sum(gate.stops for gate in done.gates)
    if done.failed or stopped:
        raise CellFailed(f"{done.failed} cells and {stopped} gates failed; see the lines above and {folder}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder, or .html file, to write to; default: the first run folder.")
    ] = None,
    style: Annotated[
        str, typer.Option("--style", help="What figures/ is drawn for: page, or paper (a column of a paper).")
    ] = "page",
) -> None:
    """Render stored results as HTML and PDF, with figures and tables as files; nothing is measured again."""
    from reports.write.report import write_report

    typer.echo(write_report(folders, out, style=style))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Run folder to compare with.")],
    after: Annotated[Path, typer.Argument(help="Run folder that is judged.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help='Exit status 1 if it holds, e.g. "speedup drop > 5%" or "bleu drop > 1".'),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Smallest change worth speaking of, in percent.")
    ] = 5.0,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="Condition that may differ, e.g. torch.")] = None,
) -> None:
    """Compare two runs cell by cell: ratio with interval, and what it shows."""
    from harness.records import compare as comparing

    compared = comparing.compare(before, after, threshold=threshold / 100, ignore=ignore or (), fail_if=fail_if or ())
    if compared.processors:
        typer.echo(f"two processors: {compared.processors}; times are not compared, ratios and scores are")
    print_table(comparing.table(compared), left=("label", "what", "verdict"))
    for line in compared.refusals:
        typer.echo(f"not compared: {line}", err=True)
    for line in compared.broken:
        typer.echo(line, err=True)
    if compared.broken:
        raise CellFailed(f"{len(compared.broken)} findings against --fail-if, see above")


@app.command()
def trim(
    run_folder: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Leave the cells out too.")] = False,
) -> None:
    """Copy a run without data-set texts, naming what was left out with its hash, and render it: what may be sent on."""
    from harness.records.trim import trim as trimmed
    from reports.write.report import write_report

    typer.echo(trimmed(run_folder, out, cells=not tables_only))
    if not tables_only:
        typer.echo(write_report([out]))


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, models, suites, tasks or recipes.")],
) -> None:
    """List what there is to choose from."""
    from rich.console import Console
    from rich.table import Table

    from harness.cli import listing

    rows = listing.rows(what)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    Console(soft_wrap=not sys.stdout.isatty()).print(table, markup=False)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option("--out", help="Where runs will be written.")] = Path("results"),
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


@app.command()
def check(
    method: Annotated[
        str,
        typer.Argument(help='A method, e.g. "skipdecode(speedup=2)", or a class in a file, e.g. mine.py:EveryOther.'),
    ],
) -> None:
    """Check that a method keeps the contract, on tiny models; exit status 1 if it does not."""
    from harness.cli import listing
    from harness.run import contract

    made = contract.load(method)
    table, failed = listing.checks(contract.check(made))
    print_table(table, left=("what must hold", "models"))
    for line in failed:
        typer.echo(line, err=True)
    if failed:
        raise CellFailed(f"{made} breaks the contract in {len(failed)} checks")


@app.command()
def selfcheck(
    suite: Annotated[
        str, typer.Argument(help="Suite with `full` twice on the same weights, or a YAML file.")
    ] = "selfcheck",
    out: Annotated[Path, typer.Option("--out", help="Folder for the tries; finished ones are kept.")] = Path(
        "results/selfcheck"
    ),
    tries: Annotated[int, typer.Option("--tries", help="How often.")] = 20,
    data: Data = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a key, as in `run`.")] = None,
) -> None:
    """Measure the full model against itself: no difference may be detected in 19 of 20 tries."""
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


def _print_plan(suite: Any, data: Path | None) -> None:
    """A suite's cells as a table, and below it what is assumed and needed."""
    from harness.run import plan as planning

    found = planning.plan(suite, data)
    print_table(planning.rows(found), left=("kind", "arm", "on", "cell"))
    for line in planning.lines(found):
        typer.echo(line)
