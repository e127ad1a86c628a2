"""Running lm-eval's evaluation over a model under a method: results with depths beside them.

lm-eval's numbers are what its own `simple_evaluate` returns, untouched. Beside them stand its version, its task versions and
hashes, the depths of every request in the samples, what was truncated, the share of the full model's block runs, and how the
scores stand to chance.
"""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.utils import hash_string, simple_parse_args_string

from harness.errors import BadInput, CellFailed
from harness.tasks.lm_eval import cache, chance
from harness.tasks.lm_eval.accounts import Record
from harness.tasks.lm_eval.bridge import MethodLM
from harness.tasks.lm_eval.data import local_data
from harness.tasks.lm_eval.documents import document_statistics
from harness.tasks.lm_eval.generation import MAX_GENERATED
from harness.tasks.lm_eval.loading import Loaded, load_tasks, quiet, why
from harness.tasks.lm_eval.options import Options

__all__ = ["DEPTHS", "Loaded", "Options", "evaluate", "expected_tokens", "load_tasks", "quiet"]

Json = dict[str, Any]

LOOKED_AT = 200
"""Documents whose targets the expected number of tokens is the median of; the first ones, whatever the limit."""
DEPTHS = (
    "contexts run as the method runs prompts, at full depth but for methods that say otherwise, and a continuation's first "
    "token is predicted from there; its token j is processed by "
    "decode step j + 1; every rolling window starts anew, with its context (one token but in a shorter last window) as prompt"
)


def expected_tokens(lm: MethodLM, task: Any, options: Options) -> int | None:
    """Median tokens of a task's targets: what schedules take as their horizon. None where the task does not say them plainly.

    The targets of the first documents count, whatever the limit, each as a continuation would be encoded. For a generation it is
    at most the number of tokens it may have.
    """
    kind, counts = str(task.OUTPUT_TYPE), []
    try:
        documents = list(islice(iter(task.eval_docs), LOOKED_AT))
        for document in documents:
            texts = task.doc_to_choice(document) if kind == "multiple_choice" else [task.doc_to_target(document)]
            counts += [len(lm.tok_encode(text, add_special_tokens=False)) for text in texts if isinstance(text, str)]
    except Exception:  # a definition that needs more than the document; the requests themselves decide then
        return None
    if not counts:
        return None
    median = int(statistics.median(counts))
    if kind == "generate_until":
        given = options.gen_kwargs
        changed = simple_parse_args_string(given) if given is None or isinstance(given, str) else given
        most = {**(task.config.generation_kwargs or {}), **changed}.get("max_gen_toks", MAX_GENERATED)
        with contextlib.suppress(TypeError, ValueError):  # what is no number is refused when it is asked for
            median = min(median, int(most))
    return max(1, min(median, lm.max_length))


def evaluate(
    lm: MethodLM, options: Options, data: Path | None = None, loaded: Loaded | None = None, level: int = logging.ERROR
) -> Json:
    """What lm-eval's `simple_evaluate` returns, with depths beside it.

    Returns:
        lm-eval's record, its numbers untouched, and: in every sample `executed_layers` (blocks per scored or generated token, one
        mean for every request and sample of it) and `layers` (blocks of each token); `task_hashes`; `aggregations` by task and
        metric; and `depthbench`: method, depth rule, expected tokens, requests truncated, the share of block runs, how scores
        stand to chance (`informative`, by task and metric), and metrics that are not finite, in words (`not_finite`).

    Raises:
        BadInput: see `load_tasks`; a task asks for what a method or the model cannot give.
        CellFailed: an answer is not finite.
    """
    loaded = loaded or load_tasks(options, data)
    if options.use_cache is not None:
        cache.check(f"{options.use_cache}-{lm.cache_name()}_rank0.db")  # lm-eval adds a rank and `.db`
    samples = _samples(options, loaded)
    lm.documents = samples or {}
    with local_data(data) as absent, quiet(level), _tasks_errors(options, loaded, absent), _shown(options.write_out):
        results: Json = lm_eval.simple_evaluate(
            model=lm,
            tasks=loaded.roots,
            num_fewshot=options.num_fewshot,
            batch_size=str(lm.batch_size),
            device=str(lm.device),
            use_cache=None if options.use_cache is None else f"{options.use_cache}-{lm.cache_name()}",
            cache_requests=options.cache_requests in ("true", "refresh"),
            rewrite_requests_cache=options.cache_requests == "refresh",
            delete_requests_cache=options.cache_requests == "delete",
            limit=options.limit,
            samples=samples,
            bootstrap_iters=options.bootstrap_iters,
            write_out=options.write_out,
            log_samples=True,
            system_instruction=options.system_instruction,
            apply_chat_template=options.apply_chat_template,
            fewshot_as_multiturn=options.fewshot_as_multiturn,
            gen_kwargs=options.gen_kwargs if options.gen_kwargs is None else _copied(options.gen_kwargs),
            task_manager=loaded.manager,
            predict_only=options.predict_only,
            confirm_run_unsafe_code=options.confirm_run_unsafe_code,
            random_seed=options.seeds[0],
            numpy_random_seed=options.seeds[1],
            torch_random_seed=options.seeds[2],
            fewshot_random_seed=options.seeds[3],
        )
    for name, found in results["samples"].items():
        _add_depths(lm, _kinds(loaded.tasks[name]), found)
    results["task_hashes"] = {name: _task_hash(found) for name, found in results["samples"].items()}
    results["aggregations"] = {name: _aggregations(task) for name, task in loaded.tasks.items()}
    vocabulary = lm.decoder.geometry.vocabulary
    results["depthbench"] = {
        "method": str(lm.method),
        "depth": lm.decoder.depth,
        "depths": DEPTHS,
        "identity": lm.identity(),
        "truncated": {name: vars(found) for name, found in sorted(lm.truncated.items())},
        "work": {kind: {**vars(found), "executed_share": found.executed_share} for kind, found in lm.work.items()},
        "informative": {
            name: chance.standings(
                document_statistics(results, name), found, str(loaded.tasks[name].OUTPUT_TYPE), vocabulary
            )
            for name, found in results["samples"].items()
        },
        "not_finite": _not_finite(results),
    }
    return results


