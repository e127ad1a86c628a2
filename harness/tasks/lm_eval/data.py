"""Local files instead of the hub, for lm-eval's own task definitions.

A task definition names a data set (`dataset_path`, `dataset_name`) and loads it with `datasets.load_dataset`. While tasks are being
loaded with `--data DIR`, that call is answered from `DIR/lm_eval/<folder>` or `DIR/<folder>`; nothing else of a task is touched.

Any data set: `<folder>` is its name after the slash, in it `<config>/` if there is one, and one file per split,
`<split>.jsonl`, `.json`, `.csv` or `.parquet` (the first two may be gzipped), rows as the hub has them. The data sets of
`READERS` are read from the files of their authors. A task that names files itself (`dataset_path: json` with `data_files`) reads
those.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput

Row = Mapping[str, Any]
Splits = Mapping[str, Sequence[Row]]
FORMATS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")


class NoLocalFile(Exception):
    """There is no local file for a data set; the message says which would be right."""


@contextlib.contextmanager
def local_data(data: Path | None) -> Iterator[list[str]]:
    """Inside, data sets are loaded from the folder; without one, from the hub as ever.

    lm-eval reads the split that few-shot examples come from even where it draws none, so a split without a file is an empty one.

    Yields:
        What was asked for and is not there, as ends of sentences that say how to give it; filled as tasks load and run.

    Raises:
        BadInput: a data set cannot be had; the message names it and says how to give it locally.
    """
    import datasets

    original = datasets.load_dataset
    absent: list[str] = []

    class Local(datasets.DatasetDict):  # type: ignore[misc]
        what = ""

        def __missing__(self, split: str) -> Any:
            absent.append(f"{self.what} has no split {split!r} in {data}")
            return next(iter(self.values())).select([])

    def load(path: Any = None, name: Any = None, *arguments: Any, **settings: Any) -> Any:
        what = f"data set {path}" if name in (None, "default") else f"data set {path} ({name})"
        if data is None or _names_files(path):
            try:
                return original(path, name, *arguments, **settings)
            except Exception as error:  # the library's failures have many types; all mean that the data cannot be had
                why = " ".join(str(error).split())[:160]
                if _names_files(path):
                    files = (settings.get("data_files"), settings.get("data_dir"))
                    given = next((value for value in files if value is not None), "no data_files")
                    raise BadInput(f"{what} of {given}: cannot be read ({type(error).__name__}: {why})") from None
                raise BadInput(
                    f"{what} cannot be had from the hub ({type(error).__name__}: {why}); {how_to_give(path, name)}"
                ) from None
        splits = read(data, str(path), None if name is None else str(name))
        found = {split: datasets.Dataset.from_list(list(rows)) for split, rows in splits.items()}
        split = settings.get("split")
        local = Local(found)
        local.what = what
        return local[split] if split else local

    datasets.load_dataset = load
    try:
        yield absent
    finally:
        datasets.load_dataset = original


def _names_files(path: Any) -> bool:
    """Whether a data set is a reader of files that the task itself names (json, csv, parquet, ...), or a folder that is there."""
    from datasets import packaged_modules

    named = str(path)
    return named in packaged_modules._PACKAGED_DATASETS_MODULES or (named[:1] in "./~" and Path(named).is_dir())


def how_to_give(path: Any, name: Any) -> str:
    """How a user gives a data set locally, as the end of an error."""
    reader = READERS.get(str(path))
    if reader is not None:
        return f"give it with --data DIR: {reader.files(name)} in DIR/lm_eval/{reader.folder}"
    inner = "" if name in (None, "default") else f"/{name}"
    return f"give it with --data DIR: DIR/lm_eval/{_folder(path)}{inner}/<split>.jsonl, rows as the hub has them"


def read(data: Path, path: str, name: str | None) -> Splits:
    """The splits of a data set in local files.

    Raises:
        BadInput: there is none, or one cannot be read.
    """
    reader = READERS.get(path)
    folders = [data / "lm_eval", data]
    tried: list[Callable[[Path], Splits]] = []
    names = [_folder(path)]
    if reader is not None:
        names = [reader.folder, *names]
        tried.append(lambda folder: reader.read(folder, name))
    tried.append(lambda folder: _generic(folder, name))
    for parent in folders:
        for folder in dict.fromkeys(names):
            if not (parent / folder).is_dir():
                continue
            for attempt in tried:
                with contextlib.suppress(NoLocalFile):
                    return attempt(parent / folder)
    what = path if name in (None, "default") else f"{path} ({name})"
    raise BadInput(
        f"data set {what}: no local file in {data}; {how_to_give(path, name)}, or leave --data out to use the hub"
    )


def _folder(path: Any) -> str:
    return str(path).rpartition("/")[2]


def _generic(folder: Path, name: str | None) -> Splits:
    inside = folder / name if name and (folder / name).is_dir() else folder
    found: dict[str, list[Row]] = {}
    for file in sorted(inside.iterdir()):
        ending = next((end for end in FORMATS if file.name.endswith(end)), None)
        if ending is not None and file.is_file():
            found[file.name.removesuffix(ending)] = rows(file)
    if not found:
        raise NoLocalFile
    return found


def rows(file: Path) -> list[Row]:
    """The rows of a file in one of `FORMATS`; BadInput with file and line if it cannot be read."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_table(file).to_pylist())
        except (OSError, ValueError) as error:
            raise BadInput(f"{file}: cannot be read ({error}); copy the file again") from None
    text = _text(file)
    if ".csv" in file.suffixes:
        return list(csv.DictReader(text.splitlines(keepends=True)))
    if ".json" in file.suffixes:
        return [_object(file, 1, row) for row in _parsed(file, 1, text)]
    return [
        _object(file, n, _parsed(file, n, line)) for n, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
        return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file}: cannot be read ({error}); copy the file again") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8; save the file as UTF-8") from None


