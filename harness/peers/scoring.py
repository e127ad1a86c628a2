"""How fast given tokens are scored: under methods, beside decoding them one by one and beside lm-eval's own backend.

Two comparisons, each in one process whose arms take turns (ABBA) on the same weights, threads and type:

* `score`: random sequences through `decode.forced.score` in full, under each method, and decoded step by step. A method should
  cost no more than its executed share (block runs over those of the full model, the prompt's counted) plus 10 % of full.
* `lm_eval`: the requests of lm-eval tasks through lm-eval's transformers backend, this engine in full, and each method, at one
  batch size. Full should cost at most as much as the backend, a method at most its executed share plus 10 % of it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

import methods
from harness.decode.engine import generate
from harness.decode.forced import score
from harness.errors import BadInput
from harness.machine import environment, turn
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.kernels import choices
from harness.models.load import load_model
from harness.plan import Step
from harness.records.limits import BASELINE
from harness.stats import intervals

Json = dict[str, Any]

ALLOWANCE = 0.10
"""What a method may cost above its executed share, of full's time."""
FULL, BACKEND, STEPS = BASELINE, "lm-eval hf", "step by step"


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        model: anything `load_model` takes.
        methods: specs beside the full model.
        batch_size: rows scored together.
        sequences: scored by `score`, of `tokens` tokens each, the first `prompt_tokens` of them prompt; 0 leaves `score` out.
        tokens: of each sequence.
        prompt_tokens: of each sequence.
        decoded: sequences decoded step by step (their time is taken per sequence).
        decode_batch: rows decoded together.
        tasks: lm-eval tasks whose requests are answered; none leaves the second comparison out.
        limit: documents per task.
        repeats: turns of every arm.
        threads: CPU threads; None: one per physical core.
        dtype: of the weights.
        device: where they are.
        seed: of the sequences.
    """

    model: str = "opt-e2e-mini/skipdecode-700"
    methods: tuple[str, ...] = ("skipdecode(speedup=2)", "skipdecode(speedup=3)", "skipdecode(speedup=5)")
    batch_size: int = 16
    sequences: int = 1000
    tokens: int = 64
    prompt_tokens: int = 8
    decoded: int = 32
    decode_batch: int = 1
    tasks: tuple[str, ...] = ()
    limit: int | None = 200
    repeats: int = 5
    threads: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("sequences", 0), ("decoded", 1), ("decode_batch", 1), ("repeats", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name}: {getattr(self, name)} is out of range; give {least} or more")
        if not 1 <= self.prompt_tokens < self.tokens:
            raise BadInput(
                f"prompt_tokens: {self.prompt_tokens} is out of range; give 1 to {self.tokens - 1}, below tokens"
            )
        if not self.sequences and not self.tasks:
            raise BadInput("tasks: neither sequences nor tasks are given, so there is nothing to measure")


def measure(settings: Settings, data: Path | None = None) -> Json:
    """Run the comparisons; returns `settings`, `environment`, `kernels` and `rows`, raw seconds in each.

    Raises:
        BadInput: a setting does not fit the model, or a task cannot be had.
        CellFailed: another run kept the machine for too long.
    """
    with turn.taken(settings.device, timed=True):
        return _measure(settings, data)


def _measure(settings: Settings, data: Path | None) -> Json:
    threads = settings.threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    decoder = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    chosen = {spec: methods.create(spec).resolve(decoder.depth, decoder.extras) for spec in settings.methods}
    rows: list[Json] = []
    if settings.sequences:
        rows += _score_rows(settings, decoder, chosen)
    if settings.tasks:
        rows += _lm_eval_rows(settings, decoder, data)
    return {
        "settings": {**asdict(settings), "threads": threads},
        "environment": environment.fingerprint(),
        "kernels": choices.table(),
        "rows": rows,
    }


def executed_share(method: Method, depth: int, prompt: int, tokens: int, expected: int) -> float | None:
    """Block runs of a sequence over those of the full model; None where they depend on the input."""
    if method.family in ("gate", "exit"):
        return None
    steps = [method.plan(Step(k, expected), prompt, depth).budget for k in range(1, tokens - prompt + 1)]
    return (prompt * method.prompt_plan(depth).budget + sum(steps)) / (tokens * depth)


def _score_rows(settings: Settings, decoder: Decoder, chosen: Mapping[str, Method]) -> list[Json]:
    if settings.tokens > decoder.geometry.max_positions:
        raise BadInput(
            f"tokens: {settings.tokens} is out of range; {settings.model} has {decoder.geometry.max_positions} positions"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.sequences, settings.tokens)
    ids = torch.randint(2, decoder.geometry.vocabulary, shape, generator=generator).to(decoder.device)
    expected, prompt = settings.tokens - settings.prompt_tokens, settings.prompt_tokens
    full = methods.create(FULL)

    def scored(method: Method) -> Callable[[], None]:
        def job() -> None:
            for part in ids.split(settings.batch_size):
                score(decoder, method, part, [prompt] * len(part), expected_tokens=expected)

        return job

    def decoded() -> None:
        for part in ids[: settings.decoded, :prompt].split(settings.decode_batch):
            generate(decoder, full, part, max_new_tokens=expected + 1, stop_at_eos=False)

    jobs = {FULL: scored(full), STEPS: decoded, **{spec: scored(method) for spec, method in chosen.items()}}
    seconds = _turns(jobs, settings.repeats, decoder.device)
    share = settings.sequences / min(settings.decoded, settings.sequences)
    seconds[STEPS] = [s * share for s in seconds[STEPS]]
    rows = []
    for name, times in seconds.items():
        part = (
            1.0
            if name in (FULL, STEPS)
            else executed_share(chosen[name], decoder.depth, prompt, settings.tokens, expected)
        )
        rows.append(_row("score", name, times, seconds[FULL], part))
    return rows


def _lm_eval_rows(settings: Settings, decoder: Decoder, data: Path | None) -> list[Json]:
    if decoder.tokenizer is None:
        raise BadInput(f"model: {settings.model} has no tokenizer, so tasks cannot be scored; leave tasks out")
    from lm_eval.models.huggingface import HFLM

    from harness.tasks.lm_eval.bridge import MethodLM
    from harness.tasks.lm_eval.evaluate import Options, load_tasks, quiet

    with quiet():
        backend = HFLM(pretrained=decoder.source, tokenizer=decoder.tokenizer, batch_size=settings.batch_size)
    rows = []
    loaded = load_tasks(Options(settings.tasks), data)
    for name, task in loaded.tasks.items():
        with quiet():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=1234)
            task.build_all_requests(limit=settings.limit)
        kind = task.instances[0].request_type
        arms = {spec: MethodLM(decoder, spec, settings.batch_size) for spec in (FULL, *settings.methods)}

        def answering(lm: Any, kind: str = kind, task: Any = task) -> Callable[[], None]:
            def job() -> None:
                with quiet():
                    getattr(lm, kind)(task.instances, disable_tqdm=True)

            return job

        jobs = {BACKEND: answering(backend), **{spec: answering(lm) for spec, lm in arms.items()}}
        seconds = _turns(jobs, settings.repeats, decoder.device)
        for arm, times in seconds.items():
            work = arms[arm].work.get(kind) if arm in arms else None
            part = work.executed_share if work is not None else 1.0
            rows.append(
                {**_row(name, arm, times, seconds[BACKEND], part), "requests": len(task.instances), "kind": kind}
            )
    return rows


def _turns(jobs: Mapping[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every job at every turn, after one turn that is dropped; every other turn the other way round."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name in list(jobs) if number % 2 else list(jobs)[::-1]:
            gc.collect()
            began = time.perf_counter()
            jobs[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _row(what: str, arm: str, times: Sequence[float], base: Sequence[float], share: float | None) -> Json:
    """One arm: its cost as a share of the base's time, and what it may be at most."""
    cost = intervals.paired_ratio([times], [base])
    most = None if share is None or arm in (BACKEND, STEPS) else share if arm == FULL else share + ALLOWANCE
    return {
        "what": what,
        "arm": arm,
        "seconds": list(times),
        "executed_share": share,
        "cost": cost.value,
        "cost_low": _finite(cost.low),
        "cost_high": _finite(cost.high),
        "goal_at_most": most,
    }


