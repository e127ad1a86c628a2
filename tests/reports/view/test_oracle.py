"""The oracle's table: only where a method has several budgets, its bias named, and only over scores that tell something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reports.facts import load
from reports.facts.facts import Facts, gather
from reports.facts.oracle import oracles
from reports.view.oracle import oracle_table
from tests.reports.synthetic import ARMS, write_run


@pytest.fixture(scope="module")
def facts(quick_run: Path) -> Facts:
    return gather(load.load([quick_run])[0])


def test_a_method_with_several_budgets_has_an_oracle(facts: Facts) -> None:
    found = oracles(facts)
    trained = next(
        one for one in found if [arm.label for arm in one.arms[1:]] == [f"SkipDecode {x}x" for x in (2, 3, 5)]
    )
    assert trained.arms[0].method == "full" and trained.metric.name != "bleu" and trained.other is not None
    assert sum(trained.oracle.counts(4)) == 30 and 0 < trained.oracle.share.value <= 100
    assert trained.oracle.gap.value >= 0, "no example is given a budget that scores worse than full on it"
    table = oracle_table(facts)
    assert table is not None and "Selection bias" in table.note and len(table.rows) == len(found)
    assert "examples by budget: full" in table.rows[0][0].detail


def test_one_budget_or_nothing_informative_has_none(facts: Facts, tmp_path: Path) -> None:
    single = gather(load.load([write_run(tmp_path / "one", (ARMS[0], ARMS[1]), (1,), examples=24)])[0])
    assert oracle_table(single) is None
    silent = replace(facts, kept={"uninformative": {"restaurants": "at chance"}})
    assert oracle_table(silent) is None
