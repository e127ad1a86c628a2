"""E2E NLG challenge: one to three sentences about a restaurant from its meaning representation (crowd-sourced references)."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from harness.errors import BadInput
from harness.tasks.base import Example, Task, check_request, collapse, parse_mr
from harness.tasks.e2e_slots import states
from harness.tasks.metrics import Bleu, Metric, RougeL, SlotErrorRate

# The official release's names, and those of its tokenised copies; each may be gzipped.
FILES = {
    "train": ("train.csv", "trainset.csv"),
    "validation": ("dev.csv", "devset.csv", "validation.csv"),
    "test": ("test.csv", "testset_w_refs.csv"),
}
HUB = "tuetschek/e2e_nlg"
# The repository itself holds a loading script, which today's `datasets` refuses; the hub keeps a converted copy here.
HUB_REVISION = "refs/convert/parquet"
_COLUMNS = ("mr", "ref")


class E2E(Task):
    """Restaurant descriptions; every meaning representation with all its references.

    Read from the official CSV files (columns `mr,ref`) under ``--data``, else from the hub data set `e2e_nlg`.
    """

    name: ClassVar[str] = "e2e"
    description: ClassVar[str] = "E2E NLG challenge: restaurant descriptions from meaning representations"
    source: ClassVar[str] = "Novikova, Dusek, Rieser, SIGDIAL 2017, arXiv:1706.09254; CC BY-SA 4.0"
    max_new_tokens: ClassVar[int] = 96

    def examples(self, split: str, limit: int | None = None) -> list[Example]:
        """Return the examples of ``split``; see Task. Meaning representations come in order of first appearance."""
        check_request(split, limit)
        rows = _hub_rows(split) if self.data is None else _csv_rows(_find(self.data, split))
        references: dict[str, list[str]] = {}
        slots: dict[str, tuple[tuple[str, str], ...]] = {}
        for place, raw_mr, reference in rows:
            mr = collapse(raw_mr)
            if mr not in slots:
                try:
                    slots[mr] = parse_mr(mr)
                except ValueError as error:
                    message = f"{place}: {error}; a meaning representation reads slot[value], slot[value]"
                    raise BadInput(message) from None
            references.setdefault(mr, []).append(collapse(reference))
        chosen = list(references)[:limit]
        return [
            Example(f"e2e-{split}-{i:04d}", f"{mr}\n", tuple(references[mr]), slots[mr]) for i, mr in enumerate(chosen)
        ]

    def metrics(self) -> tuple[Metric, ...]:
        """Return BLEU, ROUGE-L and slot error rate."""
        return Bleu(), RougeL(), SlotErrorRate(states)


def _find(data: Path, split: str) -> Path:
    names = [name + suffix for name in FILES[split] for suffix in ("", ".gz")]
    for folder in (data / "e2e", data):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise BadInput(
        f"task e2e: no {split} file in {data / 'e2e'} or {data}; put {FILES[split][0]} there (columns mr,ref), "
        "or leave --data out to use the hub"
    )


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (file and line, meaning representation, reference) of each row."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read ({error}); copy the official file again") from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1 if path.suffix != ".gz" else "?"
        raise BadInput(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    # Strict: a quote that is never closed would otherwise swallow all rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, None)
    if header is None:
        raise BadInput(f"{path}: is empty; its first line should be mr,ref")
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise BadInput(f"{path}, line 1: no column {missing[0]!r}; its first line should be mr,ref")
    mr, ref = (header.index(column) for column in _COLUMNS)
    count = 0
    try:
        for fields in reader:
            if not fields:
                continue
            place = f"{path}, line {reader.line_num}"
            if len(fields) != len(header):
                raise BadInput(f"{place}: {len(fields)} fields; expected {len(header)}, as in line 1")
            for column, field in (("mr", fields[mr]), ("ref", fields[ref])):
                if not field.strip():
                    raise BadInput(f"{place}: {column} is empty; expected a meaning representation and a reference")
            count += 1
            yield place, fields[mr], fields[ref]
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}; expected CSV with columns mr,ref") from None
    if not count:
        raise BadInput(f"{path}: has a header but no rows; expected mr,ref pairs")


def _hub_rows(split: str) -> Iterator[tuple[str, str, str]]:
    try:
        from datasets import load_dataset

        rows = list(load_dataset(HUB, revision=HUB_REVISION, split=split))
    except Exception as error:  # the library's failures have many types; all mean that the data cannot be had
        why = " ".join(str(error).split())[:120]
        raise BadInput(
            f"task e2e: hub data set {HUB} cannot be had ({type(error).__name__}: {why}); "
            f"give local files with --data DIR, DIR/e2e/{FILES[split][0]} with columns mr,ref"
        ) from None
    for number, row in enumerate(rows):
        yield f"hub data set {HUB}, {split} row {number}", row["meaning_representation"], row["human_reference"]
