"""Whether lm-eval's requests get the same answers here, under the full model, as from lm-eval's own transformers backend.

Every kind of request, with the model's tokenizer as it is (`plain`) and made to put a BOS before every text (`adds BOS`), on the
same weights: what the two say is compared document by document, then lm-eval's metrics. Nothing is timed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
import psutil
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing

from harness.errors import BadInput
from harness.machine import environment
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.tasks.lm_eval.bridge import MethodLM
from harness.tasks.lm_eval.data import local_data
from harness.tasks.lm_eval.evaluate import evaluate
from harness.tasks.lm_eval.loading import load_tasks, quiet
from harness.tasks.lm_eval.options import Options

Json = dict[str, Any]

TOLERANCE = 1e-3
"""Nats that two log-likelihoods of one request may differ by, plus a hundred-thousandth of them: single precision, in which
thousands of tokens are summed in another order."""
EQUAL = "equal"


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Attributes:
        kind: what is asked.
        task: lm-eval's.
        options: lm-eval's, beside task and limit.
        repeats: samples of each request.
        limit: documents, if fewer than asked for.
        settings: of `MethodLM`.
        differs: why answers are not the same, where they are not meant to be.
    """

    kind: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    limit: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""


_SHORT: Json = {"num_fewshot": 0, "gen_kwargs": "max_gen_toks=16"}
_SAMPLED: Json = {"num_fewshot": 0, "gen_kwargs": "max_gen_toks=16,do_sample=True,temperature=0.8"}
_SHORT_PAGES: Json = {"samples": {"wikitext": [28, 29]}}  # of WikiText-2's test set
_CHAT: Json = {"apply_chat_template": True, "system_instruction": "Answer briefly."}
_NOISE = "samples: noise is of seed, request and repeat here, of the order of computation there; all are kept by both"
_BOS = "lm-eval scores the BOS that the tokenizer adds, given BOS; here it is not scored"

