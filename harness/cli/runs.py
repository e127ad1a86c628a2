"""Verbs around runs: measuring, rendering, comparing, copying."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.cli.app import (
    MEASURE,
    METHODS,
    SUITES,
    Data,
    Override,
    finite,
    print_table,
    verb,
)
from harness.errors import BadInput, CellFailed


@verb(
    MEASURE,
    "run quick --out results/quick",
    "run mine.yaml --set repeats=20 --resume",
    "run quick --method 'mine.py:EveryOther(after=2)'",
    "run quick --plan",
)
def run(
    suite: Annotated[
        str,
        typer.Argument(help="Name of a suite (see `depthbench list suites`) or a YAML file.", autocompletion=SUITES),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder. Without it: results/<suite>.", metavar="DIR")
    ] = None,
    data: Data = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method measured beside full, in place of the suite's own: a name, or mine.py:Class. May be repeated.",
            autocompletion=METHODS,
            metavar="METHOD",
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            help="Folder looked into first for the suite's checkpoints, as DIR/opt-e2e-mini/calm-700: weights trained again.",
            metavar="DIR",
        ),
    ] = None,
    set_: Override = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; measured cells are kept.")
    ] = False,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="With --resume: measure unusable timed cells again; the rest is kept.")
    ] = False,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option("--executor", help="Where the cells are measured: here, or spread over a Ray cluster."),
    ] = "local",
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print what is missing, minutes, memory and FLOPs; measure nothing."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --plan: every cell, too.")] = False,
) -> None:
    """Measure a suite: quality, speed and memory of every method, into a run folder with a report.

    The folder gets cells/ (raw values), samples.jsonl, summary.csv, report.html and report.pdf. A run that was stopped goes
    on with --resume. Exit status 1 where a cell or a gate failed.
    """
    from harness import tasks
    from harness.cli import listing
    from harness.records import gates
    from harness.run import executors, sweep
    from harness.run.checkpoints import taken_from
    from harness.suites import suite as config
    from reports.write.report import write_report

    if verbose and not plan:
        raise BadInput("--verbose: goes with --plan: it lists every cell")
    if remeasure and not resume:
        raise BadInput("--remeasure: goes with --resume: it measures cells of a finished run again")
    chosen = config.load_suite(suite, set_ or [], method or [])
    if checkpoints is not None:
        chosen = taken_from(chosen, checkpoints)
    config.check_tasks(chosen, tasks.names())
    if plan:
        return _print_plan(chosen, data, out or Path("results") / chosen.name, verbose=verbose)
    folder = out or Path("results") / chosen.name
    command = ["depthbench", *sys.argv[1:]]
    workers = executors.create(executor)
    done = sweep.run_suite(
        chosen, folder, data=data, resume=resume, command=command, workers=workers, remeasure=remeasure
    )
    for line in gates.lines(done.gates):  # first of all: whether what follows can be believed
        typer.echo(line, err=True)
    typer.echo("writing the report", err=True)
    report_path = write_report([done])
    rows = listing.summary_rows(done.summary)
    print_table(rows, left=("label", "verdict"), least=listing.summary_least(rows[0]))
    for line in listing.summary_notes(done.summary):
        typer.echo(line)
    typer.echo(f"{folder / 'summary.csv'}\n{report_path}")
    stopped = sum(gate.stops for gate in done.gates)
    if done.failed or stopped:
        counts = ((done.failed, "cell"), (stopped, "gate"))
        fell = " and ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts if n)
        raise CellFailed(f"{fell} failed; see the lines above and {folder}")


@verb(
    MEASURE,
    "report results/quick",
    "report results/quick results/mine --out both.html",
    "report results/quick --arms 'CALM*' --batch 1 --style paper",
)
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder, or .html file, to write to. Without it: the first run folder.", metavar="PLACE"
        ),
    ] = None,
    style: Annotated[
        Literal["page", "paper"],
        typer.Option("--style", help="What figures/ is drawn for: a page, or a column of a paper."),
    ] = "page",
    arms: Annotated[
        str,
        typer.Option(
            "--arms", help="Labels to show, with * and ?, a comma between. Without it: all.", metavar="PATTERNS"
        ),
    ] = "",
    batch: Annotated[
        str, typer.Option("--batch", help="Batch sizes to show, a comma between. Without it: all.", metavar="SIZES")
    ] = "",
    metric: Annotated[
        str, typer.Option("--metric", help="Metric that heads each task that has it, as rougeL.", metavar="NAME")
    ] = "",
    order: Annotated[
        Literal["given", "speed", "quality", "label"], typer.Option("--order", help="Order of the rows.")
    ] = "given",
) -> None:
    """Render stored results as HTML and PDF, with figures and tables as files; nothing is measured again."""
    from harness.cli import listing
    from harness.files import check_writable
    from reports.facts.wanted import Wanted
    from reports.write.report import write_report

    if out is None and (folders[0] / "run.json").is_file():  # else it is refused when it is read
        check_writable(folders[0] / "report.html", "report")
    if out is not None:
        page = out.suffix.lower() in (".html", ".htm")
        check_writable(out, "out", folder=not page or out.is_dir())
    patterns = tuple(filter(None, (part.strip() for part in arms.split(","))))
    wanted = Wanted(patterns, listing.numbers("batch", batch) if batch else (), metric, order)
    typer.echo(write_report(folders, out, style=style, wanted=wanted))


@verb(MEASURE, "compare results/old results/new --fail-if 'speedup drop > 5%'")
def compare(
    before: Annotated[Path, typer.Argument(help="Run folder to compare with.")],
    after: Annotated[Path, typer.Argument(help="Run folder that is judged.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            help='Exit status 1 if it holds, e.g. "speedup drop > 5%" or "bleu drop > 1". May be repeated.',
            metavar="RULE",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", help="Smallest change worth speaking of, in percent.", callback=finite, metavar="PERCENT"
        ),
    ] = 5.0,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", help="Condition that may differ, e.g. torch. May be repeated.", metavar="CONDITION"),
    ] = None,
    seeds_: Annotated[
        bool,
        typer.Option(
            "--seeds", help="The runs differ in a seed alone: also say which differences from full are larger than it."
        ),
    ] = False,
) -> None:
    """Compare two runs cell by cell: what changed, by how much with its interval, and what that shows."""
    from harness.records import compare as comparing
    from harness.records import seeds

    compared = comparing.compare(
        before, after, threshold=threshold / 100, ignore=ignore or (), fail_if=fail_if or (), seeds=seeds_
    )
    if compared.processors:
        typer.echo(f"two processors: {compared.processors}; times are not compared, ratios and scores are")
    typer.echo(compared.headline)
    if len(rows := comparing.table(compared)) > 1:
        print_table(rows, left=("label", "where", "what", "verdict"), least=("before", "after"))
    if compared.seeds:
        print_table(seeds.table(compared.seeds), left=("label", "what", "verdict"))
    elif seeds_:
        typer.echo("no difference from the full model was scored in both runs", err=True)
    for line in compared.refusals:
        typer.echo(f"not compared: {line}", err=True)
    for line in compared.broken:
        typer.echo(line, err=True)
    if compared.broken:
        raise CellFailed(f"{len(compared.broken)} findings against --fail-if, see above")


@verb(MEASURE, "trim results/quick to-publish")
def trim(
    run_folder: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Leave the cells out too.")] = False,
) -> None:
    """Copy a run without data-set texts and render the copy: what may be sent on.

    What was left out is named with its hash.
    """
    from harness.records.trim import trim as trimmed
    from reports.write.report import write_report

    typer.echo(trimmed(run_folder, out, cells=not tables_only))
    if not tables_only:
        typer.echo(write_report([out]))


def _print_plan(suite: Any, data: Path | None, folder: Path, *, verbose: bool) -> None:
    """What a run needs, how long it takes and what is assumed; every cell as a table where that is asked for."""
    from harness.run import forecast
    from harness.run import plan as planning

    found = planning.plan(suite, data)
    for line in planning.lines(found, forecast.minutes(suite, found.weight_bytes, found.depth, folder)):
        typer.echo(line)
    if verbose:
        print_table(planning.rows(found), left=("kind", "arm", "on", "cell"))
