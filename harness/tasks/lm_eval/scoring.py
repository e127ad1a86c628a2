"""Log-likelihoods of many continuations, under one method or several: sorted by length, in batches, every context computed once.

Nearly every method runs contexts at full depth, so what several continuations share is also what several methods share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from harness.decode.forced import force, proceed
from harness.decode.prompt_pass import Forced, Started, prompts_alike, start
from harness.method import Method
from harness.models.decoder import Decoder

_LOGITS_AT_ONCE, _LOGITS_AT_ONCE_CPU = 32 << 20, 2 << 20
"""Elements of the logits computed at once; on a CPU fewer, since a fresh large tensor costs more in page faults than in sums."""

_SHORT = 32
"""Tokens of a context that are too few to keep it out of a batch of longer ones."""


@dataclass(frozen=True)
class Pair:
    """Token ids of a context and of the continuation to score, at least one of each."""

    context: tuple[int, ...]
    rest: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """Log-likelihood of a continuation in nats, whether each of its tokens is the most likely one, and blocks run for each."""

    log_likelihood: float
    greedy: bool
    layers: list[int]


@dataclass(frozen=True)
class Result:
    """What was scored, in the order given; positions the model was given, without padding; rows at once in the end."""

    scored: list[Scored]
    computed_positions: int
    batch_size: int


@dataclass
class _Row:
    """Requests that differ in their last token at most: one row of computation for all of them."""

    context: tuple[int, ...]
    steps: tuple[int, ...]
    places: list[int]


@dataclass(frozen=True)
class Arm:
    """A resolved method, and the number of tokens that its steps reckon with (`expected_tokens` of `generate`)."""

    method: Method
    expected_tokens: int


def score_pairs(
    decoder: Decoder,
    arms: Sequence[Arm],
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    shrink: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> list[Result]:
    """Score continuations under methods.

    Args:
        decoder: the model.
        arms: one method or more.
        pairs: what to score; the model has room for context and continuation less its last token.
        batch_size: continuations computed together at most.
        shrink: halve the batch where the device has no room for it, instead of failing.
        progress: is told how many requests were answered, under all methods.

    Returns:
        What was scored under each method; positions of contexts are counted with the first.
    """
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], _Row] = {}
    for place, pair in enumerate(pairs):
        key = pair.context, pair.rest[:-1]
        rows.setdefault(key, _Row(*key, [])).places.append(place)
    contexts: dict[tuple[int, ...], list[_Row]] = {}
    for row in rows.values():
        contexts.setdefault(row.context, []).append(row)
    for group in contexts.values():
        group.sort(key=lambda row: -len(row.steps))
    run = _Run(decoder, arms, pairs, progress)
    alone = [group[0] for group in contexts.values() if len(group) == 1]
    # The longest first: what does not fit shows at once, and the progress bar errs on the safe side.
    alone.sort(key=_size, reverse=True)
    shared = sorted(
        (g for g in contexts.values() if len(g) > 1), key=lambda g: (len(g[0].context), len(g)), reverse=True
    )
    done = 0
    while done < len(alone):
        batch = _alike(alone[done : done + batch_size])
        batch_size = run.attempt(lambda batch=batch: run.unshared(batch), batch_size, shrink)  # type: ignore[misc]
        done += len(batch) if run.fitted else 0
    waiting = list(shared)[::-1]
    while waiting:
        groups = [waiting.pop()]
        while waiting and sum(map(len, groups)) + len(waiting[-1]) <= batch_size:
            groups.append(waiting.pop())
        batch_size = run.attempt(lambda groups=groups, size=batch_size: run.shared(groups, size), batch_size, shrink)  # type: ignore[misc]
        if not run.fitted:
            waiting.extend(groups[::-1])
    return [
        Result([one for one in answers if one is not None], computed, batch_size)
        for answers, computed in zip(run.answers, run.computed, strict=True)
    ]


def _size(row: _Row) -> tuple[int, int, int]:
    """What rows are sorted by: the order of length of the context, then all tokens."""
    return len(row.context).bit_length(), len(row.context) + len(row.steps), len(row.context)


def _alike(rows: Sequence[_Row]) -> Sequence[_Row]:
    """The first rows whose contexts are of one order of length: a skipped block runs as far as a batch's longest context."""
    longest = len(rows[0].context)
    for count, row in enumerate(rows):
        longest = max(longest, len(row.context))
        if 2 * len(row.context) + _SHORT < longest:
            return rows[:count]
    return rows


