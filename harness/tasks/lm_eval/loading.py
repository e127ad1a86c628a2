"""Finding and loading lm-eval's tasks, from its own files or a user's, with data from the hub or a folder."""

from __future__ import annotations

import contextlib
import glob
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval import evaluator
from lm_eval.api import metrics as api_metrics
from lm_eval.api import model as api_model
from lm_eval.api import task as api_task
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from harness import waiting
from harness.errors import BadInput, near, one_line
from harness.tasks.lm_eval.data import local_data
from harness.tasks.lm_eval.index import quicker
from harness.tasks.lm_eval.options import Options


@dataclass(frozen=True)
class Loaded:
    """Tasks ready to run: what was asked for, as lm-eval's objects, its single tasks by name, and splits that are not there."""

    roots: list[Any]
    tasks: Mapping[str, Any]
    manager: TaskManager
    absent: list[str]


@contextlib.contextmanager
def quiet(level: int = logging.ERROR) -> Iterator[None]:
    """lm-eval says a great deal at level WARNING that is no warning, and draws its bars into files; `level` is still heard."""
    logger = logging.getLogger("lm_eval")
    # Its transformers backend draws one whatever it is told; it is loaded only where it is measured.
    backend = sys.modules.get("lm_eval.models.huggingface")
    quieter = [(module, "tqdm", _bar) for module in (api_model, api_task, backend) if module is not None]
    quieter += [(api_metrics, "bootstrap_stderr", _bootstrapped), (evaluator, "get_git_commit_hash", _commit)]
    before, kept = logger.level, [(module, name, vars(module)[name]) for module, name, _ in quieter]
    logger.setLevel(level)
    for module, name, own in quieter:
        vars(module)[name] = own
    try:
        yield
    finally:
        logger.setLevel(before)
        for module, name, old in kept:
            vars(module)[name] = old


def _bar(*arguments: Any, **settings: Any) -> Any:
    """A progress bar that shows on a terminal only."""
    return tqdm(*arguments, **{**settings, "disable": settings.get("disable") or None})


def _bootstrapped(f: Any, xs: Any, iters: int) -> float:
    """lm-eval's bootstrap without the line and the bar it writes among the results."""
    with (
        waiting.told(f"standard error of {f.__name__}"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        return _BOOTSTRAP(f, xs, iters)  # type: ignore[no-any-return]


def _commit() -> str | None:
    """The commit of the folder one stands in, as lm-eval records it, without git's complaint where there is none."""
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


_BOOTSTRAP = api_metrics.bootstrap_stderr


def load_tasks(options: Options, data: Path | None) -> Loaded:
    """The tasks of a run.

    Raises:
        BadInput: no task has a name given (with near ones), or the data of one cannot be had (with how to give it).
    """
    with waiting.told("finding lm-eval's tasks"):
        return _found(options, data)


def _found(options: Options, data: Path | None) -> Loaded:
    metadata = json.dumps(dict(options.metadata), sort_keys=True, default=str)
    if options.include_path is not None:
        # lm-eval has thousands of task files; where the user's folder has all that are named, they are not needed.
        with contextlib.suppress(BadInput):
            return _load(_manager(options.include_path, False, metadata), options, data)
    return _load(_manager(options.include_path, True, metadata), options, data)


@cache
def _manager(include_path: str | None, defaults: bool, metadata: str) -> TaskManager:
    with quicker():
        return TaskManager(include_path=include_path, include_defaults=defaults, metadata=json.loads(metadata))


def _load(manager: TaskManager, options: Options, data: Path | None) -> Loaded:
    names = list(dict.fromkeys(name for given in options.tasks for name in _named(manager, given)))
    with local_data(data) as absent, quiet():
        try:
            loaded = manager.load(names)
        except BadInput:
            raise
        except ImportError as error:
            raise BadInput(
                f"tasks: {', '.join(names)}: needs a package that is not installed ({one_line(error)})"
            ) from None
        except Exception as error:  # task files are programs: what they raise has many types
            raise BadInput(f"tasks: {', '.join(names)}: cannot be loaded ({why(error, absent)})") from None
    groups, tasks = loaded.get("groups", {}), loaded["tasks"]
    inner = {child for group in groups.values() for child in group.child_names}
    inner |= {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    roots = [group for name, group in groups.items() if name not in inner]
    roots += [task for name, task in tasks.items() if name not in inner]
    return Loaded(roots, tasks, manager, absent)


def _named(manager: TaskManager, given: str) -> list[str]:
    """The tasks, or the files of tasks, that a name, pattern, file or folder stands for."""
    if Path(given).suffix in (".yaml", ".yml"):
        found = sorted(glob.glob(given)) if glob.has_magic(given) else [given]
        if not found or not os.path.isfile(found[0]):
            raise BadInput(f"tasks: there is no file {given}; give an lm-eval task file or a name")
        return found
    found = list(manager.match_tasks([given]))
    if not found and os.path.isdir(given):
        found = sorted(str(file) for file in Path(given).glob("*.yaml"))
        if not found:
            raise BadInput(f"tasks: the folder {given} has no *.yaml; give one with lm-eval task files")
    if not found:
        hint = near(given, manager.all_tasks, "`lm-eval ls tasks` lists them")
        raise BadInput(f"tasks: lm-eval {lm_eval.__version__} has no task {given!r}; {hint}")
    return found


def why(error: Exception, absent: Sequence[str]) -> str:
    """The cause in one line; splits that are not there come first, for they explain most of what follows."""
    return "; ".join([*dict.fromkeys(absent), one_line(error)])