def _finite(value: float) -> float | None:
    return value if value == value else None


def table(record: Json) -> list[tuple[str, ...]]:
    """Rows to print. `cost` is a share of the first arm's time: full for `score`, lm-eval's backend for a task."""
    head = ("what", "arm", "seconds", "executed share", "cost [95 %]", "goal: at most", "reached")
    rows: list[tuple[str, ...]] = [head]
    for row in record["rows"]:
        ends = "" if row["cost_low"] is None else f" [{row['cost_low']:.3f}, {row['cost_high']:.3f}]"
        share = "" if row["executed_share"] is None else f"{row['executed_share']:.3f}"
        goal = row["goal_at_most"]
        reached = "" if goal is None or row["what"] == "score" and row["arm"] == FULL else _reached(row, goal)
        mean = sum(row["seconds"]) / len(row["seconds"])
        rows.append(
            (
                row["what"],
                row["arm"],
                f"{mean:.3f}",
                share,
                f"{row['cost']:.3f}{ends}",
                "" if not reached else f"{goal:.3f}",
                reached,
            )
        )
    return rows


def _reached(row: Mapping[str, Any], goal: float) -> str:
    """Whether the interval shows that a goal is reached or missed."""
    if row["cost_low"] is None:
        return "unclear"
    return "yes" if row["cost_high"] <= goal else "no" if row["cost_low"] > goal else "unclear"
