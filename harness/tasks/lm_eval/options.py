"""lm-eval's own options of an evaluation, checked. Neither torch nor lm-eval is needed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.errors import BadInput

CACHE_REQUESTS = ("true", "refresh", "delete")


@dataclass(frozen=True)
class Options:
    """lm-eval's own options, with its defaults.

    Attributes:
        tasks: names, groups, tags, patterns or YAML files.
        limit: documents per task, below 1 a share of them.
        samples: documents by task, instead of a limit.
        num_fewshot: examples in the prompt; None: what the task says.
        apply_chat_template: whether, or which.
        system_instruction: put before the prompt.
        fewshot_as_multiturn: examples as turns of a chat.
        include_path: folder with more tasks.
        gen_kwargs: change a task's generation settings; as a mapping or as text.
        use_cache: prefix of the file that answers are kept in; the model's and method's digest is added.
        cache_requests: keep the prompts built, one of CACHE_REQUESTS.
        bootstrap_iters: of lm-eval's own standard errors.
        predict_only: no metrics.
        write_out: show the first prompt of every task.
        confirm_run_unsafe_code: run tasks that run code.
        metadata: given to the tasks.
        seeds: python, numpy, torch (and with it the noise of samples), few-shot.
    """

    tasks: tuple[str, ...]
    limit: float | None = None
    samples: Mapping[str, list[int]] | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    include_path: str | None = None
    gen_kwargs: str | Mapping[str, Any] | None = None
    use_cache: str | None = None
    cache_requests: str | None = None
    bootstrap_iters: int = 1000
    predict_only: bool = False
    write_out: bool = False
    confirm_run_unsafe_code: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int | None, int | None, int | None, int | None] = (0, 1234, 1234, 1234)

    def __post_init__(self) -> None:
        if not self.tasks or not all(self.tasks):
            raise BadInput("tasks: none is given; name some, e.g. --tasks lambada_openai,gsm8k")
        for name, kinds in (("limit", (int, float)), ("num_fewshot", (int,))):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise BadInput(f"{name}: {value!r} is no number; give one")
        if self.limit is not None and not (self.limit > 0 and math.isfinite(self.limit)):
            raise BadInput(f"limit: {self.limit:g} is out of range; give documents per task, or a share below 1")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise BadInput(f"num_fewshot: {self.num_fewshot} is out of range; give 0 or more")
        if self.include_path is not None and not os.path.isdir(self.include_path):
            raise BadInput(f"include_path: {self.include_path} is no folder; give one with lm-eval task files")
        if self.cache_requests not in (None, *CACHE_REQUESTS):
            raise BadInput(f"cache_requests: {self.cache_requests!r} is not known; known: {', '.join(CACHE_REQUESTS)}")
        # numpy takes 32 bits, torch 64; python takes any number
        for seed, (name, most) in zip(self.seeds, _SEEDS.items(), strict=True):
            if seed is not None and not 0 <= seed < most:
                raise BadInput(f"seed: {seed} for {name} is out of range; give 0 to {most - 1}, or None")
        _check_samples(self.samples, self.limit)


_SEEDS = {"python": 2**63, "numpy": 2**32, "torch": 2**63, "few-shot": 2**63}


def _check_samples(samples: Any, limit: float | None) -> None:
    if samples is None:
        return
    if limit is not None:
        raise BadInput("samples: limit is given too, and both say which documents; leave one out")
    fits = isinstance(samples, Mapping) and all(
        isinstance(numbers, list) and numbers and all(type(n) is int and n >= 0 for n in numbers)
        for numbers in samples.values()
    )
    if not fits or not samples:
        raise BadInput('samples: give the numbers of documents by task, from 0 on, e.g. {"lambada_openai": [0, 3, 7]}')
