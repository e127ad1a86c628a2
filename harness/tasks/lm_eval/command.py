"""The command line of `depthbench lm-eval`: lm-eval's own parser, and what a method needs beside it.

A command line of `lm-eval run` means here what it means there, also where it names `--model hf`; hyphens and underscores in the
names of options are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lm_eval._cli.run import Run
from lm_eval.config.evaluate_config import EvaluatorConfig

from harness.errors import BadInput, one_line
from harness.records.limits import BASELINE
from harness.tasks.lm_eval.options import Options
from harness.tasks.lm_eval.registered import NAME, best_device, read_model_args

DEFAULT_MODEL = "opt-e2e-mini/full"
BATCH_SIZE = 16
"""Rows computed together where nothing is said; lm-eval's 1 gives the same answers, later."""
_BACKENDS = (NAME, "hf", "hf-auto", "huggingface")
"""Values of `--model` that leave the model to `--model_args pretrained=...`."""
_REFUSED = {
    "trust_remote_code": "no code that comes with a checkpoint or data set is run here",
    "check_integrity": "it runs lm-eval's test files, which its package does not contain",
    **dict.fromkeys(
        ("wandb_args", "wandb_config_args", "trackio_args", "hf_hub_log_args"),
        f"results are files here; lm-eval's own command sends them: python -m depthbench.lm_eval run --model {NAME} ...",
    ),
}


@dataclass(frozen=True)
class Own:
    """What our command takes beside lm-eval's options; see its help."""

    model: str | None = None
    methods: tuple[str, ...] = ()
    data: Path | None = None
    with_full: bool = False
    expected_tokens: int | None = None
    score_bos: bool = False
    threads: int | None = None
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Command:
    """What is to be done.

    Attributes:
        model: anything `load_model` takes.
        methods: specs, the baseline first where it is among them.
        settings: arguments of `MethodLM` beside model and method.
        options: lm-eval's.
        data: local data folder.
        output_path: folder or .json file; None: the default folder.
        log_samples: whether samples are written.
        expected_tokens: that schedules plan for; None: each task's median.
        threads: CPU threads; None: one per physical core.
        show_config: print the results' whole record.
        level: of lm-eval's own log.
    """

    model: str
    methods: tuple[str, ...]
    settings: Mapping[str, Any]
    options: Options
    data: Path | None
    output_path: Path | None
    log_samples: bool
    expected_tokens: int | None
    threads: int | None
    show_config: bool
    level: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line that names the option, what is wrong with it, and what it is for."""
        found = re.fullmatch(r"argument (?:-\w/)?--(\w+)(?:/-\w)?: (.*)", message, re.DOTALL)
        if found is None:
            raise BadInput(f"{message}; `lm-eval run --help` lists the options")
        name, what = found[1], re.sub(r"invalid .* value: (.*)", r"\1 does not fit", found[2], flags=re.DOTALL)
        action = next(a for a in self._actions if f"--{name}" in a.option_strings)
        raise BadInput(f"{name}: {' '.join(what.split())}; lm-eval says: {' '.join((action.help or name).split())}")


def parser() -> argparse.ArgumentParser:
    """lm-eval's own."""
    group = argparse.ArgumentParser(prog="depthbench").add_subparsers(parser_class=_Parser)
    Run.create(group)
    made: argparse.ArgumentParser = group.choices["run"]
    made.allow_abbrev = False
    return made


def parse(arguments: Sequence[str], own: Own) -> Command:
    """What a command line asks for: `arguments` in lm-eval's own words, and our options.

    Raises:
        BadInput: an option that is not known, not supported (with the reason), or whose value does not fit.
    """
    given = [_underscored(argument) for argument in arguments]
    try:
        read, left = parser().parse_known_args(given)
    except BadInput:
        raise
    except ValueError as error:  # raised inside lm-eval's own actions
        raise BadInput(one_line(error).removeprefix("ValueError: ")) from None
    if left:
        raise BadInput(f"{left[0]}: is no option or needs one before it; `lm-eval run --help` lists the options")
    _refuse(vars(read))
    output = getattr(read, "output_path", None)
    config = _config(read)
    if not hasattr(read, "batch_size") and "batch_size" not in _file(read.config):
        config.batch_size = BATCH_SIZE
    _refuse({key: getattr(config, key) for key in _REFUSED})
    if output is not None and not output.strip():
        raise BadInput("output_path: is empty; name a folder or a .json file")
    return _command(config, own, output)


