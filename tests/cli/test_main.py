"""The command line: what a newcomer types, and one line with exit status 2 for what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main as cli


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["depthbench", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("verb", ["run", "report", "list", "generate", "score", "train", "check", "doctor", "compare"])
def test_every_verb_has_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert call(monkeypatch, verb, "--help") == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "expect"),
    [
        ("methods", "skipdecode"),
        ("models", "opt"),
        ("suites", "quick"),
        ("tasks", "restaurants"),
        ("recipes", "opt-e2e-mini-calm-700"),
    ],
)
def test_lists(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, expect: str) -> None:
    assert call(monkeypatch, "list", what) == 0
    assert expect in capsys.readouterr().out


def test_generate_and_score(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    model = ["--model", str(checkpoint), "--method", "skipdecode(speedup=2)"]
    assert call(monkeypatch, "generate", "name[Mossgrove]\\n", *model, "--max-new-tokens", "5") == 0
    assert "of 4 layers per token" in capsys.readouterr().out
    assert call(monkeypatch, "score", "name[Mossgrove]\\n", "Mossgrove is here.", *model) == 0
    assert "log-likelihood -" in capsys.readouterr().out


BAD = [
    (("run", "quikc"), "quick"),
    (("run", "quick", "--set", "methods.0.name=fulll"), "full"),
    (("run", "quick", "--set", "tasks.0.name=restaurant"), "restaurants"),
    (("run", "quick", "--set", "batch_sizes=[0]"), "batch_sizes"),
    (("run", "quick", "--set", "repeat=3"), "repeats"),
    (("run", "quick", "--set", "methods=[full,'calm(threshold=1.2)']"), "threshold=1.2 is out of range"),
    (("run", "quick", "--set", "methods=[full,'skipdecode(speedup=0)']"), "speedup=0.0 is out of range"),
    (
        ("run", "quick", "--set", "methods=[full,'skipdecode(min_layers=9,max_layers=4)']"),
        "min_layers=9 is out of range",
    ),
    (("run", "quick", "--set", "methods=[full,'skipdecode(min_layers=2,max_layers=4,warmup=3)']"), "warmup=3"),
    (("run", "/no/such.yaml"), "/no/such.yaml"),
    (("report", "/no/such/folder"), "/no/such/folder"),
    (("list", "colours"), "methods"),
    (("generate", "x", "--model", "opt-e2e-minni"), "neither bundled"),
    (("generate", "x", "--method", "calmm"), "did you mean 'calm'"),
    (("generate", "x", "--device", "abacus"), "abacus"),
    (("train", "no-such-recipe", "--out", "/tmp/x"), "recipe"),
    (("run",), "suite"),
    (("run", "quick", "--nope"), "--nope"),
    (("walk",), "walk"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    if arguments[:1] == ("run",) and len(arguments) > 1:
        arguments = (*arguments, "--out", str(tmp_path / "out"))
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error


def test_a_folder_with_other_things_is_refused_untouched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert call(monkeypatch, "run", "quick", "--out", str(tmp_path)) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
