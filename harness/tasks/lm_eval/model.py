"""What lm-eval asks of a model besides answers: its tokenizer, its limits, who it is; and the depths kept for its answers."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.model import TemplateLM, hash_args

import methods
from harness.errors import BadInput
from harness.method import Method
from harness.models.checks import said
from harness.models.decoder import Decoder
from harness.models.identity import beside_weights
from harness.models.load import load_model
from harness.records.limits import BASELINE
from harness.tasks.encoding import Encoding
from harness.tasks.lm_eval.accounts import Record, Truncation, Work
from harness.tasks.lm_eval.cache import claim, owner_name, record_key, weights_digest
from harness.tasks.lm_eval.chat import written
from harness.tasks.lm_eval.generation import MAX_GENERATED

AUTO_BATCH = 64
"""Rows that batch size `auto` starts from, as in lm-eval; halved while the device has no room for them."""


class MethodModel(TemplateLM):
    """A model under a method, without the answers (`MethodLM` has them).

    Args:
        model: a loaded model, or anything `load_model` takes.
        method: a method, or its spec, e.g. `skipdecode(speedup=3)`.
        batch_size: rows computed together; `auto` starts from 64 and halves while memory does not suffice.
        expected_tokens: output length that schedules plan for, one for all tasks or by task name. None: the median number of
            continuation tokens (for generation, of tokens it may generate) among the requests of a task in the first call.
        dtype: of the weights, where `model` is a name.
        device: where they are, where `model` is a name.
        max_batch_size: what `auto` starts from.
        score_bos: in rolling likelihoods, score the prefix token that the tokenizer puts before a text, as lm-eval 0.4.13 does.
        max_length: positions used; None: all the model has.
        add_bos_token: whether texts get what the tokenizer adds; None: as the tokenizer does by itself.
        prefix_token_id: stands for a context without a token; None: BOS, else EOS.
        chat_template_args: given to the chat template.
        think_end_token: text after whose last occurrence an answer begins.

    Attributes:
        records: depths by request, see `record`.
        truncated: by task.
        work: by kind of request.
        documents: by task the numbers of the documents asked for, where these are not the first ones.

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
        score_bos: bool = False,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        think_end_token: str | None = None,
    ) -> None:
        super().__init__()
        self.decoder = model if isinstance(model, Decoder) else load_model(model, dtype=dtype, device=device)
        if self.decoder is not model and (line := said(self.decoder.name, self.decoder.ignored)):
            print(line, file=sys.stderr)
        self.encoding = Encoding.of(self.decoder.tokenizer, self.decoder.name, prefix_token_id, add_bos_token)
        self.tokenizer = self.decoder.tokenizer
        chosen = methods.create(method) if isinstance(method, str) else method
        if chosen.cannot_score:
            raise BadInput(f"{chosen.name}: cannot be scored: {chosen.cannot_score}; leave likelihood tasks out")
        self.method = chosen.resolve(self.decoder.depth, self.decoder.extras)
        self.batch_size = _rows(batch_size, max_batch_size)
        positions = self.decoder.geometry.max_positions
        if max_length is not None and not 2 <= max_length <= positions:
            raise BadInput(f"max_length: {max_length} is out of range; give 2 to {positions}, the model's positions")
        self._positions = max_length or positions
        self._score_bos, self._thinking = score_bos, think_end_token
        self._chat = dict(chat_template_args or {})
        self._auto = str(batch_size).startswith("auto")
        self._given = expected_tokens
        self._expected: dict[tuple[str, str], int] = {}
        self._device = self.decoder.device
        self.records: dict[str, list[Record]] = {}
        self.truncated: dict[str, Truncation] = {}
        self.work: dict[str, Work] = {}
        self.documents: Mapping[str, Sequence[int]] = {}

    # What lm-eval asks of a model besides answers.

    @property
    def eot_token_id(self) -> int:
        """End of text."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        """The context of a text without one."""
        return self.encoding.prefix

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self._positions

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
        return self.encoding.text(string, add_special_tokens)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.encoding.pair(context, continuation)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the tokenizer's template writes it."""
        return written(self.tokenizer, self.decoder.name, chat_history, add_generation_prompt, self._chat)

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
            "beside_weights": self._beside_weights,
            "dtype": str(self.decoder.dtype),
            "method": self.method.called,
            "code": None if self.method.source is None else self.method.source.sha256,
            "parameters": {**self.method.params},
            "expected_tokens": dict(self._given) if isinstance(self._given, Mapping) else self._given,
            "max_length": self.max_length,
            "score_bos": self._score_bos,
            "add_bos_token": self.encoding.add_special_tokens,
            "prefix_token_id": self.encoding.prefix,
            "think_end_token": self._thinking,
        }

    @cached_property
    def _digest(self) -> str:
        return weights_digest(self.decoder)

    @cached_property
    def _beside_weights(self) -> dict[str, Any]:
        return beside_weights(self.decoder)

    def cache_name(self) -> str:
        """Name that differs for every model, checkpoint, method and setting."""
        return owner_name(self.method, self.identity())

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called by lm-eval's cache; one that holds answers of another model or method is refused."""
        super().set_cache_hook(cache_hook)
        if cache_hook.dbdict is not None:
            claim(cache_hook.dbdict, self.cache_name())

    def record(self, kind: str, arguments: Sequence[Any]) -> list[Record]:
        """Depths of a request, one record for each sample of it, answered by this object or by one whose cache this one uses."""
        key = hash_args(kind, arguments)
        if key in self.records:
            return self.records[key]
        store = self.cache_hook.dbdict
        return (store.get(record_key(key)) or []) if store is not None else []

    def _keep(self, kind: str, arguments: Sequence[Any], answer: Any, record: Record, repeat: int = 0) -> None:
        """Keep an answer for lm-eval's cache, and its depths in the place of the repeat that it is."""
        key = hash_args(kind, arguments)
        kept = self.records[key] if repeat else []
        self.records[key] = kept = [*kept, record]
        self.cache_hook.add_partial(kind, arguments, answer)
        if self.cache_hook.dbdict is not None:
            self.cache_hook.dbdict[record_key(key)] = kept

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


def _rows(batch_size: int | str, limit: int | None) -> int:
    text = str(batch_size)
    if text.startswith("auto"):
        return limit or AUTO_BATCH
    if not text.isdecimal() or int(text) < 1:
        raise BadInput(f"batch_size: {batch_size!r} is out of range; give 1 or more, or auto")
    return int(text)
