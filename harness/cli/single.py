"""Verbs around one model: its text, its scores, and how fast it is beside other engines."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from harness.cli.app import (
    LOOK,
    MEASURE,
    METHODS,
    MODELS,
    RUNS_ON,
    Data,
    Device,
    Dtype,
    MethodSpec,
    Model,
    Record,
    Threads,
    count,
    device_name,
    print_table,
    verb,
)
from harness.records.limits import BASELINE


@verb(LOOK, r"generate 'name[Zizzi]\n' --method 'skipdecode(speedup=2)'")
def generate(
    prompt: Annotated[list[str], typer.Argument(help=r"Prompts; `\n` stands for a line feed.")],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = BASELINE,
    max_new_tokens: Annotated[int, count("--max-new-tokens", help="Tokens per prompt at most.", metavar="N")] = 64,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Continue prompts under a method; prints the text and the layers each token ran."""
    from harness.cli import texts

    for result in texts.generate_texts(
        model, method, [p.replace("\\n", "\n") for p in prompt], max_new_tokens, device, dtype
    ):
        typer.echo(result)


@verb(LOOK, r"score 'name[Zizzi]\n' 'Zizzi is here.' --method calm")
def score(
    prompt: Annotated[str, typer.Argument(help=r"Prompt; `\n` stands for a line feed.")],
    continuation: Annotated[str, typer.Argument(help="Text whose log-likelihood is wanted.")],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = BASELINE,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Print the log-likelihood of a continuation, every token scored as the method would compute it."""
    from harness.cli import texts

    typer.echo(
        texts.score_text(model, method, prompt.replace("\\n", "\n"), continuation.replace("\\n", "\n"), device, dtype)
    )


@verb(
    MEASURE, "baseline --batch 1,8 --engines depthbench,transformers", "baseline --model smollm2-135m --out record.json"
)
def baseline(
    model: Model = "opt-e2e-mini/full",
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, e.g. 1,8,32.", metavar="N,N,...")] = "1,8,32",
    engines: Annotated[
        str, typer.Option("--engines", help="Engines to compare, depthbench among them.", metavar="NAME,NAME,...")
    ] = "depthbench,transformers,transformers-static,ctranslate2",
    prompt_tokens: Annotated[int, count("--prompt-tokens", help="Tokens of every prompt.", metavar="N")] = 32,
    new_tokens: Annotated[int, count("--new-tokens", min=2, help="Tokens generated per row.", metavar="N")] = 64,
    repeats: Annotated[int, count("--repeats", help="Turns of every engine.", metavar="N")] = 7,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Record = None,
) -> None:
    """Compare the full model's speed with the engines a user could pick instead.

    Same weights, prompts and threads for all; the engines take turns.
    """
    from harness.cli import listing

    table, below = listing.baseline(
        out,
        model=model,
        batch_sizes=listing.numbers("batch", batch),
        engines=listing.names("engines", engines),
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


@verb(
    MEASURE,
    "lm-eval --tasks lambada_openai --method calm --with-full",
    "lm-eval --model hf -a pretrained=smollm2-135m --tasks gsm8k",
    name="lm-eval",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def lm_eval(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-M",
            help="As for other verbs; or hf, with lm-eval's --model_args pretrained=MODEL.",
            autocompletion=MODELS,
            metavar="MODEL",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help='Method with parameters, e.g. "skipdecode(speedup=2)". May be repeated; full is the one compared with.',
            autocompletion=METHODS,
            metavar="METHOD",
        ),
    ] = None,
    data: Data = None,
    with_full: Annotated[
        bool,
        typer.Option(
            "--with-full", "--with_full", help="Evaluate the full model too, and give paired differences to it."
        ),
    ] = False,
    expected_tokens: Annotated[
        int | None,
        count(
            "--expected-tokens",
            "--expected_tokens",
            help="Length schedules plan for. Without it: the task's median.",
            metavar="N",
        ),
    ] = None,
    score_bos: Annotated[
        bool,
        typer.Option(
            "--score-bos",
            "--score_bos",
            help="In rolling likelihoods score a BOS the tokenizer adds, as lm-eval 0.4.13 does.",
        ),
    ] = False,
    threads: Threads = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="cpu, cuda or cuda:N. Without it: a GPU where there is one.",
            callback=lambda value: None if value is None else device_name(value),
            rich_help_panel=RUNS_ON,
            metavar="DEVICE",
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(
            "--dtype",
            help="Type of the weights in memory: float32, bfloat16, float16, or auto for the stored one. "
            "Without it: float32, and auto under --model_args, as lm-eval has it.",
            rich_help_panel=RUNS_ON,
            metavar="TYPE",
        ),
    ] = None,
) -> None:
    """Run lm-eval tasks, every request answered as the method computes it.

    All other options are those of `lm-eval run`, with its meaning: --tasks, --limit, --num_fewshot, --batch_size, --gen_kwargs,
    --apply_chat_template, --include_path, --output_path, --log_samples, --use_cache, --seed and others;
    `lm-eval run --help` lists them.
    """
    from harness.cli import lm_eval as command

    parts = command.run(
        context.args,
        model=model,
        methods=tuple(method or ()),
        data=data,
        with_full=with_full,
        expected_tokens=expected_tokens,
        score_bos=score_bos,
        threads=threads,
        device=device,
        dtype=dtype,
    )
    for part in parts:
        print_table(part, left=("task", "metric", "test")) if isinstance(part, list) else typer.echo(part)


@verb(MEASURE, "scoring-speed --sequences 200 --repeats 3", name="scoring-speed")
def scoring_speed(
    model: Model = "opt-e2e-mini/skipdecode-700",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method beside full. May be repeated. Without it: SkipDecode 2x, 3x and 5x.",
            autocompletion=METHODS,
            metavar="METHOD",
        ),
    ] = None,
    tasks: Annotated[
        str,
        typer.Option("--tasks", help="lm-eval tasks to compare with its own backend on.", metavar="NAME,NAME,..."),
    ] = "",
    data: Data = None,
    limit: Annotated[int, count("--limit", help="Documents per task.", metavar="N")] = 200,
    batch: Annotated[int, count("--batch", help="Rows scored together.", metavar="N")] = 16,
    sequences: Annotated[
        int, count("--sequences", min=0, help="Random sequences for `score`; 0 for none.", metavar="N")
    ] = 1000,
    tokens: Annotated[int, count("--tokens", min=2, help="Tokens of each sequence.", metavar="N")] = 64,
    prompt_tokens: Annotated[int, count("--prompt-tokens", help="Of them, tokens of the prompt.", metavar="N")] = 8,
    decode_batch: Annotated[int, count("--decode-batch", help="Rows decoded together, step by step.", metavar="N")] = 1,
    repeats: Annotated[int, count("--repeats", help="Turns of every arm.", metavar="N")] = 5,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Record = None,
) -> None:
    """Compare the speed of scoring: full, methods, step-by-step decoding, lm-eval's own backend."""
    from harness.cli import listing

    settings = dict(model=model, batch_size=batch, sequences=sequences, tokens=tokens, prompt_tokens=prompt_tokens)
    settings |= dict(
        limit=limit, decode_batch=decode_batch, repeats=repeats, threads=threads, device=device, dtype=dtype
    )
    settings["tasks"] = tuple(filter(None, tasks.split(",")))
    if method:
        settings["methods"] = tuple(method)
    print_table(listing.scoring_speed(out, data, **settings), left=("what", "arm"))


@verb(MEASURE, "scoring-agreement --data data --limit 20", name="scoring-agreement")
def scoring_agreement(
    model: Model = "smollm2-135m",
    data: Data = None,
    limit: Annotated[int, count("--limit", help="Documents per task.", metavar="N")] = 40,
    batch: Annotated[int, count("--batch", help="Rows computed together.", metavar="N")] = 4,
    max_length: Annotated[int, count("--max-length", min=64, help="Positions used.", metavar="N")] = 1024,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Record = None,
) -> None:
    """Compare answers with those of lm-eval's own backend: every kind of request, a plain and a BOS-adding tokenizer."""
    from harness.cli import listing

    settings = dict(limit=limit, batch_size=batch, max_length=max_length, threads=threads, device=device, dtype=dtype)
    left = ("tokenizer", "kind", "task", "verdict")
    print_table(listing.scoring_agreement(out, data, model=model, **settings), left=left)
