"""Running lm-eval's evaluation over a model under a method: tasks found and loaded, results with depths beside them.

lm-eval's numbers are what its own `simple_evaluate` returns, untouched. Beside them stand its version, its task versions and
hashes, the depths of every request in the samples, what was truncated, and the share of the full model's block runs.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api import model as api_model
from lm_eval.api import task as api_task
from lm_eval.tasks import TaskManager
from lm_eval.utils import hash_string, simple_parse_args_string
from tqdm import tqdm

from harness.errors import BadInput, near
from harness.tasks.lm_eval.bridge import MethodLM
from harness.tasks.lm_eval.data import local_data
from harness.tasks.lm_eval.generation import MAX_GENERATED

Json = dict[str, Any]

LOOKED_AT = 200
"""Documents whose targets the expected number of tokens is the median of; the first ones, whatever the limit."""
DEPTHS = (
    "contexts run at full depth, so a continuation's first token is predicted by the full model; its token j is processed by "
    "decode step j + 1; every rolling window starts anew, with its context (one token but in a shorter last window) at full depth"
)


@dataclass(frozen=True)
class Options:
    """lm-eval's own options, with its defaults.

    Attributes:
        tasks: names, groups, tags, patterns or YAML files.
        limit: documents per task, below 1 a share of them.
        num_fewshot: examples in the prompt; None: what the task says.
        apply_chat_template: whether, or which.
        system_instruction: put before the prompt.
        fewshot_as_multiturn: examples as turns of a chat.
        include_path: folder with more tasks.
        gen_kwargs: change a task's generation settings.
        use_cache: prefix of the file that answers are kept in; the model's and method's digest is added.
        bootstrap_iters: of lm-eval's own standard errors.
        predict_only: no metrics.
        seeds: python, numpy, torch, few-shot.
    """

    tasks: tuple[str, ...]
    limit: float | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    include_path: str | None = None
    gen_kwargs: str | None = None
    use_cache: str | None = None
    bootstrap_iters: int = 1000
    predict_only: bool = False
    seeds: tuple[int | None, int | None, int | None, int | None] = (0, 1234, 1234, 1234)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise BadInput("tasks: none is given; name some, e.g. --tasks lambada_openai,gsm8k")
        if self.limit is not None and self.limit <= 0:
            raise BadInput(f"limit: {self.limit:g} is out of range; give documents per task, or a share below 1")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise BadInput(f"num_fewshot: {self.num_fewshot} is out of range; give 0 or more")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise BadInput(f"include_path: {self.include_path} is no folder; give one with lm-eval task files")


@dataclass(frozen=True)
class Loaded:
    """Tasks ready to run: what was asked for, as lm-eval's objects, its single tasks by name, and splits that are not there."""

    roots: list[Any]
    tasks: Mapping[str, Any]
    manager: TaskManager
    absent: list[str]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval says a great deal at level WARNING that is no warning, and draws its bars into files; errors are still heard."""
    logger = logging.getLogger("lm_eval")
    # Its transformers backend draws one whatever it is told; it is loaded only where it is measured.
    backend = sys.modules.get("lm_eval.models.huggingface")
    modules = (api_model, api_task, *([backend] if backend is not None else []))
    before, bars = logger.level, [(module, vars(module)["tqdm"]) for module in modules]
    logger.setLevel(logging.ERROR)
    for module in modules:
        vars(module)["tqdm"] = _bar
    try:
        yield
    finally:
        logger.setLevel(before)
        for module, bar in bars:
            vars(module)["tqdm"] = bar


def _bar(*arguments: Any, **settings: Any) -> Any:
    """A progress bar that shows on a terminal only."""
    return tqdm(*arguments, **{**settings, "disable": settings.get("disable") or None})


def load_tasks(options: Options, data: Path | None) -> Loaded:
    """The tasks of a run.

    Raises:
        BadInput: no task has a name given (with near ones), or the data of one cannot be had (with how to give it).
    """
    if options.include_path is not None:
        # lm-eval takes seconds to read its own thousands of task files; where the user's folder has all, they are not needed.
        with contextlib.suppress(KeyError, BadInput):
            return _load(_manager(options.include_path, False), options, data)
    return _load(_manager(options.include_path, True), options, data)


@cache
def _manager(include_path: str | None, defaults: bool) -> TaskManager:
    return TaskManager(include_path=include_path, include_defaults=defaults)


def _load(manager: TaskManager, options: Options, data: Path | None) -> Loaded:
    names: list[str] = []
    for given in options.tasks:
        if Path(given).suffix in (".yaml", ".yml"):
            if not Path(given).is_file():
                raise BadInput(f"tasks: there is no file {given}; give an lm-eval task file or a name")
            names.append(given)
            continue
        found = manager.match_tasks([given])
        if not found:
            hint = near(given, manager.all_tasks, "`lm-eval ls tasks` lists them")
            raise BadInput(f"tasks: lm-eval {lm_eval.__version__} has no task {given!r}; {hint}")
        names += [name for name in found if name not in names]
    with local_data(data) as absent, quiet():
        try:
            loaded = manager.load(names)
        except (BadInput, KeyError):
            raise
        except ImportError as error:
            raise BadInput(
                f"tasks: {', '.join(names)}: needs a package that is not installed ({_line(error)})"
            ) from None
        except Exception as error:  # task files are programs: what they raise has many types
            raise BadInput(f"tasks: {', '.join(names)}: cannot be loaded ({_why(error, absent)})") from None
    groups, tasks = loaded.get("groups", {}), loaded["tasks"]
    inner = {child for group in groups.values() for child in group.child_names}
    inner |= {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    roots = [group for name, group in groups.items() if name not in inner]
    roots += [task for name, task in tasks.items() if name not in inner]
    return Loaded(roots, tasks, manager, absent)


def _why(error: Exception, absent: Sequence[str]) -> str:
    """The cause in one line; splits that are not there come first, for they explain most of what follows."""
    return "; ".join([*dict.fromkeys(absent), f"{type(error).__name__}: {_line(error)}"])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


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
        settings = {**(task.config.generation_kwargs or {}), **simple_parse_args_string(options.gen_kwargs)}
        median = min(median, int(settings.get("max_gen_toks", MAX_GENERATED)))
    return max(1, min(median, lm.max_length))


def evaluate(lm: MethodLM, options: Options, data: Path | None = None, loaded: Loaded | None = None) -> Json:
    """What lm-eval's `simple_evaluate` returns, with depths beside it.

    Returns:
        lm-eval's record, its numbers untouched, and: in every sample `executed_layers` (blocks per scored or generated token, one
        mean per request) and `layers` (blocks of each token); `task_hashes`; `aggregations` by task and metric; and `depthbench`:
        method, depth rule, expected tokens, requests truncated, and the share of block runs.

    Raises:
        BadInput: see `load_tasks`; a task asks for what a method or the model cannot give.
    """
    loaded = loaded or load_tasks(options, data)
    with local_data(data) as absent, quiet():
        try:
            results: Json = lm_eval.simple_evaluate(
                model=lm,
                tasks=loaded.roots,
                num_fewshot=options.num_fewshot,
                batch_size=str(lm.batch_size),
                device=str(lm.device),
                # lm-eval adds a rank and `.db`.
                use_cache=None if options.use_cache is None else f"{options.use_cache}-{lm.cache_name()}",
                limit=options.limit,
                bootstrap_iters=options.bootstrap_iters,
                log_samples=True,
                system_instruction=options.system_instruction,
                apply_chat_template=options.apply_chat_template,
                fewshot_as_multiturn=options.fewshot_as_multiturn,
                gen_kwargs=options.gen_kwargs,
                task_manager=loaded.manager,
                predict_only=options.predict_only,
                random_seed=options.seeds[0],
                numpy_random_seed=options.seeds[1],
                torch_random_seed=options.seeds[2],
                fewshot_random_seed=options.seeds[3],
            )
        except AssertionError as error:
            if "no documents available for sampling" not in str(error):
                raise
            wanted = ", ".join(loaded.tasks)
            raise BadInput(f"num_fewshot: {wanted} has no split with documents to draw examples from; give 0") from None
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"tasks: {', '.join(loaded.tasks)}: {_why(error, [*loaded.absent, *absent])}") from None
    for name, samples in results["samples"].items():
        kinds = _kinds(loaded.tasks[name])
        for sample in samples:
            records = [_record(lm, kinds, arguments) for arguments in sample["arguments"]]
            sample["executed_layers"] = [record.mean_layers for record in records]
            sample["layers"] = [record.layers for record in records]
            sample["generated_tokens"] = [record.tokens for record in records if record.tokens]
    results["task_hashes"] = {name: _task_hash(samples) for name, samples in results["samples"].items()}
    results["aggregations"] = {name: _aggregations(task) for name, task in loaded.tasks.items()}
    results["depthbench"] = {
        "method": str(lm.method),
        "depth": lm.decoder.depth,
        "depths": DEPTHS,
        "identity": lm.identity(),
        "truncated": {name: vars(found) for name, found in sorted(lm.truncated.items())},
        "work": {kind: {**vars(found), "executed_share": found.executed_share} for kind, found in lm.work.items()},
    }
    return results


def _kinds(task: Any) -> tuple[str, ...]:
    first = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else str(task.OUTPUT_TYPE)
    return first, *(k for k in ("loglikelihood", "loglikelihood_rolling", "generate_until") if k != first)


def _record(lm: MethodLM, kinds: Sequence[str], arguments: Sequence[Any]) -> Any:
    found = next((record for kind in kinds if (record := lm.record(kind, arguments)) is not None), None)
    if found is None:
        raise BadInput("use_cache: holds an answer without its depths; name another file")
    return found


def _task_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """The hash lm-eval's own tracker writes for a task."""
    return str(hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)))


def _aggregations(task: Any) -> dict[str, str]:
    return {metric: getattr(function, "__name__", "") for metric, function in task.aggregation().items()}
