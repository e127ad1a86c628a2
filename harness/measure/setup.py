"""What the worker functions share: the suite's model, threads, kernels and batches, set up alike in every process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

import methods
from harness import tasks
from harness.errors import BadInput
from harness.measure.running import say
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.kernels import choices
from harness.models.load import load_model
from harness.records.arms import Arm, Expected, Prepared
from harness.suites.entries import TaskEntry
from harness.suites.suite import Suite
from harness.tasks.base import Example, Task
from harness.tasks.prompts import Batch, fit
from harness.tasks.prompts import speed_batch as draw_batch


def set_threads(suite: Suite) -> None:
    """Use as many threads as the suite says, else one per physical core."""
    torch.set_num_threads(suite.threads or psutil.cpu_count(logical=False) or 1)


def begin(suite: Suite, prepared: Prepared) -> Expected:
    """Set up this process as `prepare` found right; returns the expected tokens by task."""
    set_threads(suite)
    choices.install(prepared["kernels"])
    return prepared["expected_tokens"]


def of_task(suite: Suite, checkpoint: str, index: int = 0) -> str:
    """The checkpoint for a task of the suite: `{task}` in its name stands for the task's."""
    return checkpoint.replace("{task}", suite.tasks[index].name) if suite.tasks else checkpoint


def load(suite: Suite, checkpoint: str, index: int = 0) -> Decoder:
    """A checkpoint of the suite for one of its tasks, with its tokenizer where there is text to read or write."""
    checkpoint = of_task(suite, checkpoint, index)
    say(f"loading {checkpoint}")
    decoder = load_model(checkpoint, dtype=suite.dtype, device=suite.device)
    if suite.tasks and decoder.tokenizer is None:
        raise BadInput(f"model: {checkpoint} has no tokenizer; save one beside the weights")
    return decoder


def method_of(arm: Arm) -> Method:
    """The method of an arm.

    Raises:
        BadInput: its file was edited while the run went on.
    """
    code = arm.get("code")
    method = methods.create(arm["spec"])
    if code is not None and (method.source is None or method.source.sha256 != code["sha256"]):
        raise BadInput(
            f"{code['file']} was edited while the run went on; put it back ({code['kept']}) or begin another run"
        )
    return method


def task_of(entry: TaskEntry, data: Path | None) -> Task:
    """The task of a suite's entry, one of lm-eval's included.

    Raises:
        BadInput: there is none of its name.
    """
    if entry.is_lm_eval:
        return lm_eval_cells().LmEvalTask(entry.name, lm_eval_options(entry), data)  # type: ignore[no-any-return]
    return tasks.create(entry.name, data)


def task_examples(suite: Suite, index: int, decoder: Decoder, data: Path | None) -> tuple[Task, list[Example], int]:
    """A task of the suite, its examples with prompts no longer than they may be, and how many had to be shortened."""
    entry = suite.tasks[index]
    task = task_of(entry, data)
    limit = entry.max_prompt_tokens or task.max_prompt_tokens
    return task, *fit(task.examples(entry.split, entry.limit), decoder.tokenizer, limit, task.name)


def timed_examples(
    suite: Suite, decoder: Decoder, data: Path | None, prepared: Prepared | None = None
) -> Sequence[Example]:
    """The examples whose prompts are timed: those of the first task, as `prepare` read them; none where the suite has no task."""
    if prepared is not None and "prompts" in prepared:
        return prepared["prompts"]
    return task_examples(suite, 0, decoder, data)[1] if suite.tasks else ()


def timed_expected(suite: Suite, expected: Expected) -> int:
    """The number of tokens that schedules expect in the timed generations; of several lm-eval tasks the largest."""
    if not suite.tasks:
        return suite.expected_tokens or suite.new_tokens
    found = expected[suite.tasks[0].name]
    return found if isinstance(found, int) else max(found.values(), default=suite.new_tokens)


def speed_batch(suite: Suite, decoder: Decoder, examples: Sequence[Example], size: int, prompt_set: int) -> Batch:
    """The timed prompts of one batch size and prompt set, on the decoder's device; random ones where there are no examples."""
    if not examples:
        assert suite.prompt_tokens is not None, "a suite without tasks has prompt_tokens"
        generator = torch.Generator().manual_seed(1000 * suite.seed + prompt_set)
        shape = (size, suite.prompt_tokens)
        ids = torch.randint(2, decoder.geometry.vocabulary, shape, generator=generator)
        return to_device(Batch(ids, None), decoder.device)
    batch = draw_batch(
        decoder.tokenizer, examples, size, prompt_set, suite.prompt_tokens, suite.seed, decoder.pad_token_id
    )
    return to_device(batch, decoder.device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return Batch(batch.ids.to(device), None if batch.mask is None else batch.mask.to(device))


def lm_eval_options(entry: TaskEntry) -> Any:
    """lm-eval's options of a suite's entry; its own standard errors are left out, intervals come with the summary."""
    from harness.tasks.lm_eval.evaluate import Options

    return Options(
        (entry.lm_eval_name,),
        limit=entry.limit,
        num_fewshot=entry.num_fewshot,
        apply_chat_template=entry.apply_chat_template,
        system_instruction=entry.system_instruction,
        include_path=entry.include_path,
        gen_kwargs=entry.gen_kwargs,
        bootstrap_iters=0,
    )


def lm_eval_cells() -> Any:
    """Imported on use: lm-eval takes seconds, and most suites have none of its tasks."""
    from harness.tasks.lm_eval import cell as module

    return module
