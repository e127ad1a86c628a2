"""Invariant 7 and the bridge's semantics, on tiny models, against lm-eval's own backend on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import methods
from harness.decode.engine import Decoding, generate
from harness.errors import BadInput
from harness.models.decoder import Decoder
from harness.tasks.lm_eval import scoring
from harness.tasks.lm_eval.bridge import MethodLM
from tests.tasks.lm_eval import fixtures as made

FAMILIES = ("opt", "llama", "gpt_neox")
HARD = "skipdecode(min_layers=1,max_layers=2)"
MIXED = ["full", HARD, "calm(threshold=0.2)", "fixed_exit(budget=3)", "unified_skip(speedup=2)", "layerskip"]


def answers(lm: Any, requests: list[Any]) -> list[tuple[float, bool]]:
    return lm.loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]


def values(found: list[tuple[float, bool]]) -> list[float]:
    return [value for value, _ in found]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_equals_lm_evals_own_backend(family: str, batch: int) -> None:
    decoder = made.model(family)
    ours, theirs = MethodLM(decoder, "full", batch), made.hf(decoder, batch)
    requests = made.likelihoods(made.pairs())
    mine, want = answers(ours, requests), answers(theirs, requests)
    made.close(values(mine), values(want))
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in want]
    texts = made.rolling([" ".join(made.TEXT), made.TEXT[0], made.TEXT[1] * 3, "a"])
    made.close(
        ours.loglikelihood_rolling(texts, disable_tqdm=True), theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    )
    prompts = made.generations(
        [made.TEXT[0][:20], made.TEXT[1], " ".join(made.TEXT) * 2], until=["\n\n"], max_gen_toks=12
    )
    assert ours.generate_until(prompts, disable_tqdm=True) == theirs.generate_until(prompts, disable_tqdm=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_flags_equal_lm_evals(family: str) -> None:
    """Continuations that are the model's own, and the same with another last token."""
    decoder = made.model(family)
    encoded = []
    for text in made.TEXT:
        ids = decoder.tokenizer.encode(text)[:12]
        own = (
            generate(decoder, methods.create("full"), torch.tensor([ids]), max_new_tokens=5, stop_at_eos=False)
            .tokens[0]
            .tolist()
        )
        encoded += [(("", ""), ids, own), (("", ""), ids, [*own[:-1], own[-1] ^ 1])]
    mine = MethodLM(decoder, "full", 4).loglikelihood_tokens(encoded, ["t"] * len(encoded), disable_tqdm=True)
    want = made.hf(decoder, 4)._loglikelihood_tokens(encoded, disable_tqdm=True)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in want] == [True, False] * len(made.TEXT)
    made.close(values(mine), values(want))


@pytest.mark.parametrize("spec", MIXED)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_likelihood_is_that_of_decoding_token_by_token(family: str, spec: str) -> None:
    decoder, method = made.model(family), methods.create(spec)
    ids = decoder.tokenizer.encode(made.TEXT[2])[:10]
    decoding = Decoding(decoder, method, torch.tensor([ids]), max_new_tokens=7, stop_at_eos=False)
    decoding.prefill()
    assert decoding.logits is not None
    logits = [decoding.logits[0]]
    while not decoding.done:
        decoding.step()
        got = decoding.trace.steps[-1].yielded
        logits += [decoding.logits[0]] if got is None else list(decoding.logits[0, : got[0]])
    tokens = decoding.output().tokens[0]
    want = torch.stack(logits).log_softmax(-1).gather(1, tokens.unsqueeze(1)).sum()
    lm = MethodLM(decoder, method, 4, expected_tokens=7)
    # Beside others of other lengths, that share its context or do not.
    others = [(("", ""), ids, [5, 6, 7]), (("", ""), ids[:3], [9] * 12), (("c", "d"), ids, tokens.tolist())]
    value, greedy = lm.loglikelihood_tokens(others, ["t"] * 3, disable_tqdm=True)[2]
    assert greedy
    made.close([value], [float(want)])
    (record,) = lm.record("loglikelihood", ("c", "d"))
    assert record.layers[0] == decoder.depth
    assert record.layers == decoding.output().trace.layers[0].sum(1).tolist()