CASES = (
    Case("likelihood", "lambada_openai"),
    Case("likelihood, few-shot", "lambada_openai", {"num_fewshot": 2}, limit=10),
    Case("rolling", "wikitext", _SHORT_PAGES, differs=_BOS),
    Case("rolling, score_bos", "wikitext", _SHORT_PAGES, settings={"score_bos": True}),
    Case("multiple choice", "blimp_adjunct_island"),
    Case("multiple choice", "truthfulqa_mc1"),
    Case("generation", "gsm8k", _SHORT),
    Case("repeats, greedy", "gsm8k", _SHORT, repeats=2, limit=5),
    Case("repeats, sampled", "gsm8k", _SAMPLED, repeats=4, limit=5, differs=_NOISE),
    Case("chat, generation", "gsm8k", {**_SHORT, **_CHAT}),
    Case("chat, multiple choice", "truthfulqa_mc1", _CHAT, limit=10),
)


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        model: anything `load_model` takes.
        limit: documents per task.
        batch_size: rows computed together by both.
        max_length: positions used by both; rolling windows are as long.
        dtype: of the weights.
        device: where they are.
        threads: CPU threads; None: one per physical core.
    """

    model: str
    limit: int = 40
    batch_size: int = 4
    max_length: int = 1024
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("batch_size", 1), ("max_length", 64)):
            if getattr(self, name) < least:
                raise BadInput(f"{name}: {getattr(self, name)} is out of range; give {least} or more")


def measure(
    settings: Settings, data: Path | None, cases: Sequence[Case] = CASES, say: Callable[[str], object] = print
) -> Json:
    """Compare; returns `settings`, `environment`, lm-eval's version, the digest of the weights and `rows`.

    Args:
        settings: what is compared.
        data: local data folder; None: the hub.
        cases: kinds of requests; those with a chat are left out, and said so, where the tokenizer has no template.
        say: is told every row as it is there.
    """
    torch.set_num_threads(settings.threads or psutil.cpu_count(logical=False) or 1)
    found = environment.fingerprint()  # of the code that is loaded now
    plain = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    if plain.tokenizer is None:
        raise BadInput(f"model: {settings.model} has no tokenizer, so there is nothing to compare")
    tokenizers = {"plain": plain, "adds BOS": load_model(plain.source, tokenizer=_adding_bos(plain))}
    rows: list[Json] = []
    for name, decoder in tokenizers.items():
        backend = _backend(decoder, settings)
        for case in cases:
            row = {"tokenizer": name, "kind": case.kind, "task": case.task}
            if case.options.get("apply_chat_template") and not decoder.tokenizer.chat_template:
                row |= {"verdict": "left out: the tokenizer has no chat template"}
            else:
                row |= _compared(case, decoder, backend, settings, data, name == "adds BOS")
            rows.append(row)
            say(f"{name}, {case.kind}, {case.task}: {row['verdict']}")
    return {
        "settings": asdict(settings),
        "environment": found,
        "lm_eval": lm_eval.__version__,
        "weights": MethodLM(plain).identity()["weights"],
        "tolerance_nats": TOLERANCE,
        "rows": rows,
    }


def _adding_bos(decoder: Decoder) -> Any:
    own = copy.deepcopy(decoder.tokenizer)
    first = own.bos_token or own.eos_token
    if first is None or not own.is_fast:
        raise BadInput(f"model: the tokenizer of {decoder.name} has no BOS or EOS token to put before texts")
    number = own.convert_tokens_to_ids(first)
    own.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first} $A", special_tokens=[(first, number)])
    return own


def _backend(decoder: Decoder, settings: Settings) -> Any:
    with quiet():
        return HFLM(
            pretrained=decoder.source,
            tokenizer=copy.deepcopy(decoder.tokenizer),  # it sets a padding token
            batch_size=settings.batch_size,
            max_length=settings.max_length,
        )


def _compared(case: Case, decoder: Decoder, backend: Any, settings: Settings, data: Path | None, bos: bool) -> Json:
    limit = None if "samples" in case.options else min(settings.limit, case.limit or settings.limit)
    options = Options((case.task,), limit=limit, bootstrap_iters=0, **case.options)
    ours = MethodLM(decoder, batch_size=settings.batch_size, max_length=settings.max_length, **case.settings)
    results = []
    for lm in (ours, backend):
        loaded = load_tasks(options, data)
        for task in loaded.tasks.values():
            task.set_config("repeats", case.repeats)
        if lm is ours:
            results.append(evaluate(ours, options, data, loaded))
            continue
        with local_data(data), quiet():
            results.append(
                lm_eval.simple_evaluate(
                    model=lm,
                    tasks=loaded.roots,
                    task_manager=loaded.manager,
                    limit=limit,
                    bootstrap_iters=0,
                    **case.options,
                )
            )
    mine, theirs = (_once(found["samples"][case.task]) for found in results)
    pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in _answers(a, b)]
    gaps = [abs(a - b) for a, b in map(_likelihoods, pairs) if a is not None and b is not None]
    apart = [pair for pair in pairs if not _same(*pair)]
    metrics = {
        key: (value, results[1]["results"][case.task].get(key))
        for key, value in results[0]["results"][case.task].items()
    }
    others = [key for key, (a, b) in metrics.items() if isinstance(a, float) and not _close(a, b)]
    row: Json = {
        "documents": len({sample["doc_id"] for sample in mine}),
        "answers": len(pairs),
        "equal_answers": len(pairs) - len(apart),
        "largest_difference_nats": max(gaps) if gaps else None,
        "metrics": {key: value for key, value in metrics.items() if isinstance(value[0], float)},
        "same_prompts": [s["prompt_hash"] for s in mine] == [s["prompt_hash"] for s in theirs],
    }
    if case.repeats > 1:
        row["distinct_share"] = [_distinct(samples) for samples in (mine, theirs)]
    expected = case.differs and (bos or case.kind != "rolling")
    if not apart and not others and row["same_prompts"]:
        row["verdict"] = EQUAL
    elif expected:
        row["verdict"] = f"differs: {case.differs}"
    else:
        row["verdict"] = f"differs: {len(apart)} of {len(pairs)} answers" + (f", {', '.join(others)}" if others else "")
    return row


def _once(samples: Sequence[Json]) -> list[Json]:
    """Each document once; lm-eval has it again for every filter of its answers."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _answers(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The answers of a document, sample for sample."""
    for ours, others in zip(mine["resps"], theirs["resps"], strict=True):
        yield from zip(ours, others, strict=True)


def _likelihoods(pair: tuple[Any, Any]) -> tuple[float | None, float | None]:
    first, second = (value[0] if isinstance(value, tuple) else value for value in pair)
    return (None, None) if isinstance(first, str) else (float(first), float(second))


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, str):
        return bool(mine == theirs)
    a, b = _likelihoods((mine, theirs))
    assert a is not None and b is not None
    alike = abs(a - b) <= TOLERANCE + 1e-5 * abs(b)
    return alike and (not isinstance(mine, tuple) or mine[1] == theirs[1])


def _close(a: float, b: Any) -> bool:
    return isinstance(b, float) and math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9)


def _distinct(samples: Sequence[Mapping[str, Any]]) -> float:
    """The share of a request's samples that are unlike those before."""
    requests = [answers for sample in samples for answers in sample["resps"]]
    return sum(len(set(answers)) for answers in requests) / sum(map(len, requests))


def table(record: Json) -> list[tuple[str, ...]]:
    """Rows to print."""
    rows: list[tuple[str, ...]] = [
        ("tokenizer", "kind", "task", "documents", "answers", "equal", "largest difference, nats", "verdict")
    ]
    for row in record["rows"]:
        gap = row.get("largest_difference_nats")
        counts = [str(row.get(key, "")) for key in ("documents", "answers", "equal_answers")]
        rows.append(
            (row["tokenizer"], row["kind"], row["task"], *counts, "" if gap is None else f"{gap:.2g}", row["verdict"])
        )
    return rows
