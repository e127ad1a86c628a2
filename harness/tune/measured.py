"""What data say of a model's sublayers: the worker's half of a profile (`harness.profiling.Profile`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch.nn import functional as F

from harness.decode.engine import generate
from harness.decode.forced import proceed
from harness.decode.forced_memory import ForcedMemory
from harness.decode.prompt_pass import Started, around, at_once, run_prompt, start
from harness.errors import BadInput
from harness.method import Schedule
from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.models.kernels import linear
from harness.plan import LayerPlan, Step
from harness.profiling import Statistics
from harness.tasks.base import Example
from harness.tasks.metrics import Metric
from harness.tasks.prompts import pad_left

_LOGITS_AT_ONCE = 4 << 20


@dataclass(frozen=True)
class Under(Schedule):
    """A plan at every decode step, and another over the prompt.

    Attributes:
        every: of the steps.
        prompt: of the prompt.
    """

    name: ClassVar[str] = "a plan"

    every: LayerPlan
    prompt: LayerPlan

    def prompt_plan(self, depth: int) -> LayerPlan:
        """See `Method.prompt_plan`."""
        return self.prompt

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        """See `Schedule.layers`."""
        return self.every


@dataclass(frozen=True)
class Scoring:
    """What `Profile.score` generates and how it is scored.

    Attributes:
        examples: of the task.
        metric: of their outputs.
        new_tokens: generated at most.
    """

    examples: Sequence[Example]
    metric: Metric
    new_tokens: int


class DataProfile:
    """`harness.profiling.Profile` over windows of tokens.

    Args:
        decoder: the model.
        windows: token ids, two or more each.
        scoring: for `score`; None: there is no task.
        batch_size: windows at once.

    Attributes:
        cost: what was asked: `forward_passes` over the windows, `tokens` they held, `generated_tokens`.
    """

    def __init__(
        self, decoder: Decoder, windows: Sequence[Sequence[int]], scoring: Scoring | None = None, batch_size: int = 8
    ) -> None:
        self.decoder, self._scoring, self._batch_size = decoder, scoring, batch_size
        self._windows = sorted((list(w) for w in windows if len(w) > 1), key=len)
        if not self._windows:
            raise BadInput("profile: no window has two tokens; give longer texts")
        self.cost: dict[str, int] = {"forward_passes": 0, "tokens": 0, "generated_tokens": 0}
        self._losses: dict[LayerPlan, float] = {}
        self._scores: dict[LayerPlan, float] = {}

    @property
    def depth(self) -> int:
        """See `Profile.depth`."""
        return self.decoder.depth

    def loss(self, plan: LayerPlan) -> float:
        """See `Profile.loss`."""
        if plan not in self._losses:
            with torch.inference_mode():
                self._losses[plan] = float(self._loss(plan))
        return self._losses[plan]

    def _loss(self, plan: LayerPlan, each: Callable[[torch.Tensor], object] = lambda total: None) -> torch.Tensor:
        """The mean loss; `each` is given every batch's share of it."""
        count = sum(len(w) - 1 for w in self._windows)
        total = torch.zeros((), dtype=torch.float64)
        for ids, lengths in self._batches():
            hidden = run_prompt(self.decoder, ForcedMemory(self.depth), ids, None, plan)
            real = torch.arange(ids.shape[1] - 1, device=ids.device) < (lengths - 1).unsqueeze(1)
            states, labels = hidden[:, :-1][real], ids[:, 1:][real]
            room = max(1, _LOGITS_AT_ONCE // self.decoder.geometry.vocabulary)
            parts = [
                F.cross_entropy(self.decoder.head(states[i : i + room]).float(), labels[i : i + room], reduction="sum")
                for i in range(0, len(states), room)
            ]
            share = torch.stack(parts).sum() / count
            each(share)
            total += share.detach().double().cpu()
        self._counted()
        return total

    def score(self, plan: LayerPlan) -> float:
        """See `Profile.score`."""
        if self._scoring is None:
            raise BadInput("profile: this order is by a task's metric; give --task instead of --text")
        if plan not in self._scores:
            self._scores[plan] = self._score(plan, self._scoring)
        return self._scores[plan]

    def _score(self, plan: LayerPlan, scoring: Scoring) -> float:
        tokenizer = self.decoder.tokenizer
        prompts = tokenizer([e.prompt for e in scoring.examples]).input_ids
        statistics: dict[int, list[float]] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for begin in range(0, len(order), self._batch_size):
            chosen = order[begin : begin + self._batch_size]
            batch = pad_left([prompts[i] for i in chosen], self.decoder.pad_token_id)
            device = self.decoder.device
            mask = None if batch.mask is None else batch.mask.to(device)
            out = generate(
                self.decoder, Under(plan, plan), batch.ids.to(device), mask, max_new_tokens=scoring.new_tokens
            )
            self.cost["generated_tokens"] += int(out.lengths.sum())
            for i, row, length in zip(chosen, out.tokens.tolist(), out.lengths.tolist(), strict=True):
                text = tokenizer.decode(row[:length], skip_special_tokens=True)
                statistics[i] = scoring.metric.example(" ".join(text.split()), scoring.examples[i])
        sums = torch.tensor([statistics[i] for i in range(len(prompts))], dtype=torch.float64).sum(0, keepdim=True)
        value = float(scoring.metric.combine(sums.numpy())[0])
        return value if scoring.metric.better == "higher" else -value

    def agreement(self, plan: LayerPlan) -> float:
        """See `Profile.agreement`: the second half of every window, after the first half at full depth."""
        agreed = count = 0
        method = Under(plan, LayerPlan.full(self.depth))
        with torch.inference_mode():
            for started, targets, real, want in self._halves:
                got = proceed(self.decoder, method, started, targets, expected_tokens=targets.shape[1])
                same = self.decoder.head(got.target_hidden).argmax(-1) == want
                agreed, count = agreed + int((same & real).sum()), count + int(real.sum())
        self._counted()
        return agreed / max(count, 1)

    @cached_property
    def _halves(self) -> list[tuple[Started, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """First halves at full depth, second halves, which of their tokens are real, and what the full model says after each."""
        full, found = Under(LayerPlan.full(self.depth), LayerPlan.full(self.depth)), []
        for ids, lengths in self._batches():
            half = lengths // 2
            width, rest = int(half.max()), int((lengths - half).max())
            place = half.unsqueeze(1) + torch.arange(rest, device=ids.device)
            targets = ids.gather(1, place.clamp_max(ids.shape[1] - 1))
            started = start(self.decoder, full, ids[:, :width], half)
            forced = proceed(self.decoder, full, started, targets, expected_tokens=rest)
            want = self.decoder.head(forced.target_hidden).argmax(-1)
            found.append((started, targets, place < lengths.unsqueeze(1), want))
        self._counted()
        return found

    @cached_property
    def _statistics(self) -> Statistics:
        depth = self.depth
        cosine, ratio, block = (torch.zeros(n, dtype=torch.float64) for n in (2 * depth, 2 * depth, depth))
        tokens = 0
        with torch.inference_mode():
            for ids, lengths in self._batches():
                positions = torch.arange(ids.shape[1], device=ids.device)
                real = positions < lengths.unsqueeze(1)
                tokens += int(real.sum())
                context = Context(positions.expand_as(ids), causal=True)
                memory = ForcedMemory(depth)
                x = self.decoder.embed(ids, context.positions)
                for layer, each in enumerate(self.decoder.blocks):
                    y = each.attend(x, memory, context)
                    z = each.feed(y, x)
                    for place, (before, after) in enumerate(((x, y), (y, z))):
                        cosine[2 * layer + place] += _cosine(before, after)[real].sum().cpu()
                        norms = [(t.double().pow(2).sum(-1) * real).sum(1).sqrt() for t in (before, after)]
                        ratio[2 * layer + place] += (norms[1] / norms[0]).sum().cpu()
                    block[layer] += _cosine(x, z)[real].sum().cpu()
                    x = z
        self._counted()
        return Statistics(cosine / tokens, ratio / len(self._windows), block / tokens)

    def statistics(self) -> Statistics:
        """See `Profile.statistics`."""
        return self._statistics

    def predictions(self, layers: Iterable[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `Profile.predictions`."""
        wanted, plan = set(layers), LayerPlan.full(self.depth)
        room = max(1, _LOGITS_AT_ONCE // self.decoder.geometry.vocabulary)
        for ids, lengths in self._batches():
            states: list[torch.Tensor] = []
            with torch.inference_mode():
                kept = around(at_once, after_block=states.append)
                run_prompt(self.decoder, ForcedMemory(self.depth), ids, None, plan, kept)
                real = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
                last = states[-1][real]
                for begin in range(0, len(last), room):
                    token = self.decoder.head(last[begin : begin + room]).argmax(-1)
                    for layer in sorted(wanted):
                        yield self.decoder.head(states[layer][real][begin : begin + room]), token
        self._counted()

    def sensitivity(self) -> torch.Tensor:
        """See `Profile.sensitivity`."""
        source, found = self.decoder.source, torch.zeros(self.depth, dtype=torch.float64)
        wanted = {name: p.requires_grad for name, p in source.named_parameters()}
        source.requires_grad_(True)
        try:
            with torch.enable_grad(), linear.only("torch"):
                self.decoder.refresh()
                self._loss(LayerPlan.full(self.depth), each=lambda share: share.backward(retain_graph=True))
            for name, p in source.named_parameters():
                place = re.search(r"\.(\d+)\.", name)
                if place is not None and p.dim() == 2 and p.grad is not None:
                    found[int(place[1])] += (p.detach() * p.grad).abs().sum().double().cpu()
        finally:
            for name, p in source.named_parameters():
                p.grad = None
                p.requires_grad_(wanted[name])
            with torch.no_grad():
                self.decoder.refresh()
        return found

    def sublayer_cost(self, sublayer: str) -> float:
        """See `Profile.sublayer_cost`."""
        g = self.decoder.geometry
        whole = g.depth * (g.attention_weights + g.feed_weights) + g.head_weights
        return (g.attention_weights if sublayer == "attention" else g.feed_weights) / whole

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Windows of about the same length, right-padded [B, T], and their lengths [B]."""
        for begin in range(0, len(self._windows), self._batch_size):
            rows = self._windows[begin : begin + self._batch_size]
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.decoder.device)
            yield ids, torch.tensor([len(row) for row in rows], device=self.decoder.device)

    def _counted(self) -> None:
        self.cost["forward_passes"] += 1
        self.cost["tokens"] += sum(map(len, self._windows))


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(a.double(), b.double(), dim=-1)
