"""The README and what it links: short enough to read, its links lead somewhere, its tables are those of the code.

`python -m tests.test_readme` writes the table of suite keys into harness/README.md.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from depthbench import __version__
from harness.cli.main import app
from harness.models import bundled
from harness.suites.suite import Suite
from harness.train import recipes

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "harness/README.md", "methods/README.md", "reports/README.md", "results/README.md")
START, END = "<!-- suite keys: python -m tests.test_readme -->\n", "<!-- end -->"


def suite_keys() -> str:
    """The keys of a suite with default and meaning, as a table: from its class and the docstring of that."""
    attributes = (Suite.__doc__ or "").partition("Attributes:")[2]
    said = re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", attributes, re.DOTALL | re.MULTILINE)
    meaning = {name: " ".join(words.split()) for name, words in said}
    lines = ["| key | default | what |", "|---|---|---|"]
    for name, field in Suite.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        lines.append(f"| `{name}` | {default} | {meaning[name].replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if value is None or value == "" or value == ():
        return ""
    return (
        f"`{str(value).lower() if isinstance(value, bool) else value}`"
        if isinstance(value, (int, float, str))
        else "see there"
    )


def test_the_table_of_suite_keys_is_that_of_the_code() -> None:
    text = (ROOT / "harness" / "README.md").read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == suite_keys()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
    assert f"version {__version__}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)
    assert targets
    for path, anchor in targets:
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, anchor


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_its_verb_and_options(page: str) -> None:
    """Parsed by the command line itself, so that no page names an option that is not there."""
    group: Any = typer.main.get_command(app)
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line.strip() for line in re.findall(r"^    (depthbench .*)$", text, re.MULTILINE)]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0].startswith("-"):
            continue
        command = group.commands[words[0]]
        if not command.context_settings.get("ignore_unknown_options"):
            given = [w.split("=")[0].strip("[]") for w in words if w.strip("[]").startswith("--")]
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            assert set(given) <= known, line


def _gone(text: str) -> list[str]:
    """Bundled checkpoints and recipes that a text names and that are not there."""
    weights = re.findall(r"(?:opt-e2e-mini|smollm2-e2e)/[\w-]+", text)
    made = re.findall(r"(?<![/\w])(?:opt-e2e-mini|smollm2-e2e|smollm2-cnn_dm)-[\w-]+", text)
    return [*sorted({*weights} - {*bundled.bundled()}), *sorted({*made} - {*recipes.names()})]


def test_commands_and_help_name_what_is_there() -> None:
    assert _gone("train opt-e2e-mini-none --out x, --model opt-e2e-mini/none") == [
        "opt-e2e-mini/none",
        "opt-e2e-mini-none",
    ]
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        said = [command.help, command.epilog, *(getattr(option, "help", "") for option in command.params)]
        assert not _gone(" ".join(map(str, said))), name
    for page in (*PAGES[:4], "CONTRIBUTING.md"):
        lines = re.findall(r"^    (?:depthbench|model) .*$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert not _gone("\n".join(lines)), page


if __name__ == "__main__":
    path = ROOT / "harness" / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    path.write_text(before + START + suite_keys() + END + rest.partition(END)[2], encoding="utf-8")
