"""Verbs around one model: its text, its scores, and how fast it is beside other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Data, Device, Dtype, MethodSpec, Model, app, print_table
from harness.records.limits import BASELINE


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Argument(help="Prompts; `\\n` stands for a line feed.")],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = BASELINE,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Tokens per prompt at most.")] = 64,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Continue prompts under a method; prints the text and the layers each token ran."""
    from harness.cli import texts

    for result in texts.generate_texts(
        model, method, [p.replace("\\n", "\n") for p in prompt], max_new_tokens, device, dtype
    ):
        typer.echo(result)


@app.command()
def score(
    prompt: Annotated[str, typer.Argument(help="Prompt; `\\n` stands for a line feed.")],
    continuation: Annotated[str, typer.Argument(help="Text whose log-likelihood is wanted.")],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = BASELINE,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Log-likelihood of a continuation, every token scored as the method would have computed it."""
    from harness.cli import texts

    typer.echo(
        texts.score_text(model, method, prompt.replace("\\n", "\n"), continuation.replace("\\n", "\n"), device, dtype)
    )


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
    from harness.cli import listing

    table, below = listing.baseline(
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
    print_table(table, left=("engine",))
    for line in below:
        typer.echo(line, err=True)


@app.command(
    "lm-eval",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
    options_metavar="--tasks <task> ... [lm-eval's options]",
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval tasks, every request answered as the method computes it; options as in lm-eval (--help lists them)."""
    from harness.cli import lm_eval as command

    for part in command.run(context.args):
        print_table(part, left=("task", "metric", "test")) if isinstance(part, list) else typer.echo(part)


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
    from harness.cli import listing

    settings = dict(model=model, batch_size=batch, sequences=sequences, tokens=tokens, prompt_tokens=prompt_tokens)
    settings |= dict(
        limit=limit, decode_batch=decode_batch, repeats=repeats, threads=threads, device=device, dtype=dtype
    )
    settings["tasks"] = tuple(filter(None, tasks.split(",")))
    if method:
        settings["methods"] = tuple(method)
    print_table(listing.scoring_speed(out, data, **settings), left=("what", "arm"))


@app.command("scoring-agreement")
def scoring_agreement(
    model: Model = "smollm2-135m",
    data: Data = None,
    limit: Annotated[int, typer.Option("--limit", help="Documents per task.")] = 40,
    batch: Annotated[int, typer.Option("--batch", help="Rows computed together.")] = 4,
    max_length: Annotated[int, typer.Option("--max-length", help="Positions used.")] = 1024,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the record.")] = None,
) -> None:
    """Compare answers with those of lm-eval's own backend: every kind of request, a plain and a BOS-adding tokenizer."""
    from harness.cli import listing

    settings = dict(limit=limit, batch_size=batch, max_length=max_length, threads=threads, device=device, dtype=dtype)
    print_table(
        listing.scoring_agreement(out, data, model=model, **settings), left=("tokenizer", "kind", "task", "verdict")
    )
