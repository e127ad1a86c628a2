"""The bridge to lm-eval: every request type is answered by the model as a method runs it, never by the full model instead.

What depth each token has. The context is the prompt and runs at full depth, so the first token of a continuation is predicted
by the full model. Token j of a continuation (0-based) is processed by the method's decode step j + 1, and the token after it is
predicted from there. The border between both is lm-eval's (`TemplateLM._encode_pair`).

* `loglikelihood`: an empty context is the tokenizer's BOS (else its EOS) token, as in lm-eval.
* `loglikelihood_rolling`: lm-eval's disjoint windows of the model's length. Each window starts anew: its context is its prompt
  and its steps count from 1. The context of the first window is the prefix token, of later full windows the last token of the
  window before, and of a shorter last window as many earlier tokens as fill it: those run at full depth.
* `generate_until`: generation as everywhere else here. A row ends with the token that completes a stop text, however tokens
  divide it; the text is cut before it.

A context longer than the model loses tokens on the left, as in lm-eval; how many is counted (`truncated`). A method that drafts
and verifies yields the full model's output, and scoring it computes just that: all blocks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM, hash_args
from tqdm import tqdm

import methods
from harness.errors import BadInput
from harness.method import Method
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.records.limits import BASELINE
from harness.tasks.lm_eval.accounts import Record, Truncation, Work
from harness.tasks.lm_eval.cache import claim, owner_name, record_key, weights_digest
from harness.tasks.lm_eval.generation import MAX_GENERATED, generate_texts, read_settings
from harness.tasks.lm_eval.scoring import Pair, Scored, score_pairs

AUTO_BATCH = 64
"""Rows that batch size `auto` starts from, as in lm-eval; halved while the device has no room for them."""


class MethodLM(TemplateLM):
    """A model under a method, as lm-eval sees it.

    Args:
        model: a loaded model, or anything `load_model` takes.
        method: a method, or its spec, e.g. `skipdecode(speedup=3)`.
        batch_size: rows computed together; `auto` starts from 64 and halves while memory does not suffice.
        expected_tokens: output length that schedules plan for, one for all tasks or by task name. None: the median number of
            continuation tokens (for generation, of tokens it may generate) among the requests of a task in the first call.
        dtype: of the weights, where `model` is a name.
        device: where they are, where `model` is a name.
        max_batch_size: what `auto` starts from.

    Attributes:
        records: depths by request, see `record`.
        truncated: by task.
        work: by kind of request.

    Raises:
        BadInput: the model has no tokenizer, the method does not fit the model or cannot be scored.
    """

    def __init__(
        self,
        model: Decoder | str,
        method: Method | str = BASELINE,
        batch_size: int | str = 16,
        *,
        expected_tokens: int | Mapping[str, int] | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.decoder = model if isinstance(model, Decoder) else load_model(model, dtype=dtype, device=device)
        if self.decoder.tokenizer is None:
            raise BadInput(f"model: {self.decoder.name} has no tokenizer; save one beside the weights")
        self.tokenizer = self.decoder.tokenizer
        if self.tokenizer.bos_token_id is None and self.tokenizer.eos_token_id is None:
            raise BadInput(
                f"model: the tokenizer of {self.decoder.name} has neither a BOS nor an EOS token for empty contexts"
            )
        chosen = methods.create(method) if isinstance(method, str) else method
        if chosen.cannot_score:
            raise BadInput(f"{chosen.name}: cannot be scored: {chosen.cannot_score}; leave likelihood tasks out")
        self.method = chosen.resolve(self.decoder.depth, self.decoder.extras)
        self.batch_size = self._batch_rows(batch_size, max_batch_size)
        self._auto = str(batch_size).startswith("auto")
        self._given = expected_tokens
        self._expected: dict[tuple[str, str], int] = {}
        self._device = self.decoder.device
        self.records: dict[str, Record] = {}
        self.truncated: dict[str, Truncation] = {}
        self.work: dict[str, Work] = {}
        self._tasks: list[str] = []

    @staticmethod
    def _batch_rows(batch_size: int | str, limit: int | None) -> int:
        text = str(batch_size)
        if text.startswith("auto"):
            return limit or AUTO_BATCH
        if not text.isdecimal() or int(text) < 1:
            raise BadInput(f"batch_size: {batch_size!r} is out of range; give 1 or more, or auto")
        return int(text)

    # What lm-eval asks of a model besides answers.

    @property
    def eot_token_id(self) -> int:
        """End of text."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        """The context of a text without one."""
        first = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if first is None else first  # type: ignore[no-any-return]

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self.decoder.geometry.max_positions

    @property
    def max_gen_toks(self) -> int:
        """Tokens generated where a task does not say."""
        return MAX_GENERATED

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path or self.decoder.name).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; the tokenizer adds what it adds by itself, but no second BOS."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            special = {"add_special_tokens": False}
        return self.tokenizer.encode(string, **special)  # type: ignore[no-any-return]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the tokenizer's template writes it."""
        if self.tokenizer.chat_template is None:
            raise BadInput(
                f"apply_chat_template: the tokenizer of {self.decoder.name} has no chat template; leave the option out"
            )
        return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model: its identity here, and the method."""
        return {
            "model": "depthbench",
            "model_num_parameters": sum(p.numel() for p in self.decoder.source.parameters()),
            "model_dtype": str(self.decoder.dtype),
            **self.identity(),
        }

    def identity(self) -> dict[str, Any]:
        """Everything an answer depends on beside the request: the key of caches."""
        return {
            "checkpoint": self.decoder.name,
            "weights": self._digest,
            "dtype": str(self.decoder.dtype),
            "method": self.method.called,
            "code": None if self.method.source is None else self.method.source.sha256,
            "parameters": {**self.method.params},
            "expected_tokens": dict(self._given) if isinstance(self._given, Mapping) else self._given,
            "max_length": self.max_length,
        }

    @cached_property
    def _digest(self) -> str:
        return weights_digest(self.decoder)

    def cache_name(self) -> str:
        """Name that differs for every model, checkpoint, method and setting."""
        return owner_name(self.method, self.identity())

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called by lm-eval's cache; one that holds answers of another model or method is refused."""
        super().set_cache_hook(cache_hook)
        if cache_hook.dbdict is not None:
            claim(cache_hook.dbdict, self.cache_name())

    def record(self, kind: str, arguments: Sequence[Any]) -> Record | None:
        """Depths of a request answered by this object, or by an earlier one whose cache this one uses."""
        key = hash_args(kind, arguments)
        if key in self.records:
            return self.records[key]
        store = self.cache_hook.dbdict
        return store.get(record_key(key)) if store is not None else None

    def _keep(self, kind: str, arguments: Sequence[Any], record: Record) -> None:
        key = hash_args(kind, arguments)
        self.records[key] = record
        if self.cache_hook.dbdict is not None:
            self.cache_hook.dbdict[record_key(key)] = record

    def expect(self, tokens: int | Mapping[str, int]) -> None:
        """Fix the number of tokens that schedules plan for, for all tasks or by task."""
        self._given = tokens

    def expected(self, kind: str, task: str, lengths: Callable[[], Sequence[int]]) -> int:
        """The expected number of tokens of a task's requests of one kind; fixed by the first call where none was given."""
        if isinstance(self._given, int):
            return self._given
        if self._given is not None and task in self._given:
            return self._given[task]
        if (kind, task) not in self._expected:
            self._expected[kind, task] = max(1, int(statistics.median(lengths())))
        return self._expected[kind, task]

    # Answers.

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See `LM.loglikelihood`; the module says which depth each token has."""
        for request in requests:
            if not request.args[1]:
                raise BadInput(
                    f"task {request.task_name}: document {request.doc_id}: empty continuation, nothing to score"
                )
        self._tasks = [str(request.task_name) for request in requests]
        try:
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._tasks = []  # they are the names of these requests alone
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """What lm-eval calls with the requests of `loglikelihood`, encoded."""
        if len(self._tasks) != len(requests):
            raise BadInput(
                f"loglikelihood: {len(requests)} encoded requests without the names of their tasks; "
                "give loglikelihood_tokens the names too"
            )
        return self.loglikelihood_tokens(requests, self._tasks, disable_tqdm)

    def loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        tasks: Sequence[str],
        disable_tqdm: bool = False,
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of encoded pairs ((context, continuation), context ids, continuation ids), one task's name for each."""
        pairs = [self._pair(task, context, rest) for task, (_, context, rest) in zip(tasks, requests, strict=True)]
        scored = self._score("loglikelihood", tasks, pairs, disable_tqdm)
        answers = []
        for (texts, _, _), one in zip(requests, scored, strict=True):
            answer = (one.log_likelihood, one.greedy)
            answers.append(answer)
            if texts is not None:
                self._keep("loglikelihood", texts, Record(one.layers))
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """See `LM.loglikelihood_rolling`; the module states the rule for windows."""
        pairs: list[Pair] = []
        tasks: list[str] = []
        windows: list[int] = []
        for request in requests:
            (text,) = request.args
            found = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [Pair(*map(tuple, utils.make_disjoint_window(window))) for window in found]
            pairs += own
            tasks += [str(request.task_name)] * len(own)
            windows.append(len(own))
        scored = iter(self._score("loglikelihood_rolling", tasks, pairs, disable_tqdm))
        answers = []
        for request, count in zip(requests, windows, strict=True):
            parts = [next(scored) for _ in range(count)]
            answer = float(sum(part.log_likelihood for part in parts))
            answers.append(answer)
            layers = [blocks for part in parts for blocks in part.layers]
            self._keep("loglikelihood_rolling", request.args, Record(layers))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def _pair(self, task: str, context: Sequence[int], rest: Sequence[int]) -> Pair:
        """Context and continuation as the model has room for them: lm-eval's truncation on the left, counted."""
        if not rest:
            raise BadInput(f"task {task}: a continuation has no token of its own, so there is nothing to score")
        if len(rest) > self.max_length:
            raise BadInput(
                f"task {task}: a continuation of {len(rest)} tokens is longer than the model's {self.max_length} positions"
            )
        lost = len(context) + len(rest) - (self.max_length + 1)
        if lost > 0:
            self.truncated.setdefault(task, Truncation()).add(lost)
            context = context[lost:]
        return Pair(tuple(context), tuple(rest))

    def _score(self, kind: str, tasks: Sequence[str], pairs: Sequence[Pair], disable_tqdm: bool) -> list[Scored]:
        answers: list[Scored | None] = [None] * len(pairs)
        by_expected: dict[int, list[int]] = {}
        own: dict[str, list[int]] = {}
        for i, task in enumerate(tasks):
            own.setdefault(task, []).append(i)
        for task, places in own.items():
            expected = self.expected(kind, task, lambda places=places: [len(pairs[i].rest) for i in places])  # type: ignore[misc]
            by_expected.setdefault(expected, []).extend(places)
        work = self.work.setdefault(kind, Work())
        hidden = True if disable_tqdm else None  # None: shown on a terminal only
        with tqdm(total=len(pairs), desc=f"{kind} under {self.method}", disable=hidden) as bar:
            for expected, places in by_expected.items():
                found = score_pairs(
                    self.decoder,
                    self.method,
                    [pairs[i] for i in places],
                    expected_tokens=expected,
                    batch_size=self.batch_size,
                    shrink=self._auto,
                    progress=bar.update,
                )
                work.computed_positions += found.computed_positions
                self.batch_size = found.batch_size
                for i, one in zip(places, found.scored, strict=True):
                    answers[i] = one
                    work.add(self.decoder.depth, len(pairs[i].context), one.layers)
        return [answer for answer in answers if answer is not None]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """See `LM.generate_until`; greedy unless a task's settings say otherwise."""
        answers: list[str | None] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            key = json.dumps([request.task_name, request.args[1]], sort_keys=True, default=str)
            groups.setdefault(key, []).append(i)
        with tqdm(
            total=len(requests), desc=f"generate_until under {self.method}", disable=True if disable_tqdm else None
        ) as bar:
            for places in groups.values():
                first = requests[places[0]]
                settings = read_settings(first.task_name, first.args[1], self.decoder)
                prompts = {i: self._context(requests[i], settings.max_new_tokens) for i in places}
                places.sort(key=lambda i: -len(prompts[i]))
                task, most = str(first.task_name), settings.max_new_tokens
                expected = self.expected("generate_until", task, lambda most=most: [most])  # type: ignore[misc]
                begin = 0
                while begin < len(places):
                    chosen = places[begin : begin + self.batch_size]
                    try:
                        made = generate_texts(
                            self.decoder, self.method, [prompts[i] for i in chosen], settings, expected
                        )
                    except torch.OutOfMemoryError:
                        if not self._auto or self.batch_size == 1:
                            raise
                        torch.cuda.empty_cache()
                        self.batch_size //= 2
                        continue
                    work = self.work.setdefault("generate_until", Work())
                    for i, one in zip(chosen, made, strict=True):
                        answers[i] = one.text
                        self._keep("generate_until", requests[i].args, Record(one.layers, one.tokens))
                        work.add(self.decoder.depth, len(prompts[i]), one.layers)
                        work.computed_positions += len(prompts[i]) + len(one.layers) - 1
                        self.cache_hook.add_partial("generate_until", requests[i].args, one.text)
                    begin += len(chosen)
                    bar.update(len(chosen))
        return [answer for answer in answers if answer is not None]

    def _context(self, request: Any, new_tokens: int) -> list[int]:
        room = self.max_length - new_tokens
        ids = self.tok_encode(request.args[0]) or [self.prefix_token_id]
        if len(ids) > room:
            self.truncated.setdefault(str(request.task_name), Truncation()).add(len(ids) - room)
        return ids[-room:]
