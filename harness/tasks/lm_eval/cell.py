"""lm-eval tasks in a suite: `tasks: [lm_eval:hellaswag, ...]`. What the runner asks of them, and the quality cell they make."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lm_eval

from harness.errors import BadInput, CellFailed
from harness.method import Method
from harness.models.decoder import Decoder
from harness.tasks.base import Example, Task
from harness.tasks.lm_eval.bridge import MethodLM
from harness.tasks.lm_eval.documents import document_statistics
from harness.tasks.lm_eval.evaluate import Options, evaluate, expected_tokens, load_tasks
from harness.tasks.metrics import LISTED, Metric, agreement_statistics, first_difference

Json = dict[str, Any]


class LmEvalTask(Task):
    """An lm-eval task as a source of prompts: its contexts, one per document.

    Args:
        title: what the task is called in messages.
        options: lm-eval's, the task's name among them.
        data: local data folder.
    """

    name: ClassVar[str] = "lm_eval"
    description: ClassVar[str] = "any task of lm-eval, as lm_eval:<name>"
    source: ClassVar[str] = "see lm-eval"
    max_new_tokens: ClassVar[int] = 64

    def __init__(self, title: str, options: Options, data: Path | None = None) -> None:
        super().__init__(data)
        self._title, self._options = title, options

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Return contexts and targets of the task's own split; see Task."""
        wanted = self._options
        found = []
        for name, task in load_tasks(wanted, self.data).tasks.items():
            if wanted.num_fewshot is not None and task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=wanted.num_fewshot)
            task.set_fewshot_seed(seed=wanted.seeds[3])
            task.build_all_requests(limit=limit, system_instruction=wanted.system_instruction)
            contexts: dict[int, str] = {}
            for instance in task.instances:
                contexts.setdefault(int(instance.doc_id), str(instance.args[0]))
            if task.OUTPUT_TYPE == "loglikelihood_rolling" or not all(contexts.values()):
                raise BadInput(
                    f"tasks: {self._title}: its contexts are empty, so there are no prompts to time; put a task with "
                    "prompts first"
                )
            found += [Example(f"{name}-{number}", text, ("",)) for number, text in contexts.items()]
        return found

    def metrics(self) -> tuple[Metric, ...]:
        """None of ours: lm-eval computes its own."""
        return ()


def check(options: Options, decoder: Decoder, data: Path | None) -> dict[str, int]:
    """Load tasks; returns the expected number of tokens of each.

    Raises:
        BadInput: see `load_tasks`.
    """
    lm = MethodLM(decoder)
    found = {name: expected_tokens(lm, task, options) for name, task in load_tasks(options, data).tasks.items()}
    return {name: value for name, value in found.items() if value is not None}


def cell(
    title: str,
    options: Options,
    decoder: Decoder,
    method: Method,
    batch_size: int,
    expected: int | Mapping[str, int],
    data: Path | None,
    reference: Mapping[str, Sequence[int]] | None,
    lossless: Mapping[str, Sequence[int]] | None,
    conditions: Json,
) -> Json:
    """The quality cell of one arm on one task.

    Args:
        title: what the results call the task.
        options: lm-eval's, the task's name among them.
        decoder: the arm's weights.
        method: the arm's.
        batch_size: rows computed together.
        expected: tokens that schedules plan for, one number or by task.
        data: local data folder.
        reference: the baseline's answers by example; None for the baseline itself.
        lossless: for an exact arm, the answers that the full model gave on the same checkpoint, by example.
        conditions: what must be equal for arms to be compared; the task's own are added.
    """
    lm = MethodLM(decoder, method, batch_size, expected_tokens=expected)
    began = time.perf_counter()
    results = evaluate(lm, options, data)
    seconds = time.perf_counter() - began
    if broken := results["depthbench"]["not_finite"]:
        raise CellFailed("; ".join(broken))
    examples: list[Json] = []
    for task, samples in results["samples"].items():
        scores = document_statistics(results, task)
        seen: set[str] = set()
        for sample in samples:
            number = str(sample["doc_id"])
            if number not in seen:  # a document stands once for every filter
                seen.add(number)
                examples.append(_example(task, sample, scores[number], reference))
    stepped = [e["layers_per_token"] for e in examples if e["layers_per_token"] is not None]
    steps = [len(layers) - 1 for e in examples for layers in e["lm_eval"]["layers"] if len(layers) > 1]
    ran = sum(sum(layers[1:]) for e in examples for layers in e["lm_eval"]["layers"])
    record = {key: _placeless(value) for key, value in results.items() if key not in _NOT_KEPT}
    return {
        **_parted(examples, lossless),
        "task": title,
        "split": "lm-eval's own",
        "batch_size": batch_size,
        "examples": examples,
        "metrics": list(dict.fromkeys(name for e in examples for name in e["stats"])),
        "layers_per_token": ran / sum(steps) if stepped else None,
        "layers_by_position": [],
        "informative": _informative(results["depthbench"]["informative"]),
        "tokens": sum(e["tokens"] for e in examples),
        "seconds": seconds,
        "lm_eval": record,
        "conditions": {
            **conditions,
            "padding": "right for likelihoods, left for generations",
            "examples": len(examples),
            "expected_tokens": expected if isinstance(expected, int) else dict(expected),
            "lm_eval": lm_eval.__version__,
            "task_hashes": results["task_hashes"],
            "n_shot": results["n-shot"],
        },
    }