def _underscored(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def _refuse(values: Mapping[str, Any]) -> None:
    for name, why in _REFUSED.items():
        if values.get(name):
            raise BadInput(f"{name}: is not supported: {why}")


def _config(read: argparse.Namespace) -> EvaluatorConfig:
    """lm-eval's own configuration, from a file where one is named."""
    # lm-eval wants a place for samples to be named; here there is a default one.
    read.output_path = getattr(read, "output_path", None) or os.curdir
    logger = logging.getLogger("lm_eval")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)  # it warns of every limit
        with contextlib.redirect_stdout(io.StringIO()):
            return EvaluatorConfig.from_cli(read)
    except (TypeError, ValueError, AttributeError, OSError) as error:
        where = f"config {read.config}: " if read.config else ""
        raise BadInput(f"{where}{one_line(error).partition(': ')[2]}") from None
    finally:
        logger.setLevel(before)


def _file(config: str | None) -> Mapping[str, Any]:
    """What a configuration file says."""
    return EvaluatorConfig.load_yaml_config(config) if config else {}


def _model(named: str | None, pretrained: Any) -> str:
    if pretrained is None:
        if named in _BACKENDS:
            raise BadInput(f"model: {named} needs --model_args pretrained=MODEL; or give --model MODEL")
        return named or DEFAULT_MODEL
    if named is not None and named not in _BACKENDS:
        raise BadInput(f"model: {named!r} and model_args pretrained={pretrained!r} are two models; give one")
    return str(pretrained)


def _command(config: EvaluatorConfig, own: Own, output: str | None) -> Command:
    settings = read_model_args(config.model_args or {})
    named = own.model or (None if config.model == "hf" else str(config.model))
    pretrained = settings.pop("model", None)
    model = _model(named, pretrained)
    methods = _methods(own, settings.pop("method", None))
    given = {key: settings.pop(key, None) for key in ("dtype", "device")}
    settings["dtype"] = own.dtype or given["dtype"] or ("float32" if pretrained is None else "auto")
    settings["device"] = own.device or given["device"] or best_device(None)
    for name, value in (("batch_size", config.batch_size), ("max_batch_size", config.max_batch_size)):
        settings.setdefault(name, value)
    if own.score_bos:
        settings["score_bos"] = True
    tasks = config.tasks if isinstance(config.tasks, (list, tuple)) else str(config.tasks).split(",")
    if not all(isinstance(task, str) for task in tasks):
        raise BadInput("tasks: give names, patterns or files")
    level = logging.getLevelName(config.verbosity) if config.verbosity else logging.ERROR
    if not isinstance(level, int):
        raise BadInput(f"verbosity: {config.verbosity!r} is no level; give DEBUG, INFO, WARNING, ERROR or CRITICAL")
    options = Options(
        tuple(part for task in tasks for name in task.split(",") if (part := name.strip())),
        limit=config.limit,
        samples=config.samples,
        num_fewshot=config.num_fewshot,
        apply_chat_template=config.apply_chat_template,
        system_instruction=config.system_instruction,
        fewshot_as_multiturn=config.fewshot_as_multiturn is not False,
        include_path=config.include_path,
        gen_kwargs=config.gen_kwargs or None,
        use_cache=config.use_cache,
        cache_requests=_requests_cache(config.cache_requests),
        bootstrap_iters=100_000,
        predict_only=config.predict_only,
        write_out=config.write_out,
        confirm_run_unsafe_code=config.confirm_run_unsafe_code,
        metadata=config.metadata,
        seeds=tuple(config.seed or (None,) * 4),  # type: ignore[arg-type]
    )
    return Command(
        model=model,
        methods=methods,
        settings=settings,
        options=options,
        data=own.data,
        output_path=None if output is None else Path(output),
        log_samples=config.log_samples or config.predict_only,
        expected_tokens=own.expected_tokens or settings.pop("expected_tokens", None),
        threads=own.threads,
        show_config=config.show_config,
        level=level,
    )


def _methods(own: Own, argument: str | None) -> tuple[str, ...]:
    """The methods asked for, each once, the baseline first: the others are compared with it."""
    asked = [*own.methods, *([argument] if argument else [])] or [BASELINE]
    if own.with_full:
        asked = [BASELINE, *asked]
    if len(set(asked)) < len(asked) and not own.with_full:
        twice = next(name for name in asked if asked.count(name) > 1)
        raise BadInput(f"method: {twice!r} is given twice; name each method once")
    return tuple(dict.fromkeys(sorted(asked, key=lambda name: name != BASELINE)))


def _requests_cache(chosen: Mapping[str, bool] | None) -> str | None:
    if not chosen:
        return None
    if chosen.get("rewrite_requests_cache"):
        return "refresh"
    return "delete" if chosen.get("delete_requests_cache") else "true"
