"""Whole evaluations from local files: on the command line, in suites, and real tasks where the data are at hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.measure.prepare import prepare
from harness.records import readings
from harness.run import sweep
from harness.suites.suite import Suite, load_suite
from harness.tasks.lm_eval import data as lm_eval_data
from harness.tasks.lm_eval import metrics
from harness.tasks.lm_eval.bridge import MethodLM
from harness.tasks.lm_eval.documents import compare, document_statistics
from harness.tasks.lm_eval.evaluate import Options, evaluate, load_tasks, quiet
from tests.cli.test_main import call
from tests.fakes import InProcess
from tests.tasks.lm_eval import fixtures as made


def test_results_are_lm_evals_own_with_depths_beside_them(tiny_tasks: tuple[Path, Path], tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.loggers import EvaluationTracker

    tasks, data = tiny_tasks
    options = Options(("tiny_choice", "tiny_last", "tiny_write"), include_path=str(tasks), bootstrap_iters=0)
    decoder = made.model("opt")
    full = evaluate(MethodLM(decoder, "full", 4, expected_tokens=4), options, data)
    with lm_eval_data.local_data(data), quiet():
        loaded = load_tasks(options, data)
        want = lm_eval.simple_evaluate(
            model=made.hf(decoder, 4), tasks=loaded.roots, task_manager=loaded.manager, bootstrap_iters=0
        )
    for task, numbers in want["results"].items():
        for key, value in numbers.items():
            assert full["results"][task][key] == (
                value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            ), key
    assert full["versions"] == want["versions"]
    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    tracker.general_config_tracker.model_name_sanitized = "m"
    tracker.save_results_aggregated(dict(want), want["samples"])
    (written,) = (tmp_path / "theirs" / "m").glob("results_*.json")
    assert full["task_hashes"] == json.loads(written.read_text())["task_hashes"]

    skip = evaluate(MethodLM(decoder, "fixed_exit(budget=2)", 4, expected_tokens=4), options, data)
    for task, samples in skip["samples"].items():
        for sample in samples:
            for layers, mean in zip(sample["layers"], sample["executed_layers"], strict=True):
                assert layers[0] == decoder.depth and set(layers[1:]) <= {2}, task
                assert mean == pytest.approx(sum(layers) / len(layers))
    assert skip["task_hashes"] == full["task_hashes"]
    rows = {(row["task"], row["metric"]): row for row in compare(skip, full)}
    accuracy = rows["tiny_choice", "acc"]
    assert accuracy["full"] == pytest.approx(100 * full["results"]["tiny_choice"]["acc,none"])
    assert accuracy["value"] == pytest.approx(100 * skip["results"]["tiny_choice"]["acc,none"])
    assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
    assert accuracy["test"] == "McNemar"
    assert 100 * (accuracy["gained"] - accuracy["lost"]) / 6 == pytest.approx(accuracy["difference"])
    perplexity = rows["tiny_last", "perplexity"]
    assert perplexity["value"] == pytest.approx(skip["results"]["tiny_last"]["perplexity,none"])
    assert perplexity["gained"] is None and perplexity["test"] == "paired bootstrap"


def test_the_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tiny_tasks: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    tasks, data = tiny_tasks
    out = tmp_path / "out"
    command = [
        *(
            "lm-eval",
            "--model",
            str(checkpoint),
            "--method",
            "skipdecode(speedup=2)",
            "--tasks",
            "tiny_choice,tiny_write",
        ),
        *("--include_path", str(tasks), "--data", str(data), "--limit", "4", "--batch_size", "2", "--with-full"),
        *("--output_path", str(out), "--log_samples", "--use_cache", str(tmp_path / "cache" / "kept")),
    ]
    assert call(monkeypatch, *command) == 0
    text = capsys.readouterr().out
    assert "|tiny_choice|" in text and "layers per token" in text and "McNemar" in text
    (results,) = out.glob("*skipdecode*/results_*.json")
    record = json.loads(results.read_text())
    assert record["results"]["tiny_choice"]["sample_len"] == 4 and record["task_hashes"]["tiny_choice"]
    assert record["depthbench"]["identity"]["parameters"]["speedup"] == 2.0
    (samples,) = out.glob("*skipdecode*/samples_tiny_choice_*.jsonl")
    assert len(samples.read_text().splitlines()) == 4
    first = json.loads(samples.read_text().splitlines()[0])
    assert len(first["layers"]) == 3 and first["arguments"]["gen_args_0"]["arg_1"] == " two eggs"
    # From the cache the second time: the same numbers, depths included.
    assert call(monkeypatch, *command) == 0
    files = sorted(out.glob("*skipdecode*/samples_tiny_choice_*.jsonl"))
    assert len(files) == 2 and files[0].read_text() == files[1].read_text()


BAD = [
    (("--tasks", "tiny_choicee"), "did you mean 'tiny_choice'"),
    (("--tasks", "tiny_choice", "--limit", "-3"), "limit: -3 is out of range"),
    (("--tasks", "tiny_choice", "--limit", "few"), "limit: 'few' does not fit; lm-eval says: Limit examples per task"),
    (("--tasks", "tiny_choice", "--limit", "nan"), "limit: nan is out of range"),
    (("--tasks", "tiny_choice", "--batch-size", "0"), "batch_size"),
    (("--tasks", "tiny_choice", "--output-path", "/dev/null/x"), "output_path /dev/null/x"),
    (("--tasks", "tiny_choice", "--use_cache", "/dev/null/x"), "use_cache: answers cannot be kept"),
    (("--tasks", "tiny_choice", "--trust_remote_code"), "trust_remote_code: is not supported: no code"),
    (
        ("--tasks", "tiny_choice", "--model_args", "trust_remote_code=True"),
        "trust_remote_code=True is not supported: no code",
    ),
    (("--tasks", "tiny_choice", "--model_args", "pretrained=x"), "are two models; give one"),
    (("--tasks", "tiny_choice", "--model_args", "dtyp=x"), "did you mean 'dtype'"),
    (("--tasks", "tiny_choice", "--model_args", "max_length=long"), "max_length='long' is no whole number"),
    (("--tasks", "tiny_choice", "--model_args", "max_length=9999"), "max_length: 9999 is out of range"),
    (("--tasks", "tiny_choice", "--model_args", "dtype"), "model_args: expected `key=value`"),
    (("--tasks", "tiny_choice", "--wandb_args", "project=x"), "wandb_args: is not supported: results are files"),
    (("--tasks", "tiny_choice", "--check_integrity"), "check_integrity: is not supported"),
    (("--tasks", "tiny_choice", "--verbosity", "LOUD"), "verbosity: 'LOUD' is no level"),
    (
        ("--tasks", "tiny_choice", "--samples", '{"tiny_choice": [9]}'),
        "samples: tiny_choice has documents 0 to 5, not 9",
    ),
    (("--tasks", "tiny_choice", "--samples", '{"tiny": [1]}'), "samples: 'tiny' is none of the tasks"),
    (("--tasks", "tiny_choice", "--samples", "[1]"), "samples: give the numbers of documents by task"),
    (("--tasks", "tiny_choice", "--samples", "{1"), "samples: '{1' does not fit"),
    (("--tasks", "tiny_choice", "--config", "no.yaml"), "config no.yaml: Config file not found"),
    (("--tasks", "tiny_choice", "--cache_requests", "maybe"), "cache_requests: invalid value 'maybe'"),
    (("--tasks", "tiny_choice", "--fewshot_as_multiturn"), "`apply_chat_template` must be set"),
    (("--tasks", "tiny_choice", "--method", "full", "--method", "full"), "'full' is given twice"),
    (("--tasks", "tiny_choice", "--no-such-option"), "--no_such_option"),
    (("--tasks", "tiny_choice", "--expected-tokens", "0"), "--expected-tokens"),
    (("--tasks", "tiny_write", "--num-fewshot", "200"), "num_fewshot"),
    (("--tasks", "tiny_write", "--gen-kwargs", "top_p=7", "do_sample=True"), "top_p"),
    (("--tasks", "tiny_write", "--gen-kwargs", "until=5"), "until"),
    (("--tasks", "tiny_choice", "--seed", "1,2"), "seed"),
    (("--tasks", "tiny_choice", "--apply-chat-template"), "no chat template"),
    (("--tasks", "tiny_write", "--num-fewshot", "2"), "num_fewshot: tiny_write has no split"),
    (("--tasks", "no.yaml"), "there is no file no.yaml"),
    (("--tasks", ","), "none is given"),
    (("--tasks", "tiny_write", "--gen-kwargs", "max_gen_toks=500"), "max_gen_toks=500 leaves no room"),
    (("--tasks", "blimp_causative"), "data set nyu-mll/blimp (causative): no local file"),
    (("--tasks", "tiny_choice", "--method", "skipdecod"), "did you mean 'skipdecode'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tiny_tasks: tuple[Path, Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    tasks, data = tiny_tasks
    monkeypatch.chdir(tmp_path)
    common = ("lm-eval", "--model", str(checkpoint), "--include-path", str(tasks), "--data", str(data))
    assert call(monkeypatch, *common, *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("depthbench:")]
    assert len(lines) == 1 and message in lines[0]


def suite(folder: Path, model: Path, **changes: Any) -> Suite:
    own = {"include_path": str(folder), "limit": 5}
    return Suite.model_validate(
        {
            "name": "mixed",
            "model": str(model),
            "methods": ["full", "skipdecode(speedup=2)", "calm(threshold=0.2)"],
            "batch_sizes": [1],
            "tasks": [
                {"name": "restaurants", "limit": 4},
                {"name": "lm_eval:tiny_choice", **own},
                {"name": "lm_eval:tiny_last", **own},
                {"name": "lm_eval:tiny_write", **own},
            ],
            "new_tokens": 4,
            "repeats": 1,
            "threads": 1,
            "max_new_tokens": 4,
            "memory": False,
            "energy": False,
            **changes,
        }
    )


def test_a_suite_mixes_tasks_and_reports_them_together(
    checkpoint: Path, tiny_tasks: tuple[Path, Path], tmp_path: Path
) -> None:
    from reports.write.report import write_report

    tasks, data = tiny_tasks
    out = tmp_path / "run"
    assert sweep.run_suite(suite(tasks, checkpoint), out, data=data, workers=InProcess()).failed == 0
    with open(out / "summary.csv", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    row = rows["skipdecode(speedup=2.0)" if "skipdecode(speedup=2.0)" in rows else "skipdecode(speedup=2)"]
    for column in ("lm_eval:tiny_choice/acc", "lm_eval:tiny_last/perplexity", "lm_eval:tiny_write/exact_match"):
        assert row[column] and row[f"{column}_low"] and row[f"{column}_diff"], column
    assert (
        float(row["lm_eval:tiny_last/layers_per_token"])
        < 4
        == float(rows["full"]["lm_eval:tiny_last/layers_per_token"])
    )
    cells = [json.loads(path.read_text()) for path in (out / "cells").glob("*choice*.json")]
    full = next(cell for cell in cells if cell["arm"]["method"] == "full")
    assert float(rows["full"]["lm_eval:tiny_choice/acc"]) == pytest.approx(
        100 * full["lm_eval"]["results"]["tiny_choice"]["acc,none"], rel=1e-4
    )
    assert full["lm_eval"]["versions"] == {"tiny_choice": 2.0} and full["lm_eval"]["task_hashes"]["tiny_choice"]
    assert len({cell["conditions_hash"] for cell in cells}) == 1
    page = write_report([out]).read_text()
    assert "lm_eval:tiny_choice" in page and "acc" in page


def test_suites_check_lm_eval_tasks_first(checkpoint: Path, tiny_tasks: tuple[Path, Path], tmp_path: Path) -> None:
    tasks, data = tiny_tasks
    arms = [{"label": "full", "method": "full", "spec": "full", "checkpoint": str(checkpoint)}]
    wrong = suite(tasks, checkpoint, tasks=["restaurants", {"name": "lm_eval:helaswag", "include_path": str(tasks)}])
    with pytest.raises(BadInput, match="did you mean 'hellaswag'"):
        prepare(wrong, arms, data)
    timed = suite(tasks, checkpoint, tasks=[{"name": "lm_eval:tiny_choice", "include_path": str(tasks)}])
    assert prepare(timed, arms, data)["expected_tokens"]["lm_eval:tiny_choice"]["tiny_choice"] >= 1
    file = tmp_path / "s.yaml"
    text = "model: m\nmethods: [full]\nbatch_sizes: [1]\ntasks: [{name: e2e, num_fewshot: 3}]\n"
    file.write_text(text)
    with pytest.raises(BadInput, match="num_fewshot: does not fit task 'e2e'"):
        load_suite(file)
    file.write_text(text.replace("e2e, num_fewshot: 3", "'lm_eval:'"))
    with pytest.raises(BadInput, match="names no task"):
        load_suite(file)
    again = load_suite_of(timed, file)
    assert again.plain() == timed.plain()


def load_suite_of(one: Suite, file: Path) -> Suite:
    file.write_text(json.dumps(one.plain()))
    return load_suite(file)


def test_metrics_without_sums_have_no_statistics() -> None:
    assert metrics.stored_name("mcc", "none", "matthews_corrcoef", True) is None
    assert metrics.stored_name("exact_match", "strict-match", "mean", True) == "exact_match:strict-match"
    name = metrics.stored_name("brier", "none", "mean", False)
    assert name == "brier (mean, lower)" and readings.reading(name).better == "lower"  # type: ignore[union-attr]
    assert readings.reading("nonsense") is None
    assert readings.reading("acc").unit == "percent"  # type: ignore[union-attr]


DATA = Path(__file__).resolve().parents[3] / "data"
REAL = ("blimp_adjunct_island", "lambada_openai", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k", "wikitext")


@pytest.mark.skipif(not (DATA / "lm_eval").is_dir(), reason="needs data/lm_eval")
@pytest.mark.parametrize("limit", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_real_tasks_equal_lm_evals_backend_from_local_files(limit: int) -> None:
    import lm_eval

    settings: dict[str, Any] = {"limit": limit, "num_fewshot": 0, "gen_kwargs": "max_gen_toks=8", "bootstrap_iters": 0}
    options = Options(REAL, **settings)
    lm = MethodLM("opt-e2e-mini/full", "full", 8, expected_tokens=23)
    full = evaluate(lm, options, DATA)
    with lm_eval_data.local_data(DATA), quiet():
        loaded = load_tasks(options, DATA)
        want = lm_eval.simple_evaluate(
            model=made.hf(lm.decoder, 8), tasks=loaded.roots, task_manager=loaded.manager, **settings
        )
    for task in REAL:
        for mine, theirs in zip(full["samples"][task], want["samples"][task], strict=True):
            for ours, other in zip(mine["resps"], want_first(theirs), strict=True):
                same(ours[0], other[0])
        for key, value in want["results"][task].items():
            assert full["results"][task][key] == (
                value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
            ), key
    assert full["depthbench"]["truncated"]
    assert len(loaded.tasks["wikitext"].eval_docs) == 62


def want_first(sample: dict[str, Any]) -> Any:
    return sample["resps"]


def same(ours: Any, other: Any) -> None:
    if isinstance(ours, str):
        assert ours == other
        return
    (mine, greedy), (value, flag) = (pair if isinstance(pair, tuple) else (pair, None) for pair in (ours, other))
    made.close([mine], [value])
    assert greedy == flag


def test_statistics_put_shares_first() -> None:
    results = {
        "samples": {
            "t": [{"doc_id": 0, "metrics": ["perplexity", "acc"], "filter": "none", "perplexity": -1.0, "acc": 1}]
        },
        "aggregations": {"t": {"perplexity": "perplexity", "acc": "mean"}},
    }
    assert document_statistics(results, "t") == {"0": {"acc": [1.0, 1.0], "perplexity": [-1.0, 1.0]}}
