"""Command lines of lm-eval, in `depthbench lm-eval` and in lm-eval's own command with our model, and what they leave behind."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import lm_eval.utils
import pytest
import torch

import depthbench.lm_eval
from harness.errors import BadInput
from harness.models.families.opt import OPTDecoder
from harness.tasks.lm_eval import chance, command, data, progress, results
from harness.tasks.lm_eval.evaluate import Options, evaluate
from harness.tasks.lm_eval.registered import Registered, read_model_args
from tests.cli.test_main import call
from tests.tasks.lm_eval import fixtures as made

Folders = tuple[Path, Path]


def written(out: Path, method: str) -> dict[str, Any]:
    """The one results file of a method; a parser that refuses NaN reads it."""
    (file,) = out.glob(f"*{method}*/results_*.json")
    return json.loads(file.read_text(), parse_constant=lambda text: pytest.fail(f"{text} in {file}"))  # type: ignore[no-any-return]


def test_several_methods_in_one_call(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tiny_tasks: Folders,
    tmp_path: Path,
) -> None:
    """One model, tasks once, every context once; the tables, and files that lm-eval's own tools read."""
    from harness.tasks.lm_eval import evaluate as evaluating
    from harness.tasks.lm_eval import loading, model, scoring

    counts = {"models": 0, "tasks": 0, "contexts": 0}

    def counted(name: str, function: Any, size: Any = lambda *a: 1) -> Any:
        def wrapped(*arguments: Any, **settings: Any) -> Any:
            counts[name] += size(*arguments)
            return function(*arguments, **settings)

        return wrapped

    monkeypatch.setattr(model, "load_model", counted("models", model.load_model))
    monkeypatch.setattr(loading, "_load", counted("tasks", loading._load))
    monkeypatch.setattr(scoring, "start", counted("contexts", scoring.start, lambda *a: len(a[2])))
    tasks, folder = tiny_tasks
    methods = ("skipdecode(speedup=2)", "full", "fixed_exit(budget=1)")
    line = [f"--method={method}" for method in methods]
    assert (
        call(
            monkeypatch, "lm-eval", "--model", "hf", "--model_args", f"pretrained={checkpoint}", "dtype=float32",
            "--tasks", "tiny_choice", "tiny_last", "--include_path", str(tasks), "--data", str(folder), "--log_samples",
            "--output_path", str(tmp_path), "--batch_size", "2", *line,
        )
        == 0
    )  # fmt: skip
    assert evaluating and counts == {"models": 1, "tasks": 1, "contexts": 12}, "six documents of two tasks"
    text = capsys.readouterr().out
    assert "bootstrapping" not in text, "lm-eval's own line among the results"
    assert text.index(", full: batch") < text.index(", skipdecode(speedup=2): batch"), "the baseline first"
    assert text.count("p, Holm") == 2 and "paired bootstrap" in text and "McNemar" in text
    assert text.index("|tiny_choice|") < text.index("written to"), "numbers are seen before files are written"
    full, skip = written(tmp_path, "full"), written(tmp_path, "fixed_exit")
    assert (
        full["config"]["model_args"] == f"pretrained={checkpoint},method=full" and full["model_source"] == "depthbench"
    )
    assert full["task_hashes"] == skip["task_hashes"] and float(skip["total_evaluation_time_seconds"]) > 0
    rows = skip["depthbench"]["difference_to_full"]
    assert {row["task"] for row in rows} == {"tiny_choice", "tiny_last"}
    corrected = [row for row in rows if row["p_holm"] is not None]
    assert all(row["p_holm"] >= row["p"] and not row["uninformative"] for row in corrected)
    # lm-eval's own readers.
    assert lm_eval.utils.make_table(results.shown(full)) in text
    files = [str(path) for path in tmp_path.glob("*full*/*")]
    (mine,) = lm_eval.utils.get_results_filenames(files)
    samples = lm_eval.utils.get_sample_results_filenames(files)
    assert sorted(lm_eval.utils.get_file_task_name(Path(name).name) for name in samples) == ["tiny_choice", "tiny_last"]
    assert lm_eval.utils.get_file_datetime(samples[0]) == lm_eval.utils.get_file_datetime(mine).replace(".json", "")
    alone = evaluate(Registered(str(checkpoint), method="fixed_exit(budget=1)", dtype="float32", batch_size=2,
                                expected_tokens=skip["depthbench"]["identity"]["expected_tokens"]["tiny_choice"]),
                     Options(("tiny_choice",), include_path=str(tasks), bootstrap_iters=0), folder)  # fmt: skip
    assert alone["results"]["tiny_choice"]["acc,none"] == skip["results"]["tiny_choice"]["acc,none"]


