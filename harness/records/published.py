"""What papers printed, as data: `harness/published/<bibkey>.yaml`, one file per paper. Torch-free.

A file holds the bibliographic head, how its numbers were read, and tables of rows. Nothing in it was measured or computed here.
What stands beside a run's own results is `harness.records.beside`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, ValidationError, model_validator

from harness import settings
from harness.errors import BadInput, near
from harness.records.run_record import PaperHead
from harness.validation import Frozen, Text

FOLDER = Path(__file__).resolve().parents[1] / "published"
"""Part of the package, so that a suite that names a paper runs where only the package is installed."""

Json = dict[str, Any]

NOT_STATED = "not stated"

COLUMNS = {
    "bleu": "{task}/bleu",
    "rouge1": "{task}/rouge1",
    "rouge2": "{task}/rouge2",
    "rougeL": "{task}/rougeL",
    "bertscore": "{task}/bertscore",
    "layers_per_token": "{task}/layers_per_token",
    "flops_ratio": "flops_ratio",
    "speedup": "speedup",
    "tokens_per_s": "tokens_per_s",
    "throughput": "tokens_per_s",
    "accuracy": "{task}/acc",
}
"""Published metric -> the column of summary.csv that stands beside it; a metric that is not here has none. `throughput` is a
paper's own count of tokens per second: its rows say what they count."""


class Reading(Frozen):
    """How numbers were read.

    Attributes:
        kind: `primary`: the paper's own text, table or table image, or its authors' code; `secondary`: somebody's account of it.
        what: the document that was read.
        where: its address, with the version where it has one.
    """

    kind: Literal["primary", "secondary"]
    what: Text
    where: Text


class Row(Frozen):
    """One printed number with everything that belongs to it.

    Attributes:
        table: name of the table in the file.
        printed_as: number of the table in the paper, or `not stated`.
        model: as printed, with the depth where it is known.
        task: data set.
        setting: the arm as the paper calls it.
        method: the name under which this project registers the method; None: it has none.
        target: target speed-up that the paper asked for; None where the row has none.
        batch_size: rows decoded together; None: not stated.
        metric: name of the quantity; one of `COLUMNS` where the project measures it too.
        value: as printed.
        unit: of the value.
        divides_by: for a ratio, what stands above and below; None for anything else.
        conditions: hardware, decoding and data as printed, or `not stated`.
        source: `primary` or `secondary`, see `Reading`.
        read_from: key of the reading.
        comparable: whether a run here can measure the same quantity under the same conditions.
        reason: why, or why not.
        note: what else is known of this number, such as a doubt.
    """

    table: Text
    printed_as: Text
    model: Text
    task: Text
    setting: Text
    method: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    target: Annotated[float, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    metric: Text
    value: Annotated[float, Field(allow_inf_nan=False)]
    unit: Text
    divides_by: Text | None
    conditions: Text
    source: Literal["primary", "secondary"]
    read_from: Text
    comparable: Literal["yes", "no"]
    reason: Text
    note: Text | None = None


class Paper(Frozen):
    """One paper with its numbers.

    Attributes:
        bibkey: name of the file.
        title: of the paper.
        authors: as printed, in order.
        year: of the version read.
        venue: where it appeared.
        arxiv: identifier without prefix; None: there is none.
        url: of the paper.
        code: repository of the authors; None: none is known.
        readings: how the numbers were read, by short name.
        notes: what a reader of the numbers must know.
        rows: every number.
    """

    bibkey: Text
    title: Text
    authors: tuple[Text, ...] = Field(min_length=1)
    year: Annotated[int, Field(strict=True, ge=1990)]
    venue: Text
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    url: Annotated[str, Field(pattern=r"^https://")]
    code: Text | None = None
    readings: dict[str, Reading] = Field(min_length=1)
    notes: tuple[Text, ...] = ()
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, given: Any) -> Any:
        """Turn the file's `tables` into rows: what a table says once holds for all its rows."""
        if not isinstance(given, dict) or "rows" in given:
            return given
        tables = given.get("tables")
        if not isinstance(tables, dict) or not tables:
            raise ValueError("tables: is missing or empty; give at least one table with rows")
        readings = given.get("readings")
        readings = readings if isinstance(readings, dict) else {}
        rows = [row for name, table in tables.items() for row in _rows(str(name), table, readings)]
        return {key: value for key, value in given.items() if key != "tables"} | {"rows": rows}

    @model_validator(mode="after")
    def _no_number_twice(self) -> Self:
        seen: set[tuple[Any, ...]] = set()
        for row in self.rows:
            key = (row.table, row.model, row.task, row.setting, row.target, row.batch_size, row.metric)
            if key in seen:
                raise ValueError(
                    f"tables.{row.table}: {row.model}, {row.task}, {row.setting}: {row.metric} is given twice"
                )
            seen.add(key)
        return self

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(dict.fromkeys(row.table for row in self.rows))

    def head(self) -> PaperHead:
        """The bibliographic head as JSON values."""
        return cast(PaperHead, self.model_dump(mode="json", exclude={"rows"}))


