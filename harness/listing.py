"""What `depthbench list` and the end of `depthbench run` print, as rows of text; the first row is the header."""

from __future__ import annotations

import csv
from pathlib import Path

from harness.errors import BadInput

Rows = list[tuple[str, ...]]


def rows(what: str) -> Rows:
    """Rows about `methods`, `models`, `suites`, `tasks` or `recipes`; BadInput for anything else."""
    makers = {"methods": _methods, "models": _models, "suites": _suites, "tasks": _tasks, "recipes": _recipes}
    if what not in makers:
        raise BadInput(f"list: nothing called {what!r}; give one of {', '.join(makers)}")
    return makers[what]()


def _methods() -> Rows:
    import dataclasses

    import methods

    table: Rows = [("name", "family", "exact", "trained", "parameters", "paper")]
    for name in methods.names():
        cls = methods.get(name)
        fields = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(cls))
        table.append((name, cls.family, _yes(cls.exact), _yes(cls.needs_training), fields, cls.paper))
    return table


def _models() -> Rows:
    from harness.models import ASSETS, FAMILIES, bundled, read_card

    table: Rows = [("name", "trained for", "data")]
    for name in bundled():
        card = read_card(ASSETS / name)
        table.append((name, str(card.get("trained_for", "")), ", ".join(card.get("data", []))))
    table.append(("a local folder or hub id", f"architectures: {', '.join(sorted(FAMILIES))}", ""))
    return table


def _suites() -> Rows:
    from harness.config import load_suite, suite_names

    loaded = [load_suite(name) for name in suite_names()]
    return [("name", "what"), *((s.name, " ".join((s.title or s.description).split())) for s in loaded)]


def _tasks() -> Rows:
    import importlib

    from harness.tasks import TASKS

    table: Rows = [("name", "what", "source")]
    for name, place in TASKS.items():
        module, _, attribute = place.partition(":")
        cls = getattr(importlib.import_module(module), attribute)
        table.append((name, cls.description, cls.source))
    return table


def _recipes() -> Rows:
    from harness import recipes

    return [("name", "what"), *((name, recipes.load_recipe(name).description) for name in recipes.names())]


def summary_rows(folder: Path) -> Rows:
    """The main columns of a run's summary.csv, quality columns included."""
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    wanted = [
        "label",
        "batch_size",
        "tpot_ms",
        "speedup",
        "speedup_low",
        "speedup_high",
        "layers_per_token",
        "gflops_per_token",
    ]
    if records:
        wanted += [key for key in records[0] if "/" in key and not key.endswith(("_low", "_high", "_diff"))]
        wanted.append("verdict")
    return [tuple(wanted), *(tuple(record.get(key) or "" for key in wanted) for record in records)]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
