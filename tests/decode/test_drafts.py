"""Draft and verify: what is accepted, what is counted, and that the output is the full model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import methods
from harness.decode.engine import Decoding, generate
from harness.decode.sampling import Sampling
from harness.errors import BadInput
from harness.measure.probes import flops, layers
from harness.measure.probes.watching import BrokenContract, Watch
from harness.method import Draft, Start
from harness.models.decoder import Decoder
from harness.plan import LayerPlan
from tests.conftest import ragged_prompts, tiny_opt

NEW = 24


def easy_opt(keep: int = 2) -> Decoder:
    """A model whose blocks from `keep` on add nothing: a draft of the first `keep` blocks is always right."""
    decoder = tiny_opt()
    for layer in decoder.source.model.decoder.layers[keep:]:
        for module in (layer.self_attn.out_proj, layer.fc2):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    decoder.refresh()
    return decoder


@dataclass(frozen=True)
class Holed(Draft):
    """Drafts with every other block, so that verification shares only the first with the draft; stops when unsure."""

    name: ClassVar[str] = "holed"
    draft_tokens: int = 4
    sure: float = 0.0
    first: int = 0

    def draft_plan(self, depth: int, memory: Any) -> LayerPlan:
        return LayerPlan.of(range(self.first, depth, 2), depth)

    def goes_on(self, logits: torch.Tensor, memory: Any) -> torch.Tensor | None:
        return logits.softmax(-1).amax(-1) > self.sure if self.sure else None


@pytest.mark.parametrize(
    ("method", "rows", "temperature"),
    [
        (methods.create("layerskip(exit_layer=1,draft_tokens=5)"), 8, 0.0),
        (methods.create("layerskip(exit_layer=5,draft_tokens=30)"), 1, 0.8),
        (Holed(), 1, 0.0),
        (Holed(first=1), 8, 0.8),
        (Holed(sure=0.1), 8, 0.0),
        (Holed(sure=0.1), 1, 0.8),
        (methods.create("prompt_lookup(draft_tokens=5,window=part)"), 8, 0.8),
        (methods.create("swift(draft_tokens=4,threshold=0.05,window=3)"), 8, 0.0),
        (methods.create("knapspec(draft_tokens=3,threshold=0.05,every=2,window=3)"), 8, 0.8),
        (methods.create("del_exit(draft_tokens=4)"), 8, 0.0),
    ],
    ids=str,
)
def test_output_is_the_full_models(decoder: Decoder, method: Draft, rows: int, temperature: float) -> None:
    ids, mask = ragged_prompts(rows=rows)
    sampling = Sampling(temperature=temperature, seed=5)
    want = generate(decoder, methods.create("full"), ids, mask, max_new_tokens=NEW, sampling=sampling)
    out = generate(decoder, method, ids, mask, max_new_tokens=NEW, sampling=sampling)
    assert torch.equal(out.tokens, want.tokens) and torch.equal(out.lengths, want.lengths)


def test_a_perfect_draft_is_accepted_whole() -> None:
    decoder = easy_opt()
    ids, mask = ragged_prompts(rows=4)
    method = methods.create("layerskip(exit_layer=2,draft_tokens=4)")
    out = generate(decoder, method, ids, mask, max_new_tokens=21, stop_at_eos=False)
    assert [step.yielded.tolist() for step in out.trace.steps] == [[5] * 4] * 4  # type: ignore[union-attr]
    counted = layers.count([(out.trace, out.lengths)])
    # Five tokens cost five columns of the two drafting blocks and five of the four others, in 5 * 2 + 4 block runs.
    assert counted.per_token == 6 and counted.serial_per_token == pytest.approx((5 * 2 + 4) / 5)
    assert counted.heads_per_token == 1


def test_rejected_drafts_are_charged(opt: Decoder) -> None:
    ids, mask = ragged_prompts(rows=1)
    full = generate(opt, methods.create("full"), ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    method = Holed(first=opt.depth - 1)  # the top block alone
    out = generate(opt, method, ids, mask, max_new_tokens=NEW, stop_at_eos=False)
    assert torch.equal(out.tokens, full.tokens)
    steps = out.trace.steps
    accepted = sum(int(step.yielded.sum()) - 1 for step in steps)  # type: ignore[union-attr]
    drafted = sum(int(step.drafted.sum()) for step in steps)  # type: ignore[union-attr]
    assert accepted < drafted
    own, base = (flops.count(o.trace, opt.geometry, 4, 4) for o in (out, full))
    assert own.tokens == base.tokens == NEW - 1
    # One head for each draft, and one for each column it was verified at.
    assert own.head == (2 * drafted + len(steps)) * 2 * opt.geometry.head_weights
    counted = layers.count([(out.trace, out.lengths)])
    assert counted.per_token == (drafted + opt.depth * (drafted + len(steps))) / (NEW - 1)


def test_rows_progress_raggedly_and_end_together(opt: Decoder) -> None:
    ids, mask = ragged_prompts(rows=8)
    decoding = Decoding(opt, methods.create("layerskip(exit_layer=4,draft_tokens=3)"), ids, mask, max_new_tokens=NEW)
    yielded = decoding.prefill()
    while not decoding.done:
        yielded += decoding.step()
    steps = [step.yielded for step in decoding.trace.steps if step.yielded is not None]
    assert any(len(set(got.tolist())) > 1 for got in steps)
    out = decoding.output()
    assert yielded == int(out.lengths.sum())
    assert out.tokens.shape[1] == int(out.lengths.max())


def test_the_last_positions_of_the_model_can_be_drafted(opt: Decoder) -> None:
    ids = torch.randint(2, 90, (2, 50), generator=torch.Generator().manual_seed(0))
    want = generate(opt, methods.create("full"), ids, max_new_tokens=15, stop_at_eos=False)
    out = generate(opt, methods.create("layerskip(draft_tokens=9)"), ids, max_new_tokens=15, stop_at_eos=False)
    assert torch.equal(out.tokens, want.tokens)


@dataclass(frozen=True)
class Bringing(Holed):
    """Proposes what it is told."""

    what: tuple[tuple[int, ...], ...] = ()

    def propose(self, new: Sequence[Sequence[int]], memory: Any) -> Sequence[Sequence[int]]:
        return self.what


@dataclass(frozen=True)
class Remembering(Holed):
    """Its memory is a list that it writes on, as it may; with `greedy` also the tokens it is lent, which it may not."""

    greedy: bool = False

    def begin(self, start: Start) -> list[list[int]]:
        return [[] for _ in start.lengths]

    def propose(self, new: Sequence[Sequence[int]], memory: Any) -> Sequence[Sequence[int]]:
        for row, tokens in zip(memory, new, strict=True):
            row.extend(tokens)
        if self.greedy:
            new[0].clear()  # type: ignore[attr-defined]
        return [[] for _ in memory]


def test_a_watched_draft_may_write_on_its_memory_and_not_on_the_tokens(opt: Decoder) -> None:
    ids = ragged_prompts(rows=2)[0]
    generate(opt, Watch(Remembering()).method, ids, max_new_tokens=4, stop_at_eos=False)
    with pytest.raises(BrokenContract, match="writes on the tokens"):
        generate(opt, Watch(Remembering(greedy=True)).method, ids, max_new_tokens=4, stop_at_eos=False)


@pytest.mark.parametrize("spec", ["prompt_lookup", "swift", "clasp(skips=1, every=2)", "knapspec", "del_exit(every=2)"])
def test_drafts_that_learn_write_on_their_memory_under_a_watch(opt: Decoder, spec: str) -> None:
    generate(opt, Watch(methods.create(spec)).method, ragged_prompts(rows=2)[0], max_new_tokens=8, stop_at_eos=False)


@pytest.mark.parametrize(
    ("what", "said"),
    [(((3,),), "gives 1 rows of tokens for 2 rows"), (((3,), (-1,)), "a token outside the vocabulary")],
)
def test_proposals_that_cannot_be_are_refused(opt: Decoder, what: tuple[tuple[int, ...], ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        generate(opt, Bringing(what=what), ragged_prompts(rows=2)[0], max_new_tokens=6)