_SHARED = (
    "printed_as",
    "model",
    "task",
    "setting",
    "method",
    "target",
    "batch_size",
    "conditions",
    "comparable",
    "reason",
)
_PER_METRIC = ("unit", "divides_by", "comparable", "reason", "batch_size")


def _rows(name: str, table: Any, readings: Mapping[str, Any]) -> Iterable[Json]:
    """The rows of one table of a file.

    A table gives what its rows share, `metrics` (unit and divisor of each) and `rows`; a row gives what is its own and
    `values`, one number per metric.
    """
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list):
        raise ValueError(f"tables.{name}: give a mapping with metrics and rows")
    metrics = table.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ValueError(f"tables.{name}: metrics: is missing; say unit and divides_by of every metric")
    known = {*_SHARED, "read_from", "metrics", "rows"}
    if unknown := sorted(set(table) - known):
        raise ValueError(f"tables.{name}: unknown key {unknown[0]!r}; {near(unknown[0], sorted(known))}")
    shared = {key: table[key] for key in _SHARED if key in table}
    reading = readings.get(str(table.get("read_from")))
    if not isinstance(reading, dict):
        raise ValueError(f"tables.{name}: read_from: is not one of the readings {', '.join(readings) or '(none)'}")
    for place, row in enumerate(table["rows"]):
        where = f"tables.{name}.rows.{place}"
        if not isinstance(row, dict) or not isinstance(row.get("values"), dict) or not row["values"]:
            raise ValueError(f"{where}: give a mapping with values")
        for metric, value in row["values"].items():
            if metric not in metrics:
                raise ValueError(f"{where}: metric {metric!r} is not described; {near(metric, metrics)}")
            described = {key: metrics[metric][key] for key in _PER_METRIC if key in metrics[metric]}
            if set(metrics[metric]) - set(_PER_METRIC):
                raise ValueError(f"tables.{name}.metrics.{metric}: known keys are {', '.join(_PER_METRIC)}")
            own = {key: given for key, given in row.items() if key != "values"}
            yield {
                "printed_as": NOT_STATED,
                "conditions": NOT_STATED,
                "divides_by": None,
                **shared,
                **described,
                **own,
                "table": name,
                "metric": metric,
                "value": value,
                "source": reading.get("kind"),
                "read_from": table["read_from"],
            }


def bibkeys() -> tuple[str, ...]:
    """Return the bibkeys there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@lru_cache(maxsize=64)
def load(key: str) -> Paper:
    """Return the paper of a bibkey.

    Raises:
        BadInput: no such paper, or its file is not what the schema says; the message names file and field.
    """
    if key not in bibkeys():
        raise BadInput(f"published: {key!r} is not known; {near(key, bibkeys())}")
    return read(FOLDER / f"{key}.yaml")


def read(path: Path) -> Paper:
    """Return the paper in a file; BadInput as for `load`."""
    values = settings.read(path, "a paper has a head, readings and tables")
    try:
        return Paper.model_validate({"bibkey": path.stem, **values})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first.get("ctx", {}).get("error") or first["msg"])
        raise BadInput(f"{path}: {where + ': ' if where else ''}{message}") from None
