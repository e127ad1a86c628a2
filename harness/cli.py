"""`depthbench`: one function per verb, no logic. Exit status 0 = done, 1 = a cell or a gate failed, 2 = bad input."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import BadInput, CellFailed

app = typer.Typer(
    name="depthbench",
    help="Measure depth-adaptive decoding (layer skipping, early exit) under equal conditions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[
    Path | None, typer.Option("--data", help="Folder with local data (looked up as DIR/<task>/ and DIR/).")
]
Model = Annotated[
    str, typer.Option("--model", help="Bundled name, local folder or hub id; see `depthbench list models`.")
]
MethodSpec = Annotated[str, typer.Option("--method", help='Method with parameters, e.g. "skipdecode(speedup=2)".')]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]


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
    import methods
    from harness import config, gates, sweep, tasks
    from harness import executor as executors
    from reports import write_report

    chosen = config.load_suite(suite, set_ or [])
    config.check_names(chosen, methods.names(), tasks.names())
    for entry in chosen.methods:
        methods.create(entry.spec)
    if plan:
        return _print_plan(chosen, data)
    folder = out or Path("results") / chosen.name
    command = ["depthbench", *sys.argv[1:]]
    workers = executors.create(executor)
    failed = sweep.run_suite(chosen, folder, data=data, resume=resume, command=command, workers=workers)
    report_path = write_report([folder])
    _print_summary(folder)
    typer.echo(f"{folder / 'summary.csv'}\n{report_path}")
    judged = gates.load_gates(folder)
    for line in gates.lines(judged):
        typer.echo(line, err=True)
    stopped = sum(gate.stops for gate in judged)
    if failed or stopped:
        raise CellFailed(f"{failed} cells and {stopped} gates failed; see the lines above and {folder}")


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
    from reports import write_report

    typer.echo(write_report(folders, out, style=style))


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, models, suites, tasks or recipes.")],
) -> None:
    """List what there is to choose from."""
    from rich.console import Console
    from rich.table import Table

    from harness import listing

    rows = listing.rows(what)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    Console(soft_wrap=not sys.stdout.isatty()).print(table, markup=False)


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Argument(help="Prompts; `\\n` stands for a line feed.")],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = "full",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Tokens per prompt at most.")] = 64,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Continue prompts under a method; prints the text and the layers each token ran."""
    from harness import texts

    for result in texts.generate_texts(
        model, method, [p.replace("\\n", "\n") for p in prompt], max_new_tokens, device, dtype
    ):
        typer.echo(result)


