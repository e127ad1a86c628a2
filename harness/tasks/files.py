"""Rows of data sets: local CSV or JSON-lines files, plain or gzipped, and hub data sets. Every error names its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput

Fields = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a task's rows come from.

    Attributes:
        task: name of the task, also that of its folder under ``--data``.
        columns: what a row must hold, in the order rows are yielded in; none of it may be blank.
        files: file names to look for, by split; each may be gzipped.
        hub: hub data set.
        config: its configuration; None: the only one.
        revision: branch, tag or commit; None: the newest.
        hub_columns: its names for `columns`.
        hub_splits: its names for the splits where they differ.
        rows: rows of each split of the hub data set as its card gives them, for plans made without the data.
    """

    task: str
    columns: tuple[str, ...]
    files: dict[str, tuple[str, ...]]
    hub: str
    hub_columns: tuple[str, ...]
    rows: dict[str, int]
    config: str | None = None
    revision: str | None = None

    def local(self, data: Path, split: str) -> Path:
        """The file of a split under ``data``; BadInput where there is none."""
        names = [name + suffix for name in self.files[split] for suffix in ("", ".gz")]
        for folder in (data / self.task, data):
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        raise BadInput(
            f"task {self.task}: no {split} file in {data / self.task} or {data}; put {self.files[split][0]} there "
            f"(columns {','.join(self.columns)}), or leave --data out to use the hub"
        )

    def read(self, data: Path | None, split: str) -> Iterator[tuple[str, Fields]]:
        """Yield (place, the columns) of every row, from ``data`` or, where it is None, from the hub."""
        return self._hub_rows(split) if data is None else table_rows(self.local(data, split), self.columns)

    def _hub_rows(self, split: str) -> Iterator[tuple[str, Fields]]:
        try:
            from datasets import load_dataset

            rows = list(load_dataset(self.hub, self.config, revision=self.revision, split=split))
        except Exception as error:  # the library's failures have many types; all mean that the data cannot be had
            why = " ".join(str(error).split())[:120]
            raise BadInput(
                f"task {self.task}: hub data set {self.hub} cannot be had ({type(error).__name__}: {why}); give local files "
                f"with --data DIR, DIR/{self.task}/{self.files[split][0]} with columns {','.join(self.columns)}"
            ) from None
        for number, row in enumerate(rows):
            fields = tuple(str(row[name]) for name in self.hub_columns)
            if all(field.strip() for field in fields):
                yield f"hub data set {self.hub}, {split} row {number}", fields


def table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield (file and line, the columns) of each row of a CSV or JSON-lines file.

    Raises:
        BadInput: the file cannot be read, lacks a column, or a row is malformed; one line that names the place.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read ({error}); copy the file again") from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1 if path.suffix != ".gz" else "?"
        raise BadInput(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    wanted = ",".join(columns)
    read = _json_rows if ".jsonl" in path.suffixes else _csv_rows
    count = 0
    for place, fields in read(path, text, columns):
        for column, field in zip(columns, fields, strict=True):
            if not field.strip():
                raise BadInput(f"{place}: {column} is empty; expected text in every one of {wanted}")
        count += 1
        yield place, fields
    if not count:
        raise BadInput(f"{path}: has a header but no rows; expected rows of {wanted}")


def _csv_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    wanted = ",".join(columns)
    # Strict: a quote that is never closed would otherwise swallow all rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise BadInput(f"{path}: is empty; its first line should be {wanted}")
        missing = [column for column in columns if column not in header]
        if missing:
            raise BadInput(f"{path}, line 1: no column {missing[0]!r}; its first line should be {wanted}")
        places = [header.index(column) for column in columns]
        for fields in reader:
            if not fields:
                continue
            place = f"{path}, line {reader.line_num}"
            if len(fields) != len(header):
                raise BadInput(f"{place}: {len(fields)} fields; expected {len(header)}, as in line 1")
            yield place, tuple(fields[i] for i in places)
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}; expected CSV with columns {wanted}") from None


def _json_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    # Line feeds alone: a text may hold other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{place}: not JSON ({error}); expected one object a line") from None
        missing = [c for c in columns if not isinstance(row, dict) or not isinstance(row.get(c), str)]
        if missing:
            raise BadInput(f"{place}: no text {missing[0]!r}; expected an object with {','.join(columns)}")
        yield place, tuple(row[c] for c in columns)
