"""No input ends in a traceback: every option of every verb with what it must refuse, in one line, before anything is computed."""

from __future__ import annotations

import multiprocessing.process
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import harness.tasks.lm_eval.evaluate
import harness.tune.profile
import reports.write.view
from harness.cli import main as cli
from harness.measure.probes import reading
from harness.peers import agreement, scoring
from harness.run import contract
from harness.run.executors import local
from harness.tune.trials import Trials
from tests.cli import sweep
from tests.cli.sweep import Computed, computes
from tests.records.test_compare import make_run

Call = Callable[..., tuple[int | str, str, str]]

BASE: Mapping[str, Mapping[str, str]] = {
    "run": {"suite": "smoke", "--out": "{out}"},
    "report": {"folders": "{run}", "--out": "{out}"},
    "compare": {"before": "{run}", "after": "{run}"},
    "trim": {"run_folder": "{run}", "out": "{out}"},
    "list": {"what": "tasks"},
    "doctor": {"--out": "{out}"},
    "check": {"method": "full"},
    "new-method": {"name": "mine"},
    "selfcheck": {"--out": "{out}"},
    "generate": {"prompt": "name[Mossgrove]", "--model": "{model}", "--max-new-tokens": "3"},
    "score": {"prompt": "name[Mossgrove]", "continuation": "Mossgrove is here.", "--model": "{model}"},
    "baseline": {"--model": "{model}"},
    "lm-eval": {"--tasks": "none", "--model": "{model}"},
    "scoring-agreement": {"--model": "{model}"},
    "scoring-speed": {"--model": "{model}", "--method": "full", "--sequences": "2"},
    "train": {"recipe": "{recipe}", "--out": "{out}"},
    "tune": {"method": "skipdecode", "--model": "{model}", "--task": "restaurants", "--out": "{out}", "--target-speedup": "1.1"},
    "profile": {"method": "static_prune(order=sleb, count=1)", "--model": "{model}", "--task": "restaurants", "--out": "{out}"},
    "calibrate": {"method": "skipdecode", "--model": "{model}", "--task": "restaurants", "--out": "{out}"},
}  # fmt: skip
"""A call of every verb that works, up to where it would compute."""


@pytest.fixture
def places(tmp_path: Path, checkpoint: Path) -> dict[str, str]:
    """What braces in BASE and TEXTS stand for."""
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "recipe.yaml").write_text(
        "method: full\nstart: opt-e2e-mini/full\ndata: [{task: restaurants, limit: 4}]\n"
        "stages: {weights: {steps: 1, learning_rate: 0.1}}\nbf16: false\nprompts_per_step: 2\n"
    )
    found = {name: str(tmp_path / name) for name in ("file", "folder", "binary", "out")}
    run = make_run(tmp_path / "run")
    return {**found, "recipe": str(tmp_path / "recipe.yaml"), "run": str(run), "model": str(checkpoint)}


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, places: dict[str, str]
) -> Call:
    """Call a verb: exit status, or `computed` where it would have begun to; standard output and error."""
    monkeypatch.setattr(local.LocalExecutor, "call", computes)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", computes)
    monkeypatch.setattr(torch.Tensor, "backward", computes)
    monkeypatch.setattr(Trials, "quality", computes)
    monkeypatch.setattr(Trials, "time", computes)
    monkeypatch.setattr(harness.tune.profile, "DataProfile", computes)
    monkeypatch.setattr(scoring, "score", computes)
    monkeypatch.setattr(agreement, "HFLM", computes)
    monkeypatch.setattr(contract, "check", computes)
    monkeypatch.setattr(reading, "measure", computes)
    monkeypatch.setattr(reports.write.view, "narrow", computes)
    monkeypatch.setattr(harness.tasks.lm_eval.evaluate, "load_tasks", computes)
    monkeypatch.chdir(tmp_path)
    for setting in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(setting, "1")

    def called(verb: str, given: Mapping[str, str], *more: str) -> tuple[int | str, str, str]:
        filled = {name: _filled(value, places) for name, value in given.items()}
        options = [f"{name}={value}" for name, value in filled.items() if name.startswith("-")]
        arguments = [value for name, value in filled.items() if not name.startswith("-")]
        monkeypatch.setattr("sys.argv", ["depthbench", verb, *options, *more, "--", *arguments])
        status: int | str = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        except Computed:
            status = "computed"
        out, err = capfd.readouterr()
        return status, out, err

    return called


def _filled(value: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        value = value.replace(f"{{{name}}}", place)
    return value


def test_every_verb_is_swept() -> None:
    assert set(BASE) == set(sweep.VERBS), "say in BASE how the new verb is called"
    unknown = set(sweep.TEXTS) - {name for verb in BASE for _, name, _ in sweep.cases(verb)}
    assert not unknown, f"no such options any more: {unknown}"


@pytest.mark.parametrize("verb", BASE)
def test_wrong_values_are_refused_in_one_line(verb: str, call: Call) -> None:
    status, _, err = call(verb, BASE[verb])
    assert status in ("computed", 0), f"the call that all others are made of does not work: {err}"
    problems = []
    for param, name, value in sweep.cases(verb):
        option = sweep.longest(param)
        key = option if option.startswith("-") else str(param.name)
        try:
            status, out, err = call(verb, {**BASE[verb], key: value})
        except Exception as error:
            problems.append(f"{name} {value[:60]!r}: {type(error).__name__}: {str(error)[:200]}")
            continue
        lines = err.strip().splitlines()
        if status != 2 or len(lines) != 1 or not lines[0].startswith("depthbench: "):
            problems.append(f"{name} {value[:60]!r}: status {status}: {err[:300]!r} {out[:100]!r}")
        elif len(err) > 1100:
            problems.append(f"{name} {value[:60]!r}: a line of {len(err)} characters")
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("verb", BASE)
def test_nothing_is_given_twice(verb: str, call: Call) -> None:
    for param in sweep.VERBS[verb].params:
        if param.param_type_name != "option" or param.is_flag or param.multiple:
            continue
        option = sweep.longest(param)
        rest = {key: value for key, value in BASE[verb].items() if key != option}
        status, _, err = call(verb, rest, f"{option}=1", f"{option}=1")
        assert status == 2 and f"{param.opts[0]} is given twice" in err, (option, err)