@pytest.mark.parametrize("spec", MIXED)
def test_batches_and_shared_contexts_change_nothing(spec: str) -> None:
    decoder = made.model("llama")
    requests = made.likelihoods(made.pairs())
    alone = [answers(MethodLM(decoder, spec, 1, expected_tokens=6), [request])[0] for request in requests]
    together = answers(MethodLM(decoder, spec, 5, expected_tokens=6), requests)
    made.close(values(together), values(alone))
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]


def test_a_hard_skip_changes_scores_and_no_skip_does_not() -> None:
    decoder = made.model("opt")
    requests = made.likelihoods([pair for pair in made.pairs() if len(pair[1]) > 12])
    texts = made.rolling(made.TEXT)
    prompts = made.generations(made.TEXT, max_gen_toks=8, until=[])
    full, hard = MethodLM(decoder), MethodLM(decoder, HARD)
    gentle = methods.create("skipdecode").no_skip(decoder.depth)
    assert gentle is not None
    same = MethodLM(decoder, gentle)
    want = answers(full, requests)
    assert answers(same, requests) == want
    assert same.loglikelihood_rolling(texts, disable_tqdm=True) == full.loglikelihood_rolling(texts, disable_tqdm=True)
    changed = [abs(a - b) for a, b in zip(values(answers(hard, requests)), values(want), strict=True)]
    assert min(changed) > 1e-2
    rolled = full.loglikelihood_rolling(texts, disable_tqdm=True)
    assert all(
        abs(a - b) > 1e-2 for a, b in zip(hard.loglikelihood_rolling(texts, disable_tqdm=True), rolled, strict=True)
    )
    generated = full.generate_until(prompts, disable_tqdm=True)
    assert same.generate_until(prompts, disable_tqdm=True) == generated
    assert hard.generate_until(prompts, disable_tqdm=True) != generated


def test_a_shared_context_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its continuations fill several batches; and requests that differ in the last token share a row."""
    decoder = made.model("opt")
    context = tuple(range(10, 30))
    ends = [(40 + i, 50 + i, 60 + i) for i in range(5)] + [(40, 50, 99), (7,), (8,)]
    pairs = [scoring.Pair(context, end) for end in ends]
    method = methods.create(HARD).resolve(decoder.depth, {})
    runs: list[int] = []
    inner = scoring.start
    monkeypatch.setattr(scoring, "start", lambda *a, **k: (runs.append(len(a[2])), inner(*a, **k))[1])
    found = scoring.score_pairs(decoder, [scoring.Arm(method, 3)], pairs, batch_size=2)[0]
    assert runs == [1]
    assert found.computed_positions == len(context) + 5 * 2
    assert [len(one.layers) for one in found.scored] == [3] * 6 + [1, 1]
    alone = [scoring.score_pairs(decoder, [scoring.Arm(method, 3)], [p], batch_size=1)[0].scored[0] for p in pairs]
    made.close([one.log_likelihood for one in found.scored], [one.log_likelihood for one in alone])


def test_the_head_runs_only_where_a_token_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made.model("opt")
    rows: list[int] = []
    head = decoder.head
    monkeypatch.setattr(decoder, "head", lambda x: (rows.append(len(x)), head(x))[1])
    pairs = [scoring.Pair(tuple(range(5, 45)), (3, 4)), scoring.Pair(tuple(range(5, 25)), (3,))]
    full = methods.create("full")
    scoring.score_pairs(decoder, [scoring.Arm(full, 2)], pairs, batch_size=8)
    assert sum(rows) == 3


def test_encoded_requests_are_not_taken_for_those_of_an_earlier_task() -> None:
    """As many encoded requests as an earlier call had got its tasks' names; any other number got none at all, silently."""
    lm = MethodLM(made.model("opt"), HARD, 4, expected_tokens={"t": 4})
    answers(lm, made.likelihoods([("a b", " c")]))
    encoded = [(("", ""), [5, 6, 7], [8, 9, 10])]
    for requests in (encoded, encoded * 2):
        with pytest.raises(BadInput, match="without the names of their tasks"):
            lm._loglikelihood_tokens(requests, disable_tqdm=True)  # what lm-eval calls


