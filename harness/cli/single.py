"""Verbs around one model: its text, its scores, and how fast it is beside other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import (
    LOOK,
    MEASURE,
    METHODS,
    Data,
    Device,
    Dtype,
    MethodSpec,
    Model,
    Record,
    Threads,
    count,
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


@verb(MEASURE, "lm-eval --tasks lambada_openai --limit 100 --method calm", name="lm-eval")
def lm_eval(
    tasks: Annotated[
        str, typer.Option("--tasks", "-t", help="lm-eval tasks, groups or patterns, separated by commas.")
    ],
    model: Model = "opt-e2e-mini/full",
    method: MethodSpec = BASELINE,
    data: Data = None,
    with_full: Annotated[
        bool, typer.Option("--with-full", help="Evaluate the full model too, and give the paired difference per task.")
    ] = False,
    limit: Annotated[
        str | None, typer.Option("--limit", "-L", help="Documents per task; below 1 a share of them.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        count("--num-fewshot", "--num_fewshot", "-f", min=0, help="Examples in the prompt.", metavar="N"),
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "--batch_size", "-b", help="Rows at once, or auto.")
    ] = "16",
    max_batch_size: Annotated[
        int | None,
        count("--max-batch-size", "--max_batch_size", help="What auto starts from.", metavar="N"),
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
        count("--expected-tokens", help="Length schedules plan for. Without it: the task's median.", metavar="N"),
    ] = None,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Run lm-eval tasks, every request answered as the method computes it; options as in lm-eval."""
    from harness.cli import lm_eval as lm_eval_command

    settings = {key: value for key, value in locals().items() if key != "lm_eval_command"}
    for part in lm_eval_command.run(**settings):
        print_table(part, left=("task", "metric")) if isinstance(part, list) else typer.echo(part)


@verb(MEASURE, "scoring-speed --sequences 200 --repeats 3", name="scoring-speed")
def scoring_speed(
    model: Model = "opt-e2e-mini/skipdecode",
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