class _Run:
    def __init__(
        self, decoder: Decoder, arms: Sequence[Arm], pairs: Sequence[Pair], progress: Callable[[int], object]
    ) -> None:
        self.decoder, self.arms, self.pairs, self.progress = decoder, arms, pairs, progress
        self.answers: list[list[Scored | None]] = [[None] * len(pairs) for _ in arms]
        self.computed = [0] * len(arms)
        self.fitted = True

    def attempt(self, job: Callable[[], None], batch_size: int, shrink: bool) -> int:
        """Run a job; returns the batch size to go on with, halved (and `fitted` False) where there was no room."""
        try:
            with torch.inference_mode():
                job()
            self.fitted = True
        except torch.OutOfMemoryError:
            if not shrink or batch_size == 1:
                raise
            torch.cuda.empty_cache()
            self.fitted = False
            return batch_size // 2
        return batch_size

    def unshared(self, batch: Sequence[_Row]) -> None:
        """Rows whose contexts differ. Under one method context and continuation are one sequence, if the method allows."""
        if len(self.arms) > 1:
            self.shared([[row] for row in batch], len(batch))
            return
        prompts, lengths = self._padded([row.context for row in batch])
        targets, counts = self._padded([row.steps for row in batch])
        forced = force(
            self.decoder,
            self.arms[0].method,
            prompts,
            lengths,
            targets,
            expected_tokens=self.arms[0].expected_tokens,
            target_lengths=counts,
        )
        self.computed[0] += sum(len(row.context) + len(row.steps) for row in batch)
        self._answer([0], batch, range(len(batch)), range(len(batch)), forced.prompt_last, forced, forced.prompt_ran)
        self.progress(sum(len(row.places) for row in batch))

    def shared(self, groups: Sequence[Sequence[_Row]], batch_size: int) -> None:
        """Contexts that several rows or methods continue: each computed once, then its rows, `batch_size` of them at a time.

        Methods share what they run over a prompt, which for nearly all of them is everything.
        """
        alike: dict[object, list[int]] = {}
        for arm, one in enumerate(self.arms):
            alike.setdefault(prompts_alike(one.method, self.decoder.depth), []).append(arm)
        for arms in alike.values():
            self._continued(arms, groups, batch_size)
        self.progress(sum(len(row.places) for group in groups for row in group))

    def _continued(self, arms: Sequence[int], groups: Sequence[Sequence[_Row]], batch_size: int) -> None:
        """The groups' rows under methods that run prompts alike."""
        prompts, lengths = self._padded([group[0].context for group in groups])
        first = self.arms[arms[0]]
        started = start(self.decoder, first.method, prompts, lengths, expected_tokens=first.expected_tokens)
        self.computed[arms[0]] += sum(len(group[0].context) for group in groups)
        last = started.last
        rows = [(owner, row) for owner, group in enumerate(groups) for row in group]
        # Rows without a step need the context alone.
        short = [(owner, row) for owner, row in rows if not row.steps]
        if short:
            self._answer(arms, [row for _, row in short], [owner for owner, _ in short], [], last, None, started.ran)
        longer = sorted(((o, r) for o, r in rows if r.steps), key=lambda pair: -len(pair[1].steps))
        for arm in arms:
            for begin in range(0, len(longer), batch_size):
                self._proceed(arm, started, last, longer[begin : begin + batch_size])

    def _proceed(self, arm: int, started: Started, last: torch.Tensor, rows: Sequence[tuple[int, _Row]]) -> None:
        owners = [owner for owner, _ in rows]
        targets, _ = self._padded([row.steps for _, row in rows])
        forced = proceed(
            self.decoder,
            self.arms[arm].method,
            started,
            targets,
            torch.tensor(owners, device=self.decoder.device),
            expected_tokens=self.arms[arm].expected_tokens,
        )
        self.computed[arm] += sum(len(row.steps) for _, row in rows)
        self._answer([arm], [row for _, row in rows], owners, range(len(rows)), last, forced, started.ran)

    def _padded(self, rows: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and lengths, on the model's device."""
        width = max(map(len, rows))
        device = self.decoder.device
        ids = torch.tensor([[*row, *(0,) * (width - len(row))] for row in rows], dtype=torch.long, device=device)
        return ids, torch.tensor([len(row) for row in rows], device=device)

    def _answer(
        self,
        arms: Sequence[int],
        rows: Sequence[_Row],
        owners: Sequence[int],
        targets: Sequence[int],
        last: torch.Tensor,
        forced: Forced | None,
        prompt_ran: Sequence[int] | None,
    ) -> None:
        """The head where a continuation's token is predicted, and nowhere else; then what the rows' requests get under `arms`."""
        depth = self.arms[arms[0]].method.prompt_plan(self.decoder.depth).budget
        states = [last[list(owners)]]
        if forced is not None and forced.target_hidden.shape[1]:
            real = [(target, step) for target, row in zip(targets, rows, strict=True) for step in range(len(row.steps))]
            if real:
                index = torch.tensor(real, device=last.device)
                states.append(forced.target_hidden[index[:, 0], index[:, 1]])
        blocks = [] if forced is None else forced.layers.sum(2).tolist()
        # Places of a row's states: its context's last, then those of its steps.
        first = len(rows)
        wanted: list[tuple[int, int]] = []
        spans: list[tuple[int, int, list[int]]] = []
        for i, row in enumerate(rows):
            places = [i, *range(first, first + len(row.steps))]
            first += len(row.steps)
            before = depth if prompt_ran is None else prompt_ran[owners[i]]
            ran = [before, *(blocks[targets[i]][: len(row.steps)] if row.steps else [])]
            for request in row.places:
                spans.append((request, len(wanted), ran))
                wanted += zip(places, self.pairs[request].rest, strict=True)
        values, greedy = self._token_scores(torch.cat(states), wanted)
        for request, begin, ran in spans:
            end = begin + len(ran)
            for arm in arms:
                self.answers[arm][request] = Scored(float(sum(values[begin:end])), all(greedy[begin:end]), list(ran))

    def _token_scores(self, states: torch.Tensor, wanted: Sequence[tuple[int, int]]) -> tuple[list[float], list[bool]]:
        """Log-likelihood of the wanted (state, token) pairs, and whether the token is the most likely one."""
        index = torch.tensor(wanted, device=states.device)
        totals, best, raw = [], [], torch.empty(len(wanted), device=states.device)
        room = _LOGITS_AT_ONCE_CPU if states.device.type == "cpu" else _LOGITS_AT_ONCE
        size = max(1, room // self.decoder.geometry.vocabulary)
        for begin in range(0, len(states), size):
            logits = self.decoder.head(states[begin : begin + size]).float()
            mine = ((index[:, 0] >= begin) & (index[:, 0] < begin + size)).nonzero().squeeze(1)
            raw[mine] = logits[index[mine, 0] - begin, index[mine, 1]]
            highest, token = logits.max(-1)
            best.append(token)
            # logsumexp in place, half the time of torch's, which makes two more tensors of this size.
            totals.append(highest + logits.sub_(highest[:, None]).exp_().sum(-1).log_())
        values = raw - torch.cat(totals)[index[:, 0]]
        return values.double().tolist(), (torch.cat(best)[index[:, 0]] == index[:, 1]).tolist()
