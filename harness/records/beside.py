"""Papers' tables beside a run's own results. Torch-free.

A suite names the tables (`published`); `select` puts them into run.json, so that a report needs nothing but the run, and `pairs`
says which published row belongs beside which arm and column. Published values never enter an interval, a ratio or a Pareto front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from harness.errors import BadInput, near
from harness.records.published import COLUMNS, Json, Row, load
from harness.records.run_record import PublishedPart, RunRecord
from harness.validation import Frozen, Text


class Beside(Frozen):
    """What a suite puts beside its own results.

    Attributes:
        key: bibkey.
        tables: names of tables; None: all.
        model: only rows of this model; None: all.
        tasks: the paper's name of a task -> ours; rows of other tasks have nothing beside them. Empty: rows of all tasks, and
            only what no task of ours is needed for.
        arms: label of an arm of the suite -> the setting it stands beside, as the paper calls it.
        differs: what differs in this suite, so that values cannot be held against the paper's; None: nothing but what the
            rows say themselves.
    """

    key: Text
    tables: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    model: Text | None = None
    tasks: dict[str, str] = Field(default_factory=dict)
    arms: dict[str, str] = Field(default_factory=dict)
    differs: Text | None = None


@dataclass(frozen=True)
class Pair:
    """A published row and where our value for it stands.

    Attributes:
        row: the published number.
        bibkey: of its paper.
        label: arm of the run.
        column: column of summary.csv.
        comparable: `yes` only if neither the row nor the suite says otherwise.
        reason: why, or why not.
    """

    row: Row
    bibkey: str
    label: str
    column: str
    comparable: str
    reason: str


def select(beside: Sequence[Beside]) -> list[PublishedPart]:
    """Return what a suite puts beside its results, as JSON values for run.json: head, entry and rows of each paper.

    Raises:
        BadInput: a paper, table, model, task or setting that is not there.
    """
    return [
        {"paper": load(entry.key).head(), "beside": entry.model_dump(mode="json"), "rows": _chosen(i, entry)}
        for i, entry in enumerate(beside)
    ]


def _chosen(place: int, entry: Beside) -> list[Json]:
    paper = load(entry.key)
    where = f"published.{place}"
    for table in entry.tables or ():
        if table not in paper.tables:
            raise BadInput(f"{where}.tables: {entry.key} has no table {table!r}; {near(table, paper.tables)}")
    rows = [row for row in paper.rows if entry.tables is None or row.table in entry.tables]
    if entry.model is not None:
        models = dict.fromkeys(row.model for row in rows)
        if entry.model not in models:
            raise BadInput(f"{where}.model: {entry.key} has no rows of {entry.model!r}; {near(entry.model, models)}")
        rows = [row for row in rows if row.model == entry.model]
    for key, wanted, known in (
        ("tasks", entry.tasks, {row.task for row in rows}),
        ("arms", entry.arms.values(), {row.setting for row in rows}),
    ):
        for name in wanted:
            if name not in known:
                raise BadInput(f"{where}.{key}: {entry.key} has no {name!r} there; {near(name, sorted(known))}")
    return [row.model_dump(mode="json") for row in rows]


def rows(run: RunRecord) -> list[tuple[str, Row]]:
    """Return the published rows that a run.json carries, each with the bibkey of its paper."""
    return [
        (found["paper"]["bibkey"], Row.model_validate(row))
        for found in run.get("published") or ()
        for row in found["rows"]
    ]


def alone(run: RunRecord, key: str) -> list[tuple[str, Row]]:
    """The rows of a paper for arms of this run that nothing here stands beside, each with the arm's label."""
    beside = {(pair.label, pair.row) for pair in pairs(run) if pair.bibkey == key}
    found = []
    for part in run.get("published") or ():
        if part["paper"]["bibkey"] != key:
            continue
        entry = Beside.model_validate(part["beside"])
        rows_ = [Row.model_validate(values) for values in part["rows"]]
        found += [
            (label, row)
            for label, setting in entry.arms.items()
            for row in rows_
            if row.setting == setting and (label, row) not in beside
        ]
    return found


def pairs(run: RunRecord) -> list[Pair]:
    """Return which published row stands beside which arm and column of summary.csv, in the order of the papers' tables.

    A row whose batch size is stated belongs beside our cell of that size, see `Row.batch_size`; else any may stand there.
    """
    found = []
    for part in run.get("published") or ():
        entry = Beside.model_validate(part["beside"])
        for values in part["rows"]:
            row = Row.model_validate(values)
            column, ours = COLUMNS.get(row.metric), entry.tasks.get(row.task)
            if column is None or (entry.tasks and ours is None):
                continue
            if ours is None and row.metric != "layers_per_token" and "{task}" in column:
                continue
            # A suite without tasks counts the layers of its timed tokens.
            column = column.format(task=ours) if ours else column.removeprefix("{task}/")
            comparable = "no" if entry.differs else row.comparable
            reason = "; ".join(dict.fromkeys(filter(None, (entry.differs, row.reason))))
            found += [
                Pair(row, part["paper"]["bibkey"], label, column, comparable, reason)
                for label, setting in entry.arms.items()
                if setting == row.setting
            ]
    return found
