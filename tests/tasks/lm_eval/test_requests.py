"""What public reports complain about, one request at a time: samples, white space, BOS, chats, numbers that are not finite."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from harness.cli import texts
from harness.errors import BadInput, CellFailed
from harness.models.load import load_model
from harness.tasks.lm_eval import scoring
from harness.tasks.lm_eval.bridge import MethodLM
from tests.tasks.lm_eval import fixtures as made

HARD = "skipdecode(min_layers=1,max_layers=2)"
SAMPLED = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 2.0}


def samples(seed: int, batch: int, prompts: list[str] = made.TEXT[:2], repeats: int = 4, **changes: Any) -> list[str]:
    """What lm-eval gets: every request stands there as often as it is repeated; it seeds torch before."""
    requests = [r for r in made.generations(prompts, **{**SAMPLED, **changes}) for _ in range(repeats)]
    lm = MethodLM(
        made.model("opt"), HARD, batch
    )  # made first: a tiny model's weights are drawn with a seed of their own
    torch.manual_seed(seed)
    return lm.generate_until(requests, disable_tqdm=True)


def test_noise_is_of_seed_request_and_repeat() -> None:
    first = samples(3, batch=1)
    assert len(set(first[:4])) == 4, "four repeats, four samples"
    assert samples(3, batch=5) == first, "whatever the batch size"
    assert samples(3, batch=3, prompts=[made.TEXT[2], *made.TEXT[:2]])[4:] == first, "whatever stands beside"
    assert samples(4, batch=5) != first, "another seed"
    assert samples(3, 5, repeats=2) == first[:2] + first[4:6]


@pytest.mark.parametrize("greedy", [{"temperature": 0.0}, {"temperature": 0}, {"do_sample": False}])
def test_temperature_0_is_greedy(greedy: dict[str, Any]) -> None:
    want = samples(3, 4, do_sample=False, temperature=0.0)
    assert len(set(want)) == 2 and samples(5, 4, **greedy) == want


def test_sampling_takes_what_the_model_says_where_the_task_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made.model("opt").source.generation_config, "top_k", 1)
    assert samples(3, 4) == samples(3, 4, temperature=0.0), "of one token there is one sample"
    assert len(set(samples(3, 4, top_k=50))) > 2


def test_depths_of_every_repeat_are_kept() -> None:
    requests = [r for r in made.generations(made.TEXT[:2], **SAMPLED) for _ in range(3)]
    lm = MethodLM(made.model("opt"), HARD, 4)
    lm.generate_until(requests, disable_tqdm=True)
    lm.generate_until(requests, disable_tqdm=True)
    assert [len(lm.record("generate_until", requests[i].args)) for i in (0, 3)] == [3, 3]
    assert len({tuple(one.tokens) for one in lm.record("generate_until", requests[0].args)}) == 3


@pytest.mark.parametrize("spec", ["full", HARD])
@pytest.mark.parametrize(
    ("prompt", "rest"),
    [("The fox", " jumps over the lazy dog"), ("The fox ", "jumps over"), ("", "The fox jumps"), ("jum", "ps on")],
)
def test_score_and_lm_eval_encode_alike(checkpoint: Path, spec: str, prompt: str, rest: str) -> None:
    """The command encoded the continuation alone, and had no empty prompt."""
    decoder = load_model(str(checkpoint))
    lm = MethodLM(decoder, spec, expected_tokens=decoder.card["expected_tokens"])
    ((want, greedy),) = lm.loglikelihood(made.likelihoods([(prompt, rest)]), disable_tqdm=True)
    said = texts.score_text(str(checkpoint), spec, prompt, rest)
    found = re.match(r"log-likelihood (-?[\d.]+) over (\d+) tokens, greedy: (yes|no)", said)
    assert found and float(found[1]) == pytest.approx(want, abs=1e-3) and (found[3] == "yes") == greedy


@pytest.mark.parametrize("decoder", [made.model("llama"), made.bos_model()], ids=["plain", "bos"])
@pytest.mark.parametrize("space", [" ", "  ", "\n\t "])
def test_a_context_of_white_space_is_an_empty_one(decoder: Any, space: str) -> None:
    lm = MethodLM(decoder, HARD, 8, expected_tokens=4)
    alone = lm.loglikelihood(made.likelihoods([(space, "The fox jumps")]), disable_tqdm=True)
    want = lm.loglikelihood(made.likelihoods([("", f"{space}The fox jumps")]), disable_tqdm=True)
    beside = lm.loglikelihood(made.likelihoods([(made.TEXT[0], " a b c"), (space, "The fox jumps")]), disable_tqdm=True)
    made.close([alone[0][0], beside[1][0]], [want[0][0]] * 2)


@pytest.mark.parametrize("pair", [("The fox", ""), ("", ""), (" ", "")])
def test_a_continuation_without_a_token_names_its_document(pair: tuple[str, str]) -> None:
    request = Instance("loglikelihood", {}, pair, 0, ("odd", 17, 1))
    if pair == (" ", ""):  # the space is a continuation of its own
        MethodLM(made.model("opt")).loglikelihood([request], disable_tqdm=True)
        return
    with pytest.raises(BadInput, match="task odd, document 17: the continuation has no token of its own"):
        MethodLM(made.model("opt")).loglikelihood([request], disable_tqdm=True)


def test_a_rolling_likelihood_scores_no_bos_given_bos() -> None:
    """lm-eval 0.4.13 does, so a tokenizer that adds one made a text less likely by the odds of BOS after BOS."""
    plain, adding = made.model("llama"), made.bos_model()
    requests = made.rolling([" ".join(made.TEXT), made.TEXT[0] * 3, "a"])

    def rolled(lm: Any) -> list[float]:
        return lm.loglikelihood_rolling(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    want = rolled(MethodLM(plain))
    made.close(want, rolled(made.hf(plain, 4)))
    made.close(rolled(MethodLM(adding)), want)
    theirs = rolled(made.hf(adding, 4))
    assert all(abs(a - b) > 0.5 for a, b in zip(theirs, want, strict=True))
    made.close(rolled(MethodLM(adding, score_bos=True)), theirs)


def test_a_bos_adding_tokenizer_scores_and_generates_as_lm_evals_backend() -> None:
    decoder = made.bos_model()
    ours, theirs = MethodLM(decoder, "full", 4), made.hf(decoder, 4)
    requests = made.likelihoods(made.pairs())
    made.close(
        [value for value, _ in ours.loglikelihood(requests, disable_tqdm=True)],
        [value for value, _ in theirs.loglikelihood(requests, disable_tqdm=True)],
    )
    prompts = made.generations(made.TEXT, until=[], max_gen_toks=8)
    assert ours.generate_until(prompts, disable_tqdm=True) == theirs.generate_until(prompts, disable_tqdm=True)


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_template_without_a_system_role_is_used_as_lm_evals_backend_does() -> None:
    own = copy.deepcopy(made.tokenizer())
    own.chat_template = NO_SYSTEM
    decoder = load_model(made.model("opt").source, tokenizer=own)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many eggs?"}]
    ours = MethodLM(decoder).apply_chat_template(chat)
    assert ours == made.hf(decoder, 1).apply_chat_template(chat) == "<user>How many eggs?<assistant>"
    own.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(BadInput, match="the template of .* refuses a chat"):
        MethodLM(decoder).apply_chat_template(chat)


def test_what_is_not_finite_fails_with_task_and_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is the most likely token of every choice to argmax: accuracy 1.0 and exit status 0."""
    decoder = load_model(made.model("opt").source, tokenizer=made.tokenizer())
    head = decoder.head
    monkeypatch.setattr(decoder, "head", lambda x: head(x) * torch.where(x.sum() > 1e9, 1.0, torch.nan))
    lm = MethodLM(decoder, HARD)
    for answer, requests in (
        (lm.loglikelihood, made.likelihoods([("a b", " c d")], task="broken")),
        (lm.loglikelihood_rolling, made.rolling(["a b c"])),
        (lm.generate_until, made.generations(["a b"], until=[], max_gen_toks=3)),
    ):
        with pytest.raises(CellFailed, match=r"task \w+, document 0: .* under skipdecode.*--dtype float32"):
            answer(requests, disable_tqdm=True)