def _parsed(file: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"{file}, line {line}: not JSON ({error}); copy the file again") from None


def _object(file: Path, line: int, row: Any) -> Row:
    if not isinstance(row, dict):
        raise BadInput(f"{file}, line {line}: not an object; every row is one, with the data set's fields")
    return row


class Reader:
    """How a data set's own files become what the hub has.

    Args:
        folder: where its files are.
        files: given the config, the names of the files, as an error names them.
        read: given folder and config, the splits; raises NoLocalFile where the files are not there.
    """

    def __init__(
        self, folder: str, files: Callable[[str | None], str], read: Callable[[Path, str | None], Splits]
    ) -> None:
        self.folder, self.files, self.read = folder, files, read


def _existing(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise NoLocalFile


def _blimp(folder: Path, name: str | None) -> Splits:
    return {"train": rows(_existing(folder, f"{name}.jsonl"))}


def _lambada(folder: Path, name: str | None) -> Splits:
    if name not in (None, "default", "en"):
        raise NoLocalFile
    return {"test": rows(_existing(folder, "lambada_test.jsonl"))}


def _truthfulqa(folder: Path, name: str | None) -> Splits:
    """The authors' multiple choice file has {answer: 0 or 1}; the hub has lists of choices and labels."""
    if name == "generation":
        return {"validation": _truthfulqa_generation(_existing(folder, "TruthfulQA_v1.csv", "TruthfulQA.csv"))}
    file = _existing(folder, "mc_task_v1.json", "mc_task.json")
    keys = ("mc1_targets", "mc2_targets")
    found: list[Row] = []
    for n, row in enumerate(rows(file)):
        if not all(isinstance(row.get(key), dict) for key in keys):
            raise BadInput(f"{file}, entry {n}: lacks mc1_targets or mc2_targets; copy the file again")
        lists = {key: {"choices": list(row[key]), "labels": list(row[key].values())} for key in keys}
        found.append({"question": row["question"], **lists})
    return {"validation": found}


def _truthfulqa_generation(file: Path) -> list[Row]:
    columns = {"type": "Type", "category": "Category", "question": "Question", "best_answer": "Best Answer"}
    lists = {"correct_answers": "Correct Answers", "incorrect_answers": "Incorrect Answers"}
    found: list[Row] = []
    for row in rows(file):
        answers = {new: [part.strip() for part in row[old].split(";") if part.strip()] for new, old in lists.items()}
        found.append({**{new: row[old] for new, old in columns.items()}, **answers, "source": row["Source"]})
    return found


def _wikitext(folder: Path, name: str | None) -> Splits:
    """One document per article, divided as the hub's loading script does: before every heading of the first level."""
    stems = {"test": "wiki.test", "validation": "wiki.valid", "train": "wiki.train"}
    kind = "raw" if name is None or name.endswith("raw-v1") else "tokens"
    found = {
        split: [{"page": page} for page in pages(_text(folder / f"{stem}.{kind}"))]
        for split, stem in stems.items()
        if (folder / f"{stem}.{kind}").is_file()
    }
    if not found:
        raise NoLocalFile
    return found


_HEADING = re.compile(r"= [^=].* =")


def pages(text: str) -> list[str]:
    """Articles of a WikiText file."""
    found: list[str] = []
    lines: list[str] = []
    for line in text.split("\n"):
        if _HEADING.fullmatch(line.replace("= = =", "===").replace("= =", "==").strip()):
            found.append("\n".join(lines))
            lines = []
        lines.append(line)
    return [page for page in (*found, "\n".join(lines)) if page.strip()]


READERS: dict[str, Reader] = {
    "nyu-mll/blimp": Reader("blimp", lambda name: f"{name}.jsonl", _blimp),
    "EleutherAI/lambada_openai": Reader("lambada", lambda name: "lambada_test.jsonl", _lambada),
    "truthfulqa/truthful_qa": Reader(
        "truthfulqa", lambda name: "TruthfulQA_v1.csv" if name == "generation" else "mc_task_v1.json", _truthfulqa
    ),
    "EleutherAI/wikitext_document_level": Reader("wikitext2", lambda name: "wiki.test.raw", _wikitext),
}
"""Data sets whose authors' files differ from what the hub has."""