def lm_evals_own(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """lm-eval's own command, as `python -m depthbench.lm_eval` runs it."""
    monkeypatch.setattr(sys, "argv", ["lm-eval", *arguments])
    try:
        depthbench.lm_eval.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_lm_evals_own_command_runs_the_model(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tiny_tasks: Folders,
    tmp_path: Path,
) -> None:
    """The same line with `--model hf` and with ours: the same numbers in the same files; nothing else is changed."""
    tasks, folder = tiny_tasks
    files = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/lm_eval/tiny_facts/test.jsonl}}}}"
    own = (tasks / "choice.yaml").read_text().replace("dataset_path: nobody/tiny_facts", files)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(own.replace("tiny_choice", "own_choice"))
    found = []
    for name in ("hf", "depthbench"):
        out = tmp_path / name
        status = lm_evals_own(
            monkeypatch, "run", "--model", name, "--model_args", f"pretrained={checkpoint},dtype=float32",
            "--tasks", "own_choice", "--include_path", str(tmp_path / "tasks"), "--batch_size", "2", "--device", "cpu",
            "--output_path", str(out), "--log_samples",
        )  # fmt: skip
        assert status == 0
        (file,) = out.glob("*/results_*.json")
        found.append(json.loads(file.read_text()))
    assert found[1]["results"] == found[0]["results"] and found[1]["task_hashes"] == found[0]["task_hashes"]
    assert found[1]["config"]["method"] == "full"
    # The same line again in our own command, with data given, which it does not need.
    line = ("--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32", "--tasks", "own_choice")
    more = ("--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "third"), "--data", str(folder))
    assert call(monkeypatch, "lm-eval", *line, *more) == 0
    assert written(tmp_path / "third", "full")["results"] == found[0]["results"]
    capsys.readouterr()
    line = ("--model_args", "pretrained=no/model/there", "--tasks", "own_choice")
    status = lm_evals_own(monkeypatch, "run", "--model", "depthbench", *line, "--include_path", str(tmp_path / "tasks"))
    assert status == 2 and "depthbench: model: 'no/model/there'" in capsys.readouterr().err


def test_results_are_kept_where_nobody_named_a_place(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tiny_tasks: Folders,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    tasks, folder = tiny_tasks
    (tmp_path / "c.yaml").write_text(
        f"model_args: {{pretrained: {checkpoint}}}\ntasks: [tiny_choice]\nlimit: 3\nbatch_size: 3\n"
    )
    line = ("--config", "c.yaml", "--include_path", str(tasks), "--data", str(folder), "--write_out", "--show_config")
    assert call(monkeypatch, "lm-eval", *line, "--samples", "null") == 0
    said = capsys.readouterr()
    assert "written to lm-eval-results/" in said.out and '"task_hashes"' in said.out, "the place, and the whole record"
    assert "How many eggs" in said.err and "tiny_choice under full: 9 requests in" in said.err
    assert written(tmp_path / "lm-eval-results", "full")["results"]["tiny_choice"]["sample_len"] == 3


def test_documents_are_those_asked_for_by_number(tiny_tasks: Folders) -> None:
    tasks, folder = tiny_tasks
    options = Options(("tiny_choice",), samples={"tiny_choice": [4, 1, 4]}, include_path=str(tasks), bootstrap_iters=0)
    found = evaluate(Registered(made.model("opt")), options, folder)["samples"]["tiny_choice"]
    assert [(s["doc_id"], s["doc"]["question"].split()[2]) for s in found] == [(1, "dogs"), (4, "restaurants")]


@pytest.mark.parametrize("name", ["a" * 400, "org/model, m.py:Skip(x=1)", "é" * 300, "..", "a\0b"])
def test_names_fit_into_files(name: str, tmp_path: Path) -> None:
    place = results.Place.tried(tmp_path, name)
    assert place.results.parent.parent == tmp_path and len(place.samples(name).name.encode()) < 250
    place.samples(name).write_text("x")
    assert results.short(name) == results.short(name) != results.short(name + "x")


def test_a_place_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="output_path .*a part of the path is a file"):
        results.Place.tried(tmp_path / "file" / "x", "m")


def test_json_holds_no_nan_and_tables_no_endless_digits() -> None:
    record = {"results": {"t": {"acc,none": math.nan, "acc_stderr,none": math.nan, "ppl,none": 32117845490.0}}}
    assert results.finite(record)["results"]["t"] == {
        "acc,none": None,
        "acc_stderr,none": "N/A",
        "ppl,none": 32117845490.0,
    }
    shown = results.shown({**record, "versions": {}})
    assert f"{shown['results']['t']['ppl,none']:.4f}" == "3.212e+10"


def test_not_a_number_ends_with_status_1_and_its_document(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    tiny_tasks: Folders,
    tmp_path: Path,
) -> None:
    """An answer is the model's fault, a metric the task's; after the second the numbers that there are have been written."""
    tasks, folder = tiny_tasks
    common = ("lm-eval", "--model", str(checkpoint), "--data", str(folder), "--output_path", str(tmp_path / "out"))
    broken = (tasks / "choice.yaml").read_text().replace("tiny_choice", "broken").replace("  - metric: acc\n", (
        "  - metric: !function more.odd\n    aggregation: mean\n    higher_is_better: true\n"), 1)  # fmt: skip
    own = tmp_path / "own"
    own.mkdir()
    (own / "broken.yaml").write_text(
        broken.replace("metadata:", "process_results: !function more.results\nmetadata:").replace(
            "  - metric: !function more.odd", "  - metric: odd"
        )
    )
    (own / "more.py").write_text(
        "def results(doc, found):\n    return {'odd': float('nan') if 'dogs' in doc['question'] else 1.0}\n"
    )
    assert call(monkeypatch, *common, "--include_path", str(own), "--tasks", "broken") == 1
    said = capsys.readouterr()
    assert "full: task broken, document 1: odd is nan, not a finite number" in said.err and "written to" in said.out
    assert written(tmp_path / "out", "full")["results"]["broken"]["odd,none"] is None
    head = OPTDecoder.head
    monkeypatch.setattr(OPTDecoder, "head", lambda self, x: head(self, x) * torch.nan)
    assert call(monkeypatch, *common, "--include_path", str(tasks), "--tasks", "tiny_choice") == 1
    said = capsys.readouterr()
    assert "depthbench: task tiny_choice, document 0: a log-likelihood is nan under full" in said.err.splitlines()[-1]


# What the model argument says.


def test_model_args_mean_what_they_mean_to_hf() -> None:
    given = {"pretrained": "m", "dtype": "torch.bfloat16", "trust_remote_code": False, "revision": "main", "peft": None,
             "enable_thinking": False, "gguf_file": "q.gguf", "max_length": 64}  # fmt: skip
    assert read_model_args(given) == {
        "model": "m/q.gguf", "dtype": "bfloat16", "chat_template_args": {"enable_thinking": False}, "max_length": 64,
    }  # fmt: skip
    for key, value, why in (
        ("peft", "x", "merge the adapter"),
        ("trust_remote_code", True, "no code"),
        ("pretrainde", "x", "did you mean 'pretrained'"),
        ("add_bos_token", "yes", "no True or False"),
    ):
        with pytest.raises(BadInput, match=f"model_args: .*{why}"):
            read_model_args({key: value})
    assert Registered(made.bos_model(), add_bos_token=False).tok_encode("The") == made.model("opt").tokenizer.encode(
        "The"
    )
    with pytest.raises(BadInput, match="pretrained is missing"):
        Registered()


def test_a_command_line_is_read_as_lm_evals() -> None:
    line = (
        "--tasks a,b c -a pretrained=m,method=skipdecode(speedup=2,warmup=1) -f 2 -L 0.5 --seed 7 --apply-chat-template -b auto:4 "
        '--gen_kwargs temperature=0 top_p=0.5 --metadata {"k":[1]}'
    )
    asked = command.parse(line.split(), command.Own(model="hf"))
    assert asked.options.tasks == ("a", "b", "c") and asked.options.seeds == (7, 7, 7, 7) and asked.options.limit == 0.5
    assert asked.methods == ("skipdecode(speedup=2,warmup=1)",) and asked.model == "m"
    assert asked.options.gen_kwargs == {"temperature": 0, "top_p": 0.5} and asked.options.apply_chat_template is True
    assert asked.options.metadata["k"] == [1] and asked.settings["batch_size"] == "auto:4"
    assert asked.settings["dtype"] == "auto", "what lm-eval has where nothing is said"
    settings = command.parse(["--tasks", "a"], command.Own()).settings
    assert (settings["batch_size"], settings["dtype"]) == (16, "float32")


WRONG = ("", "-1", "nan", "x", "größe", "1" * 5000, "{", "[1]", "a=b=c", "/no/such/file.yaml")


def test_no_option_of_lm_evals_ends_in_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read or refused in one line; options that lm-eval gets later are covered by their being in its parser."""
    monkeypatch.chdir(tmp_path)
    options = [max(action.option_strings, key=len) for action in command.parser()._actions if action.dest != "help"]
    assert len(options) > 30
    for option in options:
        for value in WRONG:
            try:
                command.parse(["--tasks", "t", option, value], command.Own())
            except BadInput as error:
                assert "\n" not in str(error) and str(error).strip(), (option, value)


# Chance.


def choices(right: int, n: int, of: int = 4) -> dict[str, Any]:
    scores = {str(i): {"acc": [float(i < right), 1.0]} for i in range(n)}
    samples = [{"doc_id": i, "arguments": [("q", "a")] * of, "metrics": ["acc"], "layers": [[4, 4]]} for i in range(n)]
    return chance.standings(scores, samples, "multiple_choice", 100)["acc"]


@pytest.mark.parametrize(
    ("right", "n", "of", "informative"),
    [(25, 100, 4, False), (50, 100, 4, True), (50, 100, 2, False), (3, 5, 4, False)],
)
def test_choices_at_chance_say_nothing(right: int, n: int, of: int, informative: bool) -> None:
    found = choices(right, n, of)
    assert found["informative"] == informative == (not found["reason"]) and found["chance"] == 100 / of


def test_likelihoods_no_better_than_a_guess_say_nothing() -> None:
    samples = [{"doc_id": 0, "arguments": [("q", "a")], "metrics": ["perplexity", "acc"], "layers": [[4, 4, 4]]}]
    for value, informative in ((-3 * math.log(100) - 1, False), (-3 * math.log(100) + 1, True)):
        found = chance.standings({"0": {"perplexity": [value, 1.0], "acc": [0.0, 1.0]}}, samples, "loglikelihood", 100)
        assert found["perplexity"]["informative"] == informative
        assert found["perplexity"]["chance"] == pytest.approx(100**3) and not found["acc"]["informative"]


# Progress, and data that a task names itself.


def test_progress_is_a_line_per_task_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    with progress.Progress("t under full", 4) as bar:
        bar.done(1)
        bar.at(3, 9)
        bar.done(3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("t under full: 1 of 4 requests, about") and lines[-1].startswith(
        "t under full: 4 requests in"
    )
    with progress.Progress("t", 4, hidden=True) as bar:
        bar.done(4)
    assert capsys.readouterr().err == ""


def test_packaged_builders_read_the_files_a_task_names(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "rows.csv").write_text("a,b\n1,x\n")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    with data.local_data(tmp_path):
        for builder, name in (("csv", "rows.csv"), ("json", "rows.jsonl")):
            found = datasets.load_dataset(builder, data_files={"test": str(tmp_path / name)})
            assert found["test"][0]["a"] == 1
        with pytest.raises(BadInput, match="data set json of .*none.jsonl.*cannot be read"):
            datasets.load_dataset("json", data_files=str(tmp_path / "none.jsonl"))