def test_work_says_what_the_method_left_out() -> None:
    decoder = made.model("opt")
    lm = MethodLM(decoder, "fixed_exit(budget=2)", 4, expected_tokens=4)
    lm.loglikelihood_tokens([(("a", "b"), [5, 6, 7], [8, 9, 10])], ["t"], disable_tqdm=True)
    work = lm.work["loglikelihood"]
    # Three positions at six blocks, then the first two of the continuation at two.
    assert (work.blocks, work.full_blocks) == (3 * 6 + 2 * 2, 5 * 6)


@pytest.mark.parametrize("stop", ["gs ar", "fox jumps", "</s>"])
def test_generation_stops_on_texts_of_several_tokens(stop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is made to say a given text; the stop text's tokens are not those of the text."""
    decoder = made.model("opt")
    said = decoder.tokenizer.encode("The quick brown fox jumps. Two eggs are in the</s> basket")
    prompt = decoder.tokenizer.encode("A dog")
    step = iter(range(len(said)))

    def head(x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(x.shape[0], decoder.geometry.vocabulary)
        logits[:, said[next(step)]] = 1.0
        return logits

    monkeypatch.setattr(decoder, "head", head)
    lm = MethodLM(decoder)
    (text,) = lm.generate_until(
        made.generations([decoder.tokenizer.decode(prompt)], until=[stop], max_gen_toks=40), True
    )
    whole = "The quick brown fox jumps. Two eggs are in the</s> basket"
    assert text == whole[: min(whole.find(s) for s in (stop, "</s>") if s in whole)]


def test_truncation_is_lm_evals_and_counted() -> None:
    decoder = made.model("opt")
    lm = MethodLM(decoder)
    long = " ".join(made.TEXT * 3)
    lost = len(decoder.tokenizer.encode(long + " and")) - (made.POSITIONS + 1)
    answers(lm, made.likelihoods([(long, " and"), ("a", " b")], task="cut"))
    assert (lm.truncated["cut"].requests, lm.truncated["cut"].tokens) == (1, lost)


def test_expected_tokens_are_the_tasks_median_and_stay() -> None:
    lm = MethodLM(made.model("opt"), "skipdecode(speedup=3)")
    first = answers(lm, made.likelihoods([("The fox", " jumps over the lazy dog")]))
    more = made.likelihoods([("The fox", " jumps over the lazy dog"), ("a", " b"), ("b", " c")])
    assert answers(lm, more)[0] == pytest.approx(first[0])
    other = MethodLM(made.model("opt"), "skipdecode(speedup=3)", expected_tokens={"t": 2})
    assert answers(other, more)[0] != pytest.approx(first[0])


def test_cache_names_tell_models_methods_and_parameters_apart() -> None:
    opt, llama = made.model("opt"), made.model("llama")
    lms = [
        MethodLM(opt),
        MethodLM(llama),
        MethodLM(opt, "skipdecode(speedup=2)"),
        MethodLM(opt, "skipdecode(speedup=3)"),
        MethodLM(opt, "skipdecode(speedup=3)", expected_tokens=9),
    ]
    assert len({lm.cache_name() for lm in lms}) == len(lms)
    before = MethodLM(opt).cache_name()
    weight = next(opt.source.parameters())
    with torch.no_grad():
        weight[0, 0] += 1
        try:
            assert MethodLM(opt).cache_name() != before, "a checkpoint trained on is another one"
        finally:
            weight[0, 0] -= 1


def test_a_cache_of_another_method_is_refused(tmp_path: Any) -> None:
    from lm_eval.api.model import CachingLM

    requests = made.likelihoods(made.pairs()[:4])
    store = str(tmp_path / "answers.db")
    want = CachingLM(MethodLM(made.model("opt"), HARD), store).loglikelihood(requests)
    again = MethodLM(made.model("opt"), HARD)
    cached = CachingLM(again, store)
    assert cached.loglikelihood(requests) == want
    assert again.work == {}, "the answers came from the cache"
    (record,) = again.record("loglikelihood", requests[1].args)
    assert len(record.layers) > 1
    with pytest.raises(BadInput, match="use_cache: holds answers of skipdecode-"):
        CachingLM(MethodLM(made.model("opt")), store)


def test_what_cannot_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made.model("opt")
    lm = MethodLM(decoder)
    with pytest.raises(BadInput, match="task t, document 0: the continuation has no token"):
        lm.loglikelihood(made.likelihoods([("a", "")]))
    with pytest.raises(BadInput, match="longer than the model's 96 positions"):
        lm.loglikelihood(made.likelihoods([("a", " b" * 200)]), True)
    with pytest.raises(BadInput, match="num_beams=4 is not supported"):
        lm.generate_until(made.generations(["a"], num_beams=4), True)
    with pytest.raises(BadInput, match="max_gen_toks=96 leaves no room"):
        lm.generate_until(made.generations(["a"], max_gen_toks=96), True)
    with pytest.raises(BadInput, match="batch_size: 'many'"):
        MethodLM(decoder, batch_size="many")
    with pytest.raises(BadInput, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "a"}])
    monkeypatch.setattr(methods.get("full"), "cannot_score", "it looks ahead")
    with pytest.raises(BadInput, match="full: cannot be scored: it looks ahead"):
        MethodLM(decoder)


