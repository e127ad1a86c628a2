"""The bridge to lm-eval: every request type is answered by the model as a method runs it, never by the full model instead.

What depth each token has. The context is the prompt and runs at full depth, so the first token of a continuation is predicted
by the full model. Token j of a continuation (0-based) is processed by the method's decode step j + 1, and the token after it is
predicted from there. How texts become tokens is `harness.tasks.encoding`, and with it where a context ends.

* `loglikelihood`: a context without a token (empty, or white space alone) is the tokenizer's BOS (else its EOS) token.
* `loglikelihood_rolling`: lm-eval's disjoint windows of the model's length. Each window starts anew: its context is its prompt
  and its steps count from 1. The context of the first window is the prefix token, of later full windows the last token of the
  window before, and of a shorter last window as many earlier tokens as fill it: those run at full depth. A tokenizer that puts
  the prefix token before every text would have it scored given itself; lm-eval 0.4.13 does that, here only under `score_bos`.
* `generate_until`: generation as everywhere else here. A row ends with the token that completes a stop text, however tokens
  divide it; the text is cut before it. Samples are drawn with noise from the seed, the prompt and the number of the repeat.

A method that leaves sublayers out of prompts (`prompt_plan`) leaves them out of contexts; for others a context is at full depth.

A context longer than the model loses tokens on the left, as in lm-eval; how many is counted (`truncated`). A method that drafts
and verifies yields the full model's output, and scoring it computes just that: all blocks. A number that is not finite is a
failure that names task and document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lm_eval import utils
from typing_extensions import override

from harness.decode.sampling import streams
from harness.errors import BadInput, CellFailed
from harness.method import Method
from harness.tasks.lm_eval.accounts import Asked, Record, Truncation, Work
from harness.tasks.lm_eval.generation import generate_texts, read_settings
from harness.tasks.lm_eval.model import MethodModel
from harness.tasks.lm_eval.progress import Progress
from harness.tasks.lm_eval.scoring import Arm, Pair, Scored, score_pairs


class MethodLM(MethodModel):
    """A model under a method, as lm-eval sees it; arguments and errors as in `MethodModel`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._beside: list[MethodLM] = []
        self._ready: dict[tuple[str, str, Pair], Scored] = {}

    def beside(self, others: Iterable[MethodLM]) -> None:
        """Score for these too whatever likelihoods this one is asked for; asked for the same, they answer from that.

        They must be on the same model and tokenizer. Every context is then computed once for all methods.
        """
        self._beside = list(others)
        if any(other.decoder is not self.decoder or other.encoding != self.encoding for other in self._beside):
            raise BadInput("methods: contexts are shared on one model alone; give all the same model object")

    @override
    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The module says which depth each token has."""
        encoded = [(request.args, *self.encoding.pair(*request.args)) for request in requests]
        return self._likelihoods(encoded, [Asked.of(request, self.documents) for request in requests], disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """What lm-eval's own classes call with encoded requests; they do not say of which task these are."""
        raise BadInput(
            f"loglikelihood: {len(requests)} encoded requests without the names of their tasks; "
            "give loglikelihood_tokens the names too"
        )

    def loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        tasks: Sequence[str],
        disable_tqdm: bool = False,
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of encoded pairs ((context, continuation), context ids, continuation ids), one task's name for each."""
        asked = [Asked(task, str(i)) for i, task in enumerate(tasks)]
        return self._likelihoods(requests, asked, disable_tqdm)

    def _likelihoods(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], asked: Sequence[Asked], hidden: bool
    ) -> list[tuple[float, bool]]:
        pairs = [self._pair(one, context, rest) for one, (_, context, rest) in zip(asked, requests, strict=True)]
        scored = self._score("loglikelihood", asked, pairs, hidden)
        answers = [(one.log_likelihood, one.greedy) for one in scored]
        for (texts, _, _), answer, one in zip(requests, answers, scored, strict=True):
            if texts is not None:
                self._keep("loglikelihood", texts, answer, Record(one.layers))
        return answers

    @override
    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The module states the rule for windows."""
        pairs: list[Pair] = []
        asked: list[Asked] = []
        windows: list[int] = []
        for request in requests:
            (text,) = request.args
            found = utils.get_rolling_token_windows(
                token_list=self.encoding.text(text) if self._score_bos else self.encoding.whole(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [Pair(*map(tuple, utils.make_disjoint_window(window))) for window in found]
            pairs += own
            asked += [Asked.of(request, self.documents)] * len(own)
            windows.append(len(own))
        scored = iter(self._score("loglikelihood_rolling", asked, pairs, disable_tqdm))
        answers = []
        for request, count in zip(requests, windows, strict=True):
            parts = [next(scored) for _ in range(count)]
            answer = float(sum(part.log_likelihood for part in parts))
            answers.append(answer)
            layers = [blocks for part in parts for blocks in part.layers]
            self._keep("loglikelihood_rolling", request.args, answer, Record(layers))
        return answers

    def _pair(self, asked: Asked, context: Sequence[int], rest: Sequence[int]) -> Pair:
        """Context and continuation as the model has room for them: lm-eval's truncation on the left, counted."""
        if not rest:
            raise BadInput(f"{asked}: the continuation has no token of its own, so there is nothing to score")
        if len(rest) > self.max_length:
            raise BadInput(
                f"{asked}: a continuation of {len(rest)} tokens is longer than the model's {self.max_length} positions"
            )
        lost = len(context) + len(rest) - (self.max_length + 1)
        if lost > 0:
            self.truncated.setdefault(asked.task, Truncation()).add(lost)
            context = context[lost:]
        return Pair(tuple(context), tuple(rest))

    def _score(self, kind: str, asked: Sequence[Asked], pairs: Sequence[Pair], hidden: bool) -> list[Scored]:
        answers: list[Scored | None] = [None] * len(pairs)
        own: dict[str, list[int]] = {}
        for i, one in enumerate(asked):
            own.setdefault(one.task, []).append(i)
        work = self.work.setdefault(kind, Work())
        for task, places in own.items():
            if not all((kind, task, pairs[i]) in self._ready for i in places):
                self._compute(kind, task, [pairs[i] for i in places], hidden)
            for i in places:
                answers[i] = found = self._ready[kind, task, pairs[i]]
                if not math.isfinite(found.log_likelihood):
                    raise CellFailed(_not_finite(asked[i], self.method, f"a log-likelihood is {found.log_likelihood}"))
                work.add(self.decoder.depth, len(pairs[i].context), found.layers)
        self._ready = {key: one for key, one in self._ready.items() if key[0] != kind}
        return [answer for answer in answers if answer is not None]

    def _compute(self, kind: str, task: str, pairs: Sequence[Pair], hidden: bool) -> None:
        """Score a task's pairs, also for the methods that stand beside."""
        all_of_us = [self, *self._beside]
        lengths = [len(pair.rest) for pair in pairs]
        arms = [Arm(lm.method, lm.expected(kind, task, lambda: lengths)) for lm in all_of_us]
        title = f"{task} under {', '.join(str(arm.method) for arm in arms)}"
        with Progress(title, len(pairs), hidden) as bar:
            found = score_pairs(
                self.decoder, arms, pairs, batch_size=self.batch_size, shrink=self._auto, progress=bar.done
            )
        for lm, result in zip(all_of_us, found, strict=True):
            lm.batch_size = result.batch_size
            lm.work.setdefault(kind, Work()).computed_positions += result.computed_positions
            lm._ready.update({(kind, task, pair): one for pair, one in zip(pairs, result.scored, strict=True)})

    @override
    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy unless a task's settings say otherwise."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            key = json.dumps([request.task_name, request.args[1]], sort_keys=True, default=str)
            groups.setdefault(key, []).append(i)
        for places in groups.values():
            asked = {i: Asked.of(requests[i], self.documents) for i in places}
            settings = read_settings(
                asked[places[0]].task,
                requests[places[0]].args[1],
                self.decoder,
                max_length=self.max_length,
                seed=torch.initial_seed() & (2**63 - 1),  # lm-eval seeds torch before it asks
                thinking=self._thinking,
            )
            prompts = {i: self._context(asked[i], requests[i].args[0], settings.max_new_tokens) for i in places}
            noise = dict(zip(places, streams(prompts[i] for i in places), strict=True))
            most = [settings.max_new_tokens]
            expected = self.expected("generate_until", asked[places[0]].task, lambda most=most: most)  # type: ignore[misc]
            repeats: dict[str, int] = {}
            order = sorted(places, key=lambda i, prompts=prompts: -len(prompts[i]))  # type: ignore[misc]
            with Progress(f"{asked[places[0]].task} under {self.method}", len(places), disable_tqdm) as bar:
                while order:
                    chosen = order[: self.batch_size]
                    batch = [prompts[i] for i in chosen]
                    try:
                        made = generate_texts(
                            self.decoder, self.method, batch, settings, expected, [noise[i] for i in chosen], bar.at
                        )
                    except torch.OutOfMemoryError:
                        if not self._auto or self.batch_size == 1:
                            raise
                        torch.cuda.empty_cache()
                        self.batch_size //= 2
                        continue
                    order = order[len(chosen) :]
                    work = self.work.setdefault("generate_until", Work())
                    for i, one in zip(chosen, made, strict=True):
                        if not one.finite:
                            raise CellFailed(_not_finite(asked[i], self.method, "a logit is not finite"))
                        answers[i] = one.text
                        text = requests[i].args[0]
                        repeats[text] = repeats.get(text, -1) + 1
                        record = Record(one.layers, one.tokens)
                        self._keep("generate_until", requests[i].args, one.text, record, repeats[text])
                        work.add(self.decoder.depth, len(prompts[i]), one.layers)
                        work.computed_positions += len(prompts[i]) + len(one.layers) - 1
                    bar.done(len(chosen))
        return answers

    def _context(self, asked: Asked, text: str, new_tokens: int) -> list[int]:
        room = self.max_length - new_tokens
        ids = self.encoding.prompt(text)
        if len(ids) > room:
            self.truncated.setdefault(asked.task, Truncation()).add(len(ids) - room)
        return ids[-room:]


def _not_finite(asked: Asked, method: Method, what: str) -> str:
    return f"{asked}: {what} under {method}; the weights or their type overflow: try --dtype float32, or check the checkpoint"