def test_methods_beside_each_other_share_their_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made.model("llama")
    specs = ["full", HARD, "calm(threshold=0.2)", "layerskip", "static_prune(skip=b1_b4,where=prompt)"]
    requests = made.likelihoods(made.pairs())
    want = [MethodLM(decoder, s, 5, expected_tokens=6).loglikelihood(requests, disable_tqdm=True) for s in specs]
    lms = [MethodLM(decoder, s, 5, expected_tokens=6) for s in specs]
    lms[0].beside(lms[1:])
    contexts: list[int] = []
    inner = scoring.start
    monkeypatch.setattr(scoring, "start", lambda *a, **k: (contexts.append(len(a[2])), inner(*a, **k))[1])
    for lm, answers in zip(lms, want, strict=True):
        found = lm.loglikelihood(requests, disable_tqdm=True)
        made.close([value for value, _ in found], [value for value, _ in answers])
        assert [greedy for _, greedy in found] == [greedy for _, greedy in answers]
    # Once, and once more for the method that leaves blocks out of prompts.
    assert sum(contexts) == 2 * len({tuple(lms[0].encoding.pair(*pair)[0][-96:]) for pair in made.pairs()})
    assert all(lm.work["loglikelihood"].requests == len(requests) for lm in lms)
    # Asked for anything else, each answers by itself.
    made.close(
        [v for v, _ in lms[1].loglikelihood(made.likelihoods([("x", " y z")]), disable_tqdm=True)],
        [
            v
            for v, _ in MethodLM(decoder, HARD, 5, expected_tokens=6).loglikelihood(
                made.likelihoods([("x", " y z")]), disable_tqdm=True
            )
        ],
    )
    with pytest.raises(BadInput, match="contexts are shared on one model alone"):
        lms[0].beside([MethodLM(made.model("opt"))])