@app.command()
def score(
    prompt: Annotated[str, typer.Argument(help="Prompt; `\\n` stands for a line feed.")],
    continuation: Annotated[str, typer.Argument(help="Text whose log-likelihood is wanted.")],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = "full",
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Log-likelihood of a continuation, every token scored as the method would have computed it."""
    from harness import texts

    typer.echo(
        texts.score_text(model, method, prompt.replace("\\n", "\n"), continuation.replace("\\n", "\n"), device, dtype)
    )


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
    from harness import recipes
    from harness.train import train as run_recipe

    chosen = recipes.load_recipe(recipe, set_ or [], model=model, task=task)
    run_recipe(chosen, out, data=data, device=device)


@app.command()
def baseline(
    model: Model = "opt-e2e-mini/full",
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, e.g. 1,8,32.")] = "1,8,32",
    engines: Annotated[
        str, typer.Option("--engines", help="Engines to compare, this one among them.")
    ] = "depthbench,transformers,transformers-static,ctranslate2",
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", help="Tokens of every prompt.")] = 32,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens generated per row.")] = 64,
    repeats: Annotated[int, typer.Option("--repeats", help="Turns of every engine.")] = 7,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; default: one per physical core.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the record, raw seconds included.")] = None,
) -> None:
    """Compare the full model's speed here with the engines a user could pick instead: same weights, prompts and threads."""
    from harness import listing

    table, problems = listing.baseline(
        out,
        model=model,
        batch_sizes=listing.numbers("batch", batch),
        engines=tuple(engines.split(",")),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        threads=threads,
        device=device,
        dtype=dtype,
    )
    _print_table(table, left=("engine",))
    for problem in problems:
        typer.echo(f"left out: {problem}", err=True)


@app.command()
def trim(
    run_folder: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Leave the cells out too.")] = False,
) -> None:
    """Copy a run without data-set texts, naming what was left out with its hash, and render it: what may be sent on."""
    from harness.trim import trim as trimmed
    from reports import write_report

    typer.echo(trimmed(run_folder, out, cells=not tables_only))
    if not tables_only:
        typer.echo(write_report([out]))


@app.command()
def check(
    method: Annotated[
        str,
        typer.Argument(help='A method, e.g. "skipdecode(speedup=2)", or a class in a file, e.g. mine.py:EveryOther.'),
    ],
) -> None:
    """Check that a method keeps the contract, on tiny models; exit status 1 if it does not."""
    from harness import contract, listing

    made = contract.load(method)
    table, failed = listing.checks(contract.check(made))
    _print_table(table, left=("what must hold", "models"))
    for line in failed:
        typer.echo(line, err=True)
    if failed:
        raise CellFailed(f"{made} breaks the contract in {len(failed)} checks")


@app.command()
def doctor(
    out: Annotated[Path, typer.Option("--out", help="Where runs will be written.")] = Path("results"),
    device: Device = "cpu",
) -> None:
    """Say what would spoil a run on this machine now; exit status 1 if something would."""
    from harness import doctor as doctors

    findings = doctors.examine(out, device)
    _print_table(doctors.table(findings), left=("what", "found", "verdict", "what to do"))
    if bad := [finding.what for finding in findings if finding.verdict == doctors.BAD]:
        raise CellFailed(f"a run here now would mislead because of: {', '.join(bad)}")


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
    from harness import compare as comparing

    compared = comparing.compare(before, after, threshold=threshold / 100, ignore=ignore or (), fail_if=fail_if or ())
    _print_table(comparing.table(compared), left=("label", "what", "verdict"))
    for line in compared.refusals:
        typer.echo(f"not compared: {line}", err=True)
    for line in compared.broken:
        typer.echo(line, err=True)
    if compared.broken:
        raise CellFailed(f"{len(compared.broken)} findings against --fail-if, see above")


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
    from harness import config
    from harness import selfcheck as checks

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
    from harness import planning

    found = planning.plan(suite, data)
    _print_table(planning.rows(found), left=("kind", "arm", "on", "cell"))
    for line in planning.lines(found):
        typer.echo(line)


@app.command("lm-eval")
def lm_eval(
    tasks: Annotated[
        str, typer.Option("--tasks", "-t", help="lm-eval tasks, groups or patterns, separated by commas.")
    ],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = "full",
    data: Data = None,
    with_full: Annotated[
        bool, typer.Option("--with-full", help="Evaluate the full model too, and give the paired difference per task.")
    ] = False,
    limit: Annotated[
        str | None, typer.Option("--limit", "-L", help="Documents per task; below 1 a share of them.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", "--num_fewshot", "-f", help="Examples in the prompt.")
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "--batch_size", "-b", help="Rows at once, or auto.")
    ] = "16",
    max_batch_size: Annotated[
        int | None, typer.Option("--max-batch-size", "--max_batch_size", min=1, help="What auto starts from.")
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", "--apply_chat_template", help="Write prompts as chats.")
    ] = False,
    fewshot_as_multiturn: Annotated[
        bool,
        typer.Option(
            "--fewshot-as-multiturn/--no-fewshot-as-multiturn", "--fewshot_as_multiturn", help="Examples as turns."
        ),
    ] = True,
    system_instruction: Annotated[
        str | None, typer.Option("--system-instruction", "--system_instruction", help="Put before the prompt.")
    ] = None,
    include_path: Annotated[
        str | None, typer.Option("--include-path", "--include_path", help="Folder with more task files.")
    ] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option("--gen-kwargs", "--gen_kwargs", help="Generation settings, e.g. max_gen_toks=64.")
    ] = None,
    use_cache: Annotated[
        str | None, typer.Option("--use-cache", "--use_cache", "-c", help="Keep answers in files that begin so.")
    ] = None,
    output_path: Annotated[
        Path | None, typer.Option("--output-path", "--output_path", "-o", help="Folder or .json file for results.")
    ] = None,
    log_samples: Annotated[
        bool, typer.Option("--log-samples", "--log_samples", "-s", help="Also write every sample, with its depths.")
    ] = False,
    predict_only: Annotated[
        bool, typer.Option("--predict-only", "--predict_only", "-x", help="Compute no metrics.")
    ] = False,
    seed: Annotated[
        str, typer.Option("--seed", help="python,numpy,torch,fewshot; one number for all.")
    ] = "0,1234,1234,1234",
    expected_tokens: Annotated[
        int | None,
        typer.Option("--expected-tokens", min=1, help="Length schedules plan for; default: the task's median."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Run lm-eval tasks, every request answered as the method computes it; options as in lm-eval."""
    from harness import lm_eval_command

    settings = {key: value for key, value in locals().items() if key != "lm_eval_command"}
    for part in lm_eval_command.run(**settings):
        _print_table(part, left=("task", "metric")) if isinstance(part, list) else typer.echo(part)


@app.command("scoring-speed")
def scoring_speed(
    model: Model = "opt-e2e-mini/skipdecode",
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Methods beside full; may be repeated. Default: SkipDecode 2x, 3x, 5x."),
    ] = None,
    tasks: Annotated[str, typer.Option("--tasks", help="lm-eval tasks to compare with its own backend on.")] = "",
    data: Data = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Documents per task.")] = 200,
    batch: Annotated[int, typer.Option("--batch", help="Rows scored together.")] = 16,
    sequences: Annotated[int, typer.Option("--sequences", help="Random sequences for `score`; 0 for none.")] = 1000,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each sequence.")] = 64,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", help="Of them, tokens of the prompt.")] = 8,
    decode_batch: Annotated[int, typer.Option("--decode-batch", help="Rows decoded together, step by step.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", help="Turns of every arm.")] = 5,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the record, raw seconds included.")] = None,
) -> None:
    """Compare scoring: full, methods, step-by-step decoding, and lm-eval's own backend on the same requests."""
    from harness import listing

    settings = dict(model=model, batch_size=batch, sequences=sequences, tokens=tokens, prompt_tokens=prompt_tokens)
    settings |= dict(
        limit=limit, decode_batch=decode_batch, repeats=repeats, threads=threads, device=device, dtype=dtype
    )
    settings["tasks"] = tuple(filter(None, tasks.split(",")))
    if method:
        settings["methods"] = tuple(method)
    _print_table(listing.scoring_speed(out, data, **settings), left=("what", "arm"))


def _print_summary(folder: Path) -> None:
    """The main columns of summary.csv as a table."""
    from harness import listing

    _print_table(listing.summary_rows(folder), left=("label",))


def _print_table(rows: list[tuple[str, ...]], left: tuple[str, ...]) -> None:
    """Print rows, the first one the header; numbers to the right, the columns named in `left` to the left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in left else "right")
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)


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
    from harness import artefact
    from harness import tune as tuning
    from harness.trials import make_setup

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
    _print_table(tuning.table(record), left=("setting", "out because"))
    typer.echo(f"{tuning.cost_line(record['total_cost'])}\n{out}")
    if record["parameters"] is None:
        raise CellFailed(record["finding"])


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
    from harness import artefact
    from harness import calibrate as calibration
    from harness.trials import make_setup

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


def main() -> None:
    """Entry point of the console script."""
    try:
        app(standalone_mode=False)
    except BadInput as error:
        _fail(str(error), 2)
    except CellFailed as error:
        _fail(str(error), 1)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail(_interrupted(sys.argv[1:]), 130)
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    except Exception as error:
        # Typer's own usage errors (a missing argument, an unknown option) derive from a class it does not export.
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            _fail(error.format_message(), 2)
        raise


def _interrupted(arguments: list[str]) -> str:
    """What to say after Ctrl-C: how to go on, where one can."""
    if arguments[:1] != ["run"]:
        return "interrupted"
    again = shlex.join(["depthbench", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    return f"interrupted; what was measured is kept, go on with: {again}"


def _fail(message: str, status: int) -> None:
    print(f"depthbench: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
