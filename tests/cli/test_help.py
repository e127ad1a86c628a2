"""Help one can read: whole sentences at 80 columns, options in groups, examples that work; what the shell offers."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import app as shared
from harness.cli import listing
from harness.cli.main import app
from harness.cli.verbs import Verb
from tests.cli.sweep import VERBS


def page(*verb: str) -> str:
    return CliRunner().invoke(app, [*verb, "--help"], terminal_width=80, prog_name="depthbench").output


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_page_fits_and_has_whole_sentences(verb: str) -> None:
    text = page(*filter(None, [verb]))
    assert max(map(len, text.splitlines())) <= 80 and "..." not in re.sub(r"[A-Z,\]]\.\.\.", "", text)
    if verb:
        assert isinstance(VERBS[verb], Verb) and re.search(r"\n  Examples?:\n", text)
        for param in VERBS[verb].params:
            said = " ".join((getattr(param, "help", "") or "").split())
            assert said.endswith(".") and said[0] not in " .", f"{verb} {param.name}: {said!r} is no sentence"


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_commands_that_can_be_read(verb: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    lines = [line.strip() for line in VERBS[verb].epilog.splitlines() if line.startswith("  ")]
    assert lines
    for line in lines:
        program, name, *rest = shlex.split(line)
        assert program == "depthbench" and name == verb
        VERBS[verb].make_context(verb, rest)  # raises where an option is not known or its value is out of range


def test_every_verb_stands_in_a_group() -> None:
    text = page()
    for group in (shared.MEASURE, shared.MAKE, shared.LOOK):
        assert f"\n{group}:\n" in text
    assert "\nVerbs:\n" not in text


def test_the_shell_offers_names() -> None:
    assert (
        "opt-e2e-mini/full" in shared.MODELS("opt") and "calm" in shared.METHODS("c") and "quick" in shared.SUITES("")
    )
    assert shared.TASKS("rest") == ["restaurants"]


ROWS = [("label", "batch", "ms/token", "speed-up [95 %]", "layers", "rougeL", "verdict"),
        ("SkipDecode 2x, a long label", "32", "12.34", "1.90 [1.80, 2.00]", "12.0", "55.1", "faster, keeps quality")]  # fmt: skip


@pytest.mark.parametrize(("width", "gone"), [(120, []), (80, ["ms/token", "layers", "rougeL"]), (None, [])])
def test_a_narrow_terminal_keeps_the_verdict(width: int | None, gone: list[str]) -> None:
    kept, dropped = listing.fitting(ROWS, listing.summary_least(ROWS[0]), width)
    assert dropped == gone and kept[0][-1] == "verdict" and kept[0][:2] == ("label", "batch")
    assert all(len(row) == len(kept[0]) for row in kept)
