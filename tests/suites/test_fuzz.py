"""Suites, recipes and method specs that nobody would write on purpose: they are read, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import methods
from harness.errors import BadInput
from harness.suites.suite import Suite, load_suite, suite_names
from harness.train.recipes import Recipe, load_recipe

QUICK = settings(
    max_examples=60,
    derandomize=True,  # the same examples every time: a failure is one that everybody has
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

SUITE = {
    "model": "m",
    "methods": ["full", {"name": "skipdecode", "speedup": 2}],
    "batch_sizes": [1, 8],
    "tasks": ["restaurants"],
}
RECIPE = {
    "method": "full",
    "start": "m",
    "data": [{"task": "restaurants"}],
    "stages": {"weights": {"steps": 1, "learning_rate": 0.1}},
}

WORDS = some.sampled_from(
    ["", " ", "full", "calm", "nan", "é漢", "a\nb", "\x00", "x" * 5000, "{task}", "lm_eval:", "random:x", "../x"]
)
LEAVES = (
    some.none() | some.booleans() | some.integers() | some.just(2**80) | some.floats() | some.text(max_size=8) | WORDS
)  # fmt: skip
VALUES = some.recursive(
    LEAVES,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=4) | WORDS, inner, max_size=3),
    max_leaves=6,
)


def read_or_refused(read: Callable[[], object]) -> None:
    """Whatever is wrong is a BadInput of one line."""
    try:
        read()
    except BadInput as error:
        assert str(error).strip() and len(" ".join(str(error).split())) < 6000


@QUICK
@given(changes=some.dictionaries(some.sampled_from([*Suite.model_fields, "lable", ""]), VALUES, min_size=1, max_size=3))
def test_suites_with_wrong_values(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({**SUITE, **changes}))
    read_or_refused(lambda: load_suite(path))


@QUICK
@given(
    key=some.text(max_size=6) | some.sampled_from(["label", "lable", "checkpoint", "speedup", "tuned", "parameters"]),
    value=VALUES,
)
def test_method_entries_with_wrong_values(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({**SUITE, "methods": ["full", {"name": "skipdecode", key: value}]}))
    read_or_refused(lambda: load_suite(path))


@QUICK
@given(changes=some.dictionaries(some.sampled_from([*Recipe.model_fields, "lable"]), VALUES, min_size=1, max_size=3))
def test_recipes_with_wrong_values(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**RECIPE, **changes}))
    read_or_refused(lambda: load_recipe(str(path)))


@QUICK
@given(text=some.text(alphabet="[]{}:,-&*!|>#'\"\n\t ab1.é", max_size=40))
def test_text_that_is_no_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    read_or_refused(lambda: load_suite(path))


@QUICK
@given(spec=some.text(alphabet="(),='\"[]{}.-+e0123xyz é\n", max_size=30), name=some.sampled_from(methods.names()))
def test_specs(spec: str, name: str) -> None:
    for text in (spec, f"{name}({spec})"):
        read_or_refused(lambda text=text: methods.create(text))  # type: ignore[misc]


@QUICK
@given(value=LEAVES, method=some.sampled_from([(n, p) for n in methods.names() for p in methods.parameters(n)]))
def test_parameters(value: Any, method: tuple[str, str]) -> None:
    name, parameter = method
    read_or_refused(lambda: methods.create(name, **{parameter: value}))


@pytest.mark.parametrize("read", [load_suite, lambda path: load_recipe(str(path))])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"[]", "not a mapping"),
        (b"\xff\xfe\x00a", "UTF-8"),
        (b"a: 1\na: 2\n", "'a' is given twice"),
        (b"a: {b: 1, b: 2}\n", "'b' is given twice"),
        (b"a: [1, 2\nb: 3\n", "not valid YAML"),
        (b"a: " + b"[" * 3000, "nested too deeply"),
        (b"a: 2020-99-99\n", "month"),
        (b"a: !!python/object:os.system {}\n", "not valid YAML"),
        (b"{a: b}: 1\n", "line 1: the key {'a': 'b'} is not text"),
        (b"x: 1\n1: 2\n", "line 2: the key 1 is not text"),
        (b"a: 0x" + b"f" * 9000, "unknown key"),
        (b"\x00", "not valid YAML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, read: Callable[[Path], object], content: bytes, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        read(path)
    assert str(refused.value).startswith(str(path)) and says in str(refused.value)


@pytest.mark.parametrize("name", suite_names())
def test_suites_cut_in_the_middle(tmp_path: Path, name: str) -> None:
    from harness.suites.suite import FOLDER

    whole = (FOLDER / f"{name}.yaml").read_bytes()
    path = tmp_path / "cut.yaml"
    for share in (0.2, 0.5, 0.8):
        path.write_bytes(whole[: int(share * len(whole))])
        read_or_refused(lambda path=path: load_suite(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"methods": ["full", {"name": "calm", "lable": "x"}]}, "methods.1.lable"),
        (
            {"methods": ["full", {"name": "calm", "label": "x" * 1_000_000}]},
            "label: is 1000000 characters long; 200 at most",
        ),
        ({"methods": ["full", {"name": "calm", "label": "two\nlines"}]}, "line feed"),
        ({"methods": ["full", {"name": "calm", "threshold": float("inf")}]}, "finite"),
        ({"methods": ["full", {"label": "no name"}]}, "method's name"),
        ({"batch_sizes": [2**40]}, "out of range"),
        ({"seed": 2**40}, "out of range"),
        ({"seed": True}, "whole number"),
        ({"repeats": "3"}, "whole number"),
        ({"tasks": [{"name": "restaurants", "limt": 3}]}, "did you mean 'limit'"),
        ({"limits": {"dispersoin": 3}}, "did you mean 'dispersion'"),
        ({"published": [{"table": "x"}]}, "published.0"),
    ],
)
def test_what_a_suite_may_not_say(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **change}))
    with pytest.raises(BadInput) as refused:
        load_suite(path)
    assert says in str(refused.value) and str(path) in str(refused.value) and len(str(refused.value)) < 600