def _copied(settings: str | Mapping[str, Any]) -> Any:
    return settings if isinstance(settings, str) else dict(settings)


def _samples(options: Options, loaded: Loaded) -> dict[str, list[int]] | None:
    """The documents asked for, in the order in which lm-eval takes them: it gives those of another order each other's numbers."""
    if options.samples is None:
        return None
    for name in options.samples:
        if name not in loaded.tasks:
            raise BadInput(f"samples: {name!r} is none of the tasks; they are {', '.join(loaded.tasks)}")
    found = {name: sorted(set(numbers)) for name, numbers in options.samples.items()}
    for name, numbers in found.items():
        count = len(loaded.tasks[name].eval_docs)
        if numbers[-1] >= count:
            raise BadInput(f"samples: {name} has documents 0 to {count - 1}, not {numbers[-1]}")
    return found


@contextlib.contextmanager
def _tasks_errors(options: Options, loaded: Loaded, absent: Sequence[str]) -> Iterator[None]:
    """Task definitions are programs: what they or lm-eval raise is said in one line. What we raise is ours, traceback included."""
    names = ", ".join(loaded.tasks)
    try:
        yield
    except (BadInput, CellFailed, MemoryError):
        raise
    except OverflowError as error:
        raise CellFailed(f"tasks: {names}: a metric is too large for a number ({error})") from None
    except Exception as error:
        if _raised_by_us(error):
            raise
        if "no documents available for sampling" in str(error):
            raise BadInput(f"num_fewshot: {names} has no split with documents to draw examples from; give 0") from None
        if options.num_fewshot and "ample larger than population" in str(error):
            raise BadInput(
                f"num_fewshot: {options.num_fewshot} is more than the documents that {names} can draw examples from; give fewer"
            ) from None
        raise BadInput(f"tasks: {names}: {why(error, [*loaded.absent, *absent])}") from error


def _raised_by_us(error: BaseException) -> bool:
    """Whether a call of ours, below lm-eval's, is on the way to where it was raised: a fault in answering, not in a task."""
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(str(at.tb_frame.f_globals.get("__name__", "")))
        at = at.tb_next
    below = frames[max((i for i, name in enumerate(frames) if name == "lm_eval.evaluator"), default=0) :]
    return any(name.partition(".")[0] == "harness" for name in below)


@contextlib.contextmanager
def _shown(wanted: bool) -> Iterator[None]:
    """lm-eval's `write_out` speaks through its log."""
    if not wanted:
        yield
        return
    logger, handler = logging.getLogger("lm_eval.evaluator_utils"), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def _kinds(task: Any) -> tuple[str, ...]:
    first = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else str(task.OUTPUT_TYPE)
    return first, *(k for k in ("loglikelihood", "loglikelihood_rolling", "generate_until") if k != first)


def _add_depths(lm: MethodLM, kinds: Sequence[str], samples: Sequence[Json]) -> None:
    """Put the records of a task's requests into its samples, a document's own where several ask the same."""
    taken: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        records: list[Record] = []
        for arguments, answers in zip(sample["arguments"], sample["resps"], strict=True):
            found = _records(lm, kinds, arguments)
            key = sample["filter"], repr(arguments)
            begin = taken[key] if len(found) >= taken[key] + len(answers) else 0
            taken[key] += len(answers)
            records += found[begin : begin + len(answers)]
        sample["executed_layers"] = [record.mean_layers for record in records]
        sample["layers"] = [record.layers for record in records]
        sample["generated_tokens"] = [record.tokens for record in records if record.tokens]


def _records(lm: MethodLM, kinds: Sequence[str], arguments: Sequence[Any]) -> list[Record]:
    found = next((records for kind in kinds if (records := lm.record(kind, arguments))), None)
    if found is None:
        raise BadInput("use_cache: holds an answer without its depths; name another file")
    return found


def _not_finite(results: Mapping[str, Any]) -> list[str]:
    """Metrics that are no finite number, with the first document that is the cause; a standard error may be missing."""
    found = []
    for task, numbers in results["results"].items():
        for key, value in numbers.items():
            if isinstance(value, float) and not math.isfinite(value) and "_stderr" not in key:
                metric, _, filter_name = key.partition(",")
                own = [s for s in results["samples"].get(task, ()) if s["filter"] == filter_name]
                cause = next((s["doc_id"] for s in own if _lacks_number(s.get(metric))), None)
                where = "" if cause is None else f", document {cause}"
                found.append(f"task {task}{where}: {metric} is {value}, not a finite number")
    return found


def _lacks_number(value: Any) -> bool:
    parts = value if isinstance(value, (list, tuple)) else (value,)
    return any(isinstance(part, float) and not math.isfinite(part) for part in parts)


def _task_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """The hash lm-eval's own tracker writes for a task."""
    return str(hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)))


def _aggregations(task: Any) -> dict[str, str]:
    return {metric: getattr(function, "__name__", "") for metric, function in task.aggregation().items()}
