"""The teacher-forced pass: its two ways give the same numbers and gradients, with what training adds to it as without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import methods
from harness.decode.forced import force, proceed
from harness.decode.prompt_pass import Forced, Through, at_once, start
from harness.method import Method, Schedule
from harness.models.decoder import Decoder
from harness.plan import LayerPlan, Step
from harness.train.batches import Pair, collate
from harness.train.stage_model import ForcedModel
from tests.conftest import tiny

DEPTH = 4
LENGTHS, TARGETS = torch.tensor([5, 2, 4]), torch.tensor([3, 6, 1])


@dataclass(frozen=True)
class Sublayers(Schedule):
    """Attention and feed-forward sublayers end at different steps, both for good: every block runs on prefixes."""

    name = "sublayers"
    title = "test"
    paper = ""

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        """See Schedule."""
        attention = tuple(step.index <= 6 - block for block in range(depth))
        return LayerPlan(attention, tuple(step.index <= 2 + block for block in range(depth)))


PREFIXES: list[Method] = [
    methods.create("full"),
    methods.create("skipdecode(min_layers=2, max_layers=4)"),
    Sublayers(),
]


def again(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Gradient checkpointing."""
    return checkpoint(function, x, use_reentrant=False)  # type: ignore[no-any-return]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randint(2, 60, (3, width), generator=generator) for width in (5, 6))  # type: ignore[return-value]


def run(decoder: Decoder, method: Method, shared: bool, drop: bool, through: Through) -> Forced:
    prompts, targets = batch()
    decoder.refresh()  # the weights again, so that gradients reach them
    dropped = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool() if drop else None
    owners = torch.arange(3) if shared else None
    settings = {"expected_tokens": 6, "dropped": dropped, "through": through}
    return force(decoder, method, prompts, LENGTHS, targets, owners, target_lengths=TARGETS, **settings)  # type: ignore[arg-type]


def real_states(forced: Forced) -> torch.Tensor:
    """What a loss or a score reads: a prompt's last token and the continuation's own."""
    own = torch.arange(6) < TARGETS.unsqueeze(1)
    return torch.cat((forced.prompt_last, forced.target_hidden[own]))


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("method", PREFIXES, ids=lambda m: m.name)
def test_one_causal_pass_is_prompts_then_continuations(family: str, method: Method, drop: bool) -> None:
    """Same states and gradients, whichever way is taken, with blocks left out by row, and with blocks computed again."""
    decoder = tiny(family, depth=DEPTH)
    found = []
    for shared, through in ((True, at_once), (False, at_once), (False, again), (True, again)):
        decoder.source.zero_grad()
        states = real_states(run(decoder, method, shared, drop, through))
        states.square().sum().backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.clone() for n, p in decoder.source.named_parameters() if p.grad is not None}
        found.append((states.detach(), gradients))
    for states, gradients in found[1:]:
        torch.testing.assert_close(states, found[0][0], atol=1e-4, rtol=1e-4)
        assert gradients.keys() == found[0][1].keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=2e-3, rtol=1e-3, msg=name)


def test_dropping_nothing_and_everything() -> None:
    """A row that leaves out every block keeps its embeddings; one that leaves out none is as if there were no dropout."""
    decoder = tiny("opt", depth=DEPTH)
    prompts, targets = batch()
    want = run(decoder, PREFIXES[0], False, False, at_once)
    for owners in (None, torch.arange(3)):
        dropped = torch.tensor([[1] * DEPTH, [0] * DEPTH, [0] * DEPTH]).bool()
        got = force(
            decoder, PREFIXES[0], prompts, LENGTHS, targets, owners, expected_tokens=6, dropped=dropped, through=at_once
        )
        torch.testing.assert_close(got.target_hidden[1:, :1], want.target_hidden[1:, :1], atol=1e-5, rtol=1e-5)
        entry = decoder.embed(targets[:1], 5 + torch.arange(6).unsqueeze(0))
        torch.testing.assert_close(got.target_hidden[:1], entry)


def test_exits_may_be_computed_again() -> None:
    """Which rows run is decided once, on the way there; the gradients are those without checkpointing."""
    decoder = tiny("opt", depth=DEPTH)
    method = methods.create("calm(threshold=0.3)").resolve(decoder.depth, decoder.extras)
    found = []
    for through in (at_once, again):
        decoder.source.zero_grad()
        forced = run(decoder, method, False, False, through)
        assert 0 < forced.layers.float().mean() < 1, "some rows exit early"
        real_states(forced).square().sum().backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad.clone() for n, p in decoder.source.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_prompts_are_continued_any_number_of_times() -> None:
    """What was dropped for a prompt stays dropped for its continuations; the first pass changes nothing for the second."""
    decoder = tiny("llama", depth=DEPTH)
    prompts, targets = batch()
    dropped = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    with torch.inference_mode():
        started = start(decoder, methods.create("full"), prompts, LENGTHS, dropped=dropped)
        owners = torch.tensor([2, 0, 0])
        first, second = (
            proceed(decoder, PREFIXES[1], started, targets, owners, expected_tokens=6).target_hidden for _ in range(2)
        )
        assert torch.equal(first, second)
        for row, owner in enumerate(owners.tolist()):
            length = LENGTHS[owner : owner + 1]
            alone = force(
                decoder,
                PREFIXES[1],
                prompts[owner : owner + 1, : int(length)],
                length,
                targets[row : row + 1],
                expected_tokens=6,
                dropped=dropped[owner : owner + 1],
            )
            torch.testing.assert_close(first[row : row + 1], alone.target_hidden, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", ["full", "skipdecode(min_layers=2,max_layers=4)", "layerskip"])
def test_training_takes_either_way_to_one_loss(spec: str) -> None:
    """A batch with one reference for each prompt is the mean of its parts, as one with several is."""
    decoder = tiny("opt", depth=DEPTH)
    plan = methods.create(spec).training_plan()
    model = ForcedModel(decoder, plan, plan.stages[0], expected_tokens=5, seed=0).eval()
    alone = [Pair([5, 6, 7, 8], [[9, 10, 1]]), Pair([5, 6, 7, 8], [[11, 12, 13, 14, 1]]), Pair([15, 16], [[17, 1]])]
    shared = [Pair([5, 6, 7, 8], [[9, 10, 1], [11, 12, 13, 14, 1]]), Pair([15, 16], [[17, 1]])]
    with torch.no_grad():
        one, other = (float(model(**collate(pairs, pad=0))["loss"]) for pairs in (alone, shared))
    assert one == pytest.approx(other, rel=1e-5)