def test_auto_batches_shrink_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made.model("opt")
    real = scoring.force
    sizes: list[int] = []

    def tight(decoder: Decoder, method: Any, prompts: torch.Tensor, *rest: Any, **more: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError
        return real(decoder, method, prompts, *rest, **more)

    monkeypatch.setattr(scoring, "force", tight)
    requests = made.likelihoods([(f"The {word}", " fox jumps") for word in made.TEXT[0].split()])
    lm = MethodLM(decoder, batch_size="auto", max_batch_size=8)
    found = answers(lm, requests)
    assert lm.batch_size == 2 and sizes[:3] == [8, 4, 2]
    made.close(values(found), values(answers(MethodLM(decoder, batch_size=2), requests)))
    with pytest.raises(torch.OutOfMemoryError):
        answers(MethodLM(decoder, batch_size=8), requests)


def test_one_long_context_does_not_make_short_ones_run_skipped_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skipped block runs as far as a batch's longest context, so contexts of another order of length go to other batches."""
    decoder = made.model("opt")
    method = methods.create(HARD).resolve(decoder.depth, {})
    token = iter(range(5, 50))
    pairs = [scoring.Pair((next(token),), (7, 8, 9)) for _ in range(3)]
    pairs.insert(1, scoring.Pair(tuple([next(token)] * 40), (7, 8)))
    batches: list[list[int]] = []
    inner = scoring.force

    def force(*arguments: Any, **more: Any) -> Any:
        batches.append(arguments[3].tolist())
        return inner(*arguments, **more)

    monkeypatch.setattr(scoring, "force", force)
    together = scoring.score_pairs(decoder, [scoring.Arm(method, 3)], pairs, batch_size=8)[0]
    assert batches == [[40], [1, 1, 1]]
    alone = [scoring.score_pairs(decoder, [scoring.Arm(method, 3)], [p], batch_size=1)[0].scored[0] for p in pairs]
    for one, other in zip(together.scored, alone, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4) and one.greedy == other.greedy
