"""What `depthbench list` and the end of `depthbench run` print, as rows of text; the first row is the header."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import BadInput, near
from harness.records import beyond
from harness.records.arms import cost_said

Rows = list[tuple[str, ...]]
T = TypeVar("T")


def rows(what: str) -> Rows:
    """Rows about `methods`, `models`, `suites`, `tasks` or `recipes`; BadInput for anything else."""
    makers = {"methods": _methods, "models": _models, "suites": _suites, "tasks": _tasks, "recipes": _recipes}
    if what not in makers:
        raise BadInput(f"list: nothing called {what!r}; {near(what, makers)}")
    return makers[what]()


def _methods() -> Rows:
    import dataclasses

    import methods
    from harness.parameters import default, plain

    table: Rows = [("name", "family", "exact", "trained", "parameters", "paper")]
    for name in methods.names():
        try:
            cls = methods.get(name)
        except BadInput as error:  # one that a package offers and that does not load hides no other
            table.append((name, "", "", "", str(error), ""))
            continue
        given = [(f.name, default(f)) for f in dataclasses.fields(cls)]
        fields = ", ".join(name if usual is dataclasses.MISSING else f"{name}={plain(usual)}" for name, usual in given)
        table.append((name, cls.family, _yes(cls.exact), _yes(cls.needs_training), fields, cls.paper))
    return table


def _models() -> Rows:
    from harness.models.load import ASSETS, FAMILIES, bundled, read_card
    from harness.models.named import NAMED, size

    table: Rows = [("name", "trained for", "data")]
    for name in bundled():
        card = read_card(ASSETS / name)
        table.append((name, str(card.get("trained_for", "")), ", ".join(card.get("data", []))))
    for name, model in NAMED.items():
        table.append((name, f"{model.about}; {model.licence}, {size(name)} from the package index", ""))
    table.append(("a local folder, .gguf file or hub id", f"architectures: {', '.join(sorted(FAMILIES))}", ""))
    return table


def _suites() -> Rows:
    from harness.suites.suite import read_suite, suite_names

    loaded = [read_suite(name) for name in suite_names()]
    return [("name", "what"), *((s.name, " ".join((s.title or s.description).split())) for s in loaded)]


def _tasks() -> Rows:
    import importlib

    from harness.tasks import TASKS

    table: Rows = [("name", "what", "source")]
    for name, place in TASKS.items():
        module, _, attribute = place.partition(":")
        cls = getattr(importlib.import_module(module), attribute)
        table.append((name, cls.description, cls.source))
    table.append(("lm_eval:<task>", "any task of lm-eval; `lm-eval ls tasks` lists them", "as lm-eval says"))
    return table


def _recipes() -> Rows:
    from harness.train import recipes

    return [("name", "what"), *((name, recipes.load_recipe(name).description) for name in recipes.names())]


_SCORES = 4
"""Scores that fit a line beside the rest."""
_LIMIT, _APART = "byte limit", "attention/FFN"
_FIRST = ("label", "batch", "ms/token", "speed-up [95 %]", _LIMIT, "layers", _APART)


def summary_least(head: Sequence[str]) -> list[str]:
    """Columns of `summary_rows` that a narrow terminal does without: never the arm, its batch, its speed-up, its verdict."""
    scores = [name for name in head[:-1] if name not in _FIRST]
    return ["ms/token", _LIMIT, _APART, "layers", *scores[1:][::-1], *scores[:1]]


def summary_rows(records: Sequence[Mapping[str, Any]]) -> Rows:
    """The main numbers of the rows of summary.csv, rounded: decode time, speed-up with its interval, layers, a few scores.

    Where an arm skips sublayers alone, attention and feed-forward sublayers per token stand beside the layers.
    Differences to the full model stay in the file; of many scores the first of every task is shown, so that a line fits a terminal.
    """
    scores = [key for key in (records[0] if records else ()) if "/" in key and f"{key}_low" in records[0]]
    scores = [key for key in scores if not key.endswith(("/agreement", "_diff"))]
    if len(scores) > _SCORES:
        scores = list({key.rpartition("/")[0]: key for key in reversed(scores)}.values())[::-1]
    one = len({key.rpartition("/")[0] for key in scores}) == 1
    names = [key.rpartition("/")[2] if one else key.removeprefix("lm_eval:").replace("/", " ") for key in scores]
    apart = any(record["attention_per_token"] != record["feed_per_token"] for record in records)
    head = (*_FIRST[: None if apart else -1], *(n.replace("_", " ") for n in names), "verdict")
    table: Rows = [head]
    for record in records:
        table.append(
            (
                record["label"],
                str(record["batch_size"]),
                _rounded(record["tpot_ms"], 2),
                _with_interval(record, "speedup", 2),
                _rounded(record["byte_limit"], 2),
                _rounded(record["layers_per_token"], 1),
                *(
                    ["/".join(_rounded(record[f"{part}_per_token"], 1) for part in ("attention", "feed"))]
                    if apart
                    else []
                ),
                *(_rounded(record[key], 1) for key in scores),
                record.get("verdict") or record["status"],
            )
        )
    return table


def summary_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must stand beside the speed-ups of `summary_rows`: which are above their limits and why, and what learning cost."""
    learned = {record["label"]: cost_said(record["learned_by"] or "", record["learned_s"]) for record in records}
    costs = [f"Learned beforehand: {label} ({cost})." for label, cost in learned.items() if cost]
    return [*beyond.sentences(records), *costs]


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _with_interval(record: Mapping[str, Any], key: str, digits: int) -> str:
    value, low, high = (_rounded(record.get(name), digits) for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value} [{low}, {high}]" if low and high else value


