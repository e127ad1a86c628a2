"""Verbs around runs: measuring, rendering, comparing, and whether they can be believed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import typer

from harness.cli.app import (
    LOOK,
    MEASURE,
    METHODS,
    SUITES,
    Data,
    Device,
    Override,
    complete,
    count,
    finite,
    print_table,
    verb,
)
from harness.errors import BadInput, CellFailed
from harness.machine.doctor import OK, Finding


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
    from harness.suites import suite as config
    from reports.write.report import write_report

    if verbose and not plan:
        raise BadInput("--verbose: goes with --plan: it lists every cell")
    if remeasure and not resume:
        raise BadInput("--remeasure: goes with --resume: it measures cells of a finished run again")
    chosen = config.load_suite(suite, set_ or [], method or [])
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


def _print_plan(suite: Any, data: Path | None, folder: Path, *, verbose: bool) -> None:
    """What a run needs, how long it takes and what is assumed; every cell as a table where that is asked for."""
    from harness.run import forecast
    from harness.run import plan as planning

    found = planning.plan(suite, data)
    for line in planning.lines(found, forecast.minutes(suite, found.weight_bytes, found.depth, folder)):
        typer.echo(line)
    if verbose:
        print_table(planning.rows(found), left=("kind", "arm", "on", "cell"))