def _informative(standings: Mapping[str, Mapping[str, Json]]) -> dict[str, Json]:
    """How the arm stands to chance by metric, see `harness.tasks.lm_eval.chance`; of a group, in the first task not above it.

    What counts is the full model's own cell: a method cannot be seen to lose what that does not have.
    """
    found: dict[str, Json] = {}
    for standing in standings.values():
        for metric, one in standing.items():
            if metric not in found or found[metric]["informative"]:
                found[metric] = one
    return found


def _parted(examples: Sequence[Json], lossless: Mapping[str, Sequence[int]] | None) -> Json:
    """`divergences` of an exact arm as `harness.measure.conditions` lists them: answers that are not the full model's.

    Only where likelihoods decide, which are computed alike whatever drafts: a generation may part at a tie, and the margins that
    would tell are not kept.
    """
    if lossless is None or any(example["lm_eval"]["generated"] for example in examples):
        return {}
    found: list[Json] = []
    for example in examples:
        full, own = lossless[example["id"]], example["answer"]
        place = first_difference(full, own)
        if place is not None:
            tokens = {"full_token": full[place], "token": own[place]}
            found.append({"example": example["id"], "position": place, **tokens, "margin": None, "scale": None})
    return {"divergences": {"count": len(found), "first": found[:LISTED]}}


# Samples are the cell's examples; the environment stands in run.json.
_PACKAGES = Path(lm_eval.__file__).resolve().parent.parent
_NOT_KEPT = {"samples", "pretty_env_info", "config", "aggregations"}


def _placeless(value: Any) -> Any:
    """lm-eval's record with its own files named as in the package, not by where this machine keeps it."""
    if isinstance(value, str):
        return value.replace(f"{_PACKAGES}{os.sep}", "")
    if isinstance(value, Mapping):
        return {key: _placeless(inner) for key, inner in value.items()}
    return [_placeless(inner) for inner in value] if isinstance(value, list) else value


def _example(task: str, sample: Mapping[str, Any], scores: Json, reference: Mapping[str, Sequence[int]] | None) -> Json:
    key = f"{task}-{sample['doc_id']}"
    layers = sample["layers"]
    later = [blocks for request in layers for blocks in request[1:]]
    answer, text = _answer(sample)
    other = answer if reference is None else list(reference.get(key, answer))
    return {
        "id": key,
        "prompt": str(sample["arguments"][0][0]) if len(sample["arguments"][0]) > 1 else "",
        "output": text,
        "references": [str(sample["target"])],
        "tokens": sum(map(len, layers)),
        "layers_per_token": statistics.fmean(later) if later else None,
        "answer": answer,
        "stats": {**scores, "agreement": agreement_statistics(answer, other)},
        "lm_eval": {
            "doc_id": sample["doc_id"],
            **{hash_: sample[hash_] for hash_ in ("doc_hash", "prompt_hash", "target_hash")},
            "continuations": [arguments[1] for arguments in sample["arguments"] if isinstance(arguments[-1], str)]
            if len(sample["arguments"][0]) > 1
            else [],
            "responses": sample["resps"],
            "executed_layers": sample["executed_layers"],
            "layers": layers,
            "generated": bool(sample["generated_tokens"]),
        },
    }


def _answer(sample: Mapping[str, Any]) -> tuple[list[int], str]:
    """An answer as numbers that can be compared with the full model's, and as text.

    Generated ids; the choice with the highest log-likelihood; whether a single continuation is the greedy one. A rolling
    likelihood makes no decision: there is nothing to agree on.
    """
    if sample["generated_tokens"]:
        return list(sample["generated_tokens"][0]), str(sample["resps"][0][0])
    answers = [response[0] for response in sample["resps"]]
    if isinstance(answers[0], float):
        return [], f"log-likelihood {answers[0]:.4f}"
    if len(answers) == 1:
        likelihood, greedy = answers[0]
        return [int(greedy)], f"log-likelihood {likelihood:.4f}, greedy: {'yes' if greedy else 'no'}"
    best = max(range(len(answers)), key=lambda i: answers[i][0])
    return [best], f"{sample['arguments'][best][1].strip()} (log-likelihood {answers[best][0]:.4f})"