def checks(results: Iterable[Any]) -> tuple[Rows, list[str]]:
    """Results of `harness.run.contract.check` as one row per check over all models, and a line for each that failed."""
    found: dict[str, list[Any]] = {}
    for result in results:
        found.setdefault(result.check, []).append(result)
    table: Rows = [("what must hold", "models", "result")]
    failed = []
    for name, those in found.items():
        wrong = [result for result in those if result.error]
        for error in dict.fromkeys(result.error for result in wrong):
            failed.append(f"{name} ({', '.join(result.model for result in wrong if result.error == error)}): {error}")
        asked = [result.model for result in those if result.error is not None]
        said = "does not apply" if not asked else f"failed on {len(wrong)}" if wrong else "passed"
        table.append((name, ", ".join(asked), said))
    return table, failed


def new_method(name: str, family: str) -> list[str]:
    """Write a method's file into the working folder; what to do with it, as lines."""
    import keyword

    import methods
    from harness.files import clear_errors, write_atomically
    from methods import _template

    if not (name.isascii() and name.isidentifier() and name == name.lower() and name[0] != "_") or keyword.iskeyword(
        name
    ):
        raise BadInput(
            f"name: {name[:80]!r} is no name of a method; write small letters, digits and _, e.g. every_other"
        )
    if name in methods.names():
        raise BadInput(f"name: there is a method named {name!r}; give another name")
    path = Path(f"{name}.py")
    if path.exists():
        raise BadInput(f"name: {path} is there already; give another name, or delete it")
    with clear_errors(path, "name"):
        write_atomically(path, [_template.written(name, family)])
    spec = f"{path}:{_template.class_name(name)}"
    return [
        f"{path} holds {_template.class_name(name)}. Change it, then:",
        f"  depthbench check {spec}",
        f"  depthbench generate 'name[Zizzi]\\n' --method {spec}",
        f"  depthbench lm-eval --tasks lambada_openai --limit 100 --method {spec} --with-full",
        f"  depthbench run quick --method {spec} --out results/{name}",
    ]


def numbers(name: str, text: str, most: int = 100_000) -> tuple[int, ...]:
    """Whole numbers of at least 1 separated by commas, or BadInput that names the option."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{name}: {text[:80]!r} is not a list of whole numbers; write e.g. 1,8,32") from None
    if not all(1 <= number <= most for number in found):
        raise BadInput(f"{name}: {text[:80]!r} is out of range; give numbers from 1 to {most}")
    return _once(name, found)


def names(name: str, text: str) -> tuple[str, ...]:
    """Names separated by commas, or BadInput that names the option."""
    return _once(name, tuple(text.split(",")))


def _once(name: str, found: tuple[T, ...]) -> tuple[T, ...]:
    twice = [each for place, each in enumerate(found) if each in found[:place]]
    if twice:
        raise BadInput(f"{name}: {twice[0]!r} is given twice; give it once")
    return found


@contextmanager
def record(out: Path | None) -> Iterator[Callable[[Any], None]]:
    """A place for a record, looked at before anything is measured; yields what keeps the record there."""
    import json

    from harness.files import clear_errors, write_atomically
    from harness.suites.artefact import check_free

    if out is not None:
        check_free(out)

    def keep(found: Any) -> None:
        if out is not None:
            with clear_errors(out, "out"):
                out.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(out, [json.dumps(found, indent=1) + "\n"])

    yield keep


def baseline(out: Path | None, **settings: Any) -> tuple[Rows, list[str]]:
    """Measure with `harness.peers.decoding`, keep the record in `out`; the table to print, and lines below it."""
    from harness.peers import decoding as comparison

    with record(out) as keep:
        found = comparison.measure(comparison.Settings(**settings))
        keep(found)
    lost = [f"left out or fallen back: {problem}" for problem in found["problems"]]
    return comparison.table(found), [*filter(None, [comparison.reading_line(found)]), *lost]


def scoring_speed(out: Path | None, data: Path | None, **settings: Any) -> Rows:
    """Measure with `harness.peers.scoring`, keep the record in `out`; the table to print."""
    from harness.peers import scoring as comparison

    with record(out) as keep:
        found = comparison.measure(comparison.Settings(**settings), data)
        keep(found)
    return comparison.table(found)


def scoring_agreement(out: Path | None, data: Path | None, **settings: Any) -> Rows:
    """Compare with `harness.peers.agreement`, keep the record in `out`; the table to print."""
    from harness.peers import agreement

    with record(out) as keep:
        found = agreement.measure(agreement.Settings(**settings), data, say=partial(print, file=sys.stderr))
        keep(found)
    return agreement.table(found)


def fitting(rows: Sequence[tuple[str, ...]], least: Sequence[str], width: int | None) -> tuple[Rows, list[str]]:
    """Rows without the columns that a terminal has no room for, and the names of those.

    Args:
        rows: the first one the header.
        least: columns one may do without, the least important one first.
        width: characters of a line, two of them between columns; None: as many as it takes.
    """
    kept = list(range(len(rows[0])))
    dropped: list[str] = []

    def wide() -> int:
        return sum(max(len(row[place]) for row in rows) + 2 for place in kept) - 2

    for name in least:
        if width is None or wide() <= width:
            break
        if name in rows[0]:
            kept.remove(rows[0].index(name))
            dropped.append(name)
    return [tuple(row[place] for place in kept) for row in rows], dropped


def _yes(value: bool) -> str:
    return "yes" if value else "no"
