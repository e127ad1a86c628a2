"""Published numbers: complete rows, tied to their source, kept apart from what is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import settings
from harness.errors import BadInput
from harness.records import beside, published
from harness.suites.suite import load_suite, suite_names
from methods.skipdecode import _REPORTED

PAPERS = [published.load(key) for key in published.bibkeys()]

MINIMAL = """
title: A paper
authors: [A. Author]
year: 2024
venue: nowhere
arxiv: "2401.00001"
url: https://arxiv.org/abs/2401.00001
readings:
  text: {kind: primary, what: full text, where: arXiv}
tables:
  one:
    read_from: text
    model: M
    task: T
    comparable: "no"
    reason: an example
    metrics:
      speedup: {unit: ratio, divides_by: time full / time method}
    rows:
      - {setting: A, method: skipdecode, target: 2, values: {speedup: 1.5}}
"""


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.bibkey)
def test_every_row_says_what_it_is_and_where_it_was_read(paper: published.Paper) -> None:
    for row in paper.rows:
        assert row.source == paper.readings[row.read_from].kind
        # A ratio without what it divides by is no number.
        assert (row.unit == "ratio") == (row.divides_by is not None), (row.table, row.metric)
        assert row.conditions and row.reason and row.unit
    assert paper.arxiv is None or paper.arxiv in paper.url
    assert all(paper.readings[key].where for key in paper.readings)


def test_the_papers_that_are_promised_are_there() -> None:
    promised = {
        "SkipDecode", "Confident", "Unified Layer Skipping", "AdaSkip", "LayerSkip", "SLEB", "SEED", "Speculative Decoding",
        "Router-Tuning", "D-LLM", "TALE", "Residual Gates", "KnapSpec",
    }  # fmt: skip
    assert promised <= {word for paper in PAPERS for word in promised if word in paper.title}


def test_numbers_known_from_secondary_sources_alone_say_so() -> None:
    """SkipDecode's own text could not be read: none of its numbers may pass as primary."""
    assert {row.source for row in published.load("delcorro2023skipdecode").rows} == {"secondary"}
    assert {row.source for row in published.load("schuster2022calm").rows} == {"primary"}


def test_the_methods_limits_are_those_published() -> None:
    found: dict[tuple[int, float], dict[str, float]] = {}
    for row in published.load("delcorro2023skipdecode").rows:
        if row.table == "hyper-parameters" and row.target:
            depth = {"OPT-1.3B": 24, "OPT-6.7B": 32}[row.model]
            found.setdefault((depth, row.target), {})[row.metric] = row.value
    assert len(found) == 6
    for key, limits in found.items():
        assert _REPORTED[key] == (limits["min_layers"], limits["max_layers"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("unit: ratio, ", "", "unit"),
        ('comparable: "no"\n', 'comparable: "maybe"\n', "comparable"),
        ("read_from: text", "read_from: memory", "read_from: is not one of the readings text"),
        ("values: {speedup: 1.5}", "values: {sped: 1.5}", "metric 'sped' is not described"),
        ("values: {speedup: 1.5}", "values: {speedup: fast}", "value"),
        ("values: {speedup: 1.5}", "values: {}", "tables.one.rows.0: give a mapping with values"),
        ("    task: T\n", "", "task"),
        ("    task: T\n", "    taks: T\n", "unknown key 'taks'"),
        ('arxiv: "2401.00001"', "arxiv: soon", "arxiv"),
        ("year: 2024\n", "", "year"),
        ("title: A paper\n", "", "title"),
        (
            "      - {setting: A",
            "      - {setting: A, method: skipdecode, target: 2, values: {speedup: 2}}\n      - {setting: A",
            "given twice",
        ),
        ("title: A paper", "- title", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_complete_is_refused_with_the_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "author2024.yaml"
    path.write_text(MINIMAL)
    assert published.read(path).rows[0].value == 1.5
    assert old in MINIMAL
    path.write_text(MINIMAL.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        published.read(path)
    text = str(caught.value)
    assert said in text and str(path) in text and "\n" not in text


@pytest.mark.parametrize("name", suite_names())
def test_what_suites_put_beside_their_results_is_there(name: str) -> None:
    suite = load_suite(name)
    chosen = beside.select(suite.published)
    run = {"published": chosen}
    assert len(beside.rows(run)) == sum(len(part["rows"]) for part in chosen)
    labels = {entry.title for entry in suite.methods}
    for pair in beside.pairs(run):
        assert pair.label in labels and pair.comparable in ("yes", "no") and pair.reason
        assert "{" not in pair.column


def test_pairs_of_the_mini_suite() -> None:
    """The comparison the suite is for: 66.3 against 46.7 and 22.8 at 5x, each beside our own arm and column."""
    pairs = beside.pairs({"published": beside.select(load_suite("skipdecode-mini").published)})
    table = {(pair.label, pair.column, pair.row.table): pair.row.value for pair in pairs}
    assert table["SkipDecode 5x", "e2e/rougeL", "against-others"] == 66.3
    assert table["Fixed exit 5", "e2e/rougeL", "against-others"] == 46.7
    assert table["CALM softmax 0.25", "e2e/rougeL", "against-others"] == 22.8
    assert table["SkipDecode 2x", "e2e/layers_per_token", "layers"] == 14.7
    assert all(pair.comparable == "no" and "million" in pair.reason for pair in pairs)


def test_a_suite_that_sets_nothing_apart_keeps_the_rows_own_word() -> None:
    entry = beside.Beside(
        key="delcorro2023skipdecode", tables=("hyper-parameters", "layers"), arms={"mine": "SkipDecode 2x"}
    )
    pairs = beside.pairs({"published": beside.select([entry])})
    assert [(pair.column, pair.row.model, pair.comparable) for pair in pairs] == [
        ("layers_per_token", "OPT-1.3B", "no"),
        ("layers_per_token", "OPT-6.7B", "no"),
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("key: delcoro2023skipdecode", "did you mean 'delcorro2023skipdecode'"),
        ("key: delcorro2023skipdecode, tables: [tabel]", "has no table 'tabel'"),
        ("key: delcorro2023skipdecode, model: OPT-13B", "no rows of 'OPT-13B'"),
        ("key: delcorro2023skipdecode, tasks: {XSUM: restaurants}", "has no 'XSUM'"),
        ("key: delcorro2023skipdecode, arms: {CALM softmax 0.5: CALM 7x}", "has no 'CALM 7x'"),
        ("key: delcorro2023skipdecode, arms: {CALM softmax 0.6: CALM-DEC 5x}", "did you mean 'CALM softmax 0.5'"),
        ("key: delcorro2023skipdecode, tasks: {E2E: e2e}", "no task of the suite is 'e2e'"),
        ("key: delcorro2023skipdecode, table: [layers]", "unknown key; did you mean 'tables'"),
    ],
)
def test_a_suite_that_names_what_is_not_there_is_refused(entry: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        beside.select(load_suite("smoke", [f"published=[{{{entry}}}]"]).published)
    assert said in str(caught.value) and "published" in str(caught.value) and "\n" not in str(caught.value)


def test_files_are_yaml_without_repeated_keys() -> None:
    """A key given twice would silently lose a number."""
    paths = list(published.FOLDER.glob("*.yaml"))
    assert len(paths) >= 6
    for path in paths:
        assert settings.read(path, "")["tables"]


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys; from harness.records import published; [published.load(k) for k in published.bibkeys()]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
